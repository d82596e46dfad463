"""The order in which Label Studio serves a project's tasks: by our scores, or at random.

Rounds call this, so it keeps to the slim client.
"""

from __future__ import annotations

from backend.label_studio.bulk import Studio

TITLE = "Committee"
"""Title of our ML backend. Connecting one makes it the project's model_version."""

VIEW_TITLE = "Committee queue"

VERSION_PREFIX = "committee-v"
"""What a publication's model_version begins with."""

# Values of a project's ``sampling``.
BY_RANK = "Uncertainty sampling"
WITHOUT_MODEL = "Uniform sampling"

# Label Studio sends the lowest score first; NULLs come last. Only the first entry counts.
ORDERING = ["tasks:predictions_score"]

SHOWN = {"tasks:predictions_score", "tasks:annotators"}
"""Columns of the view, beside the images. None may tell which tasks are audits: people label
what they know to be tested otherwise."""


def set_order(studio: Studio, project_id: int, model_version: str | None) -> int:
    """Make Label Studio serve tasks in the order of ``model_version``'s scores, lowest first.

    Both settings go in one PATCH: sampling by the scores of a version that has none is silently
    random, and the former order must not meet the new version even for a moment. Without a model
    the order is uniformly random, on purpose.

    Args:
        model_version: must have predictions already (otherwise Label Studio refuses); None: no
            model.

    Returns:
        The id of the shared Data Manager view, which follows the same scores.
    """
    studio.update_project(
        project_id,
        model_version=model_version or "",
        sampling=BY_RANK if model_version else WITHOUT_MODEL,
    )
    return _queue_view(studio, project_id)


def _queue_view(studio: Studio, project_id: int) -> int:
    """The shared view in the queue's order; made when missing, mended when reordered."""
    for view in studio.views(project_id):
        data = view["data"]
        if data.get("title") == VIEW_TITLE:
            if data.get("ordering") != ORDERING:
                studio.update_view(view["id"], project_id, {**data, "ordering": list(ORDERING)})
            return int(view["id"])
    hidden = [name for name, kind in studio.columns(project_id) if not _shown(name, kind)]
    made = studio.create_view(
        project_id,
        {
            "title": VIEW_TITLE,
            "ordering": list(ORDERING),
            "hiddenColumns": {"explore": hidden, "labeling": hidden},
        },
    )
    return int(made["id"])


def _shown(name: str, kind: str) -> bool:
    return name in SHOWN or kind == "Image"
