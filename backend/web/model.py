"""The model class that Label Studio's protocol speaks to: hooks that read like a table of contents.

Label Studio's base class is built anew for every request, so nothing lasting lives on ``self``;
``bind`` gives the class its workplace once a process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backend.errors import BackendError, BadRequest, StudioRefused, StudioUnreachable
from backend.ledger import NO_VERSION, Project, Publication
from backend.predict import image_url, label_config_of, pre_annotate, read_image
from backend.rounds.fallback import load_whole
from backend.rounds.ranking import outside_score
from backend.rounds.schedule import PREDICT_REST
from backend.workplace import Workplace

if TYPE_CHECKING:

    class LabelStudioMLBase:
        """What both 1.x and 2.x of label-studio-ml give; theirs carries no types."""

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

else:
    try:
        from label_studio_ml.model import LabelStudioMLBase
    except ImportError:

        class LabelStudioMLBase:
            """Stands in where label-studio-ml is not installed: the web needs none of it."""

            def __init__(self, *args, **kwargs):
                pass


log = logging.getLogger(__name__)

PREDICT_WITHIN_S = 80.0
"""Label Studio waits 100 s for /predict; what has not been looked at by then is queued."""

REST_TASKS = 50
"""Queued as one job, of a minute or two: a round's part may have to wait for it."""

UNTRAINED = "untrained"
"""The model_version that /setup reports before anything serves."""

Prediction = dict[str, Any]

_looking = threading.Lock()
"""One inference at a time in a process: two would only share its threads and memory."""


class CommitteeModel(LabelStudioMLBase):
    """The committee as a label-studio-ml model, of either generation.

    1.x calls ``cls(label_config=..., ...)`` and ``fit((), event=..., data=...)``, 2.x
    ``cls(project_id, label_config=...)`` and ``fit(event, data)``.
    """

    work: Workplace

    @classmethod
    def bind(cls, work: Workplace) -> type[CommitteeModel]:
        """A class of this model that works in ``work``."""
        return type("CommitteeModel", (cls,), {"work": work})

    def setup(self, project: Project) -> str:
        """The serving publication's name; loads nothing, since Label Studio waits 3 s."""
        serving = self.work.ledger.publications.serving(project.id)
        return UNTRAINED if serving is None else str(serving.name)

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], project: Project | None = None, **_: Any
    ) -> list[list[Prediction]]:
        """A list of predictions for each task, in order; [] where nothing can be claimed.

        Args:
            tasks: Label Studio's tasks, each with ``id`` and ``data``.
            project: the ledger's row; by default that of the first task's project.
        """
        if not tasks:
            return []
        if project is None:
            project = self._project_of(tasks[0])
        serving = self.work.ledger.publications.serving(project.id)
        if serving is None:
            return [[] for _ in tasks]  # nothing trained yet: nothing claimed
        return predict_tasks(
            self.work,
            project,
            serving,
            [(task["id"], task["data"]) for task in tasks],
            within_s=PREDICT_WITHIN_S,
        )

    def fit(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Write an event to the ledger; the workers' clock does the rest."""
        event = kwargs.get("event") or next((a for a in args if isinstance(a, str)), None)
        data = kwargs.get("data") or next((a for a in args if isinstance(a, Mapping)), None)
        if event is None or data is None:
            raise BadRequest("fit expects an event's name and its data.")
        return record_event(self.work, event, data)

    def _project_of(self, task: Mapping[str, Any]) -> Project:
        return self.work.ledger.projects.of_studio(self.work.server, int(task["project"]))


def predict_tasks(
    work: Workplace,
    project: Project,
    publication: Publication,
    tasks: Sequence[tuple[int, Mapping[str, Any]]],
    within_s: float | None = None,
) -> list[list[Prediction]]:
    """Look at tasks with the version that serves, or stands in for it.

    Args:
        tasks: (id, data) of each.
        within_s: after this many seconds the rest is answered ``[]`` (Label Studio saves that
            as nothing) and queued; so it is where Label Studio gives no images now.
    """
    if publication.version == NO_VERSION:
        return [[] for _ in tasks]  # an order, and no claim about what they show
    deadline = None if within_s is None else time.monotonic() + within_s
    options = work.options(project)
    config = label_config_of(project.label_config, options)
    committee = load_whole(work, project, publication.version)
    predictions: list[list[Prediction]] = []
    for task_id, data in tasks:
        wait_s = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if wait_s == 0.0 or not _looking.acquire(timeout=wait_s):
            break
        try:
            image = read_image(work.images, image_url(data, config))
            prediction = committee.predict(image)
            result = pre_annotate(prediction, committee.config.classes, config, options)
        except (StudioUnreachable, StudioRefused) as error:
            log.warning("task %s and those after it are looked at later: %s", task_id, error)
            break
        except BackendError as error:
            log.warning("no prediction for task %s: %s", task_id, error)
            predictions.append([])
        else:
            score = outside_score(prediction.arms, publication)
            predictions.append(
                [{"result": result, "score": score, "model_version": publication.name}]
            )
        finally:
            _looking.release()
    rest = [task_id for task_id, _ in tasks[len(predictions) :]]
    for first in range(0, len(rest), REST_TASKS):
        work.ledger.events.add(project.id, PREDICT_REST, rest[first : first + REST_TASKS])
    return predictions + [[] for _ in rest]


TEACHING = frozenset(
    {"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"}
)
POOL = frozenset({"TASKS_CREATED", "TASKS_DELETED"})
NOT_OURS = frozenset({"LABEL_LINK_CREATED", "LABEL_LINK_UPDATED", "LABEL_LINK_DELETED"})


def record_event(work: Workplace, action: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Write what a webhook said to the ledger: names and ids, before it is answered.

    Returns:
        What was done with it, for the answer.

    Raises:
        BadRequest: the body names no project.
        LedgerUnavailable: nothing was written; reconciliation will find it.
    """
    studio_project = data.get("project")
    studio_id, created = project_key(studio_project)
    project = work.ledger.projects.ensure(work.server, studio_id, created)
    if not project.connected:
        return {"ignored": "the project is not connected"}
    if action == "PROJECT_UPDATED":
        sent = studio_project if isinstance(studio_project, Mapping) else {}
        label_config = sent.get("label_config")
        if not isinstance(label_config, str) or label_config == project.label_config:
            return {"ignored": "nothing that matters here changed"}  # or our own PATCH
        work.ledger.projects.ensure(work.server, studio_id, created, label_config=label_config)
        ids: list[int] = []
    elif action in TEACHING:
        ids = ids_of(data.get("annotations", data.get("annotation")))
    elif action in POOL:
        ids = ids_of(data.get("tasks"))
    elif action == "START_TRAINING":
        ids = []
    elif action in NOT_OURS:
        return {"ignored": "links between labels do not concern training"}
    else:
        log.info("an action that is not known here was ignored: %s", action[:60])
        return {"ignored": f"{action[:60]} is not known here"}
    return {"event": work.ledger.events.add(project.id, action, ids)}


def ids_of(rows: Any) -> list[int]:
    """The ids of one object, or of a list of them; deletions carry nothing else."""
    if isinstance(rows, Mapping):
        rows = [rows]
    if not isinstance(rows, list):
        return []
    return [
        row["id"] for row in rows if isinstance(row, Mapping) and isinstance(row.get("id"), int)
    ]


def project_key(project: Any) -> tuple[int, int]:
    """Label Studio's id and creation time of a project, from any of the forms it sends.

    Args:
        project: "<id>.<created>" (setup, predict), or the project's own object (webhooks).

    Returns:
        id and unix seconds.

    Raises:
        BadRequest: it is neither.
    """
    try:
        if isinstance(project, str):
            number, created = project.split(".")
            key = int(number), int(created)
        elif isinstance(project, Mapping):
            stamp = datetime.fromisoformat(project["created_at"])
            key = int(project["id"]), int(stamp.timestamp())
        else:
            raise TypeError
        if 0 < key[0] < 2**63 and 0 <= key[1] < 2**63:  # what the ledger's columns hold
            return key
    except (ValueError, KeyError, TypeError, OverflowError):
        pass
    raise BadRequest(
        "project must be '<id>.<created>' or an object with id and created_at, "
        f"got {str(project)[:80]!r}."
    )
