"""A labelled image with its label, or with what a member predicted that never saw it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from backend.errors import BadRequest
from backend.insight.task_picture import shrunk, webp
from backend.ledger import Project, Version
from backend.rounds.retention import KEEP_MANIFESTS
from backend.workplace import Workplace

if TYPE_CHECKING:
    from training.examples import Example

LabelledLayer = Literal["label", "predicted"]


def labelled_picture(
    work: Workplace,
    project: Project,
    number: int,
    task_id: int,
    layer: LabelledLayer,
    max_side_px: int,
) -> bytes:
    """A labelled image at the network's resolution or smaller, with a mask over it: WebP.

    Args:
        number: of the version; "label" is the label that it was judged by, as far as it is kept.

    Raises:
        BadRequest: there is no such version, or what would be shown is not kept (any more).
    """
    from training.committee.checksums import DamagedVersion, UnknownVersion
    from training.committee.out_of_fold import NotPredicted, read_predicted
    from training.figures.overlay import as_rgb, overlay
    from training.images import nearest

    version = work.ledger.versions.get(project.id, number)
    if version is None:
        raise BadRequest(f"Project {project.studio_id} has no version {number}.")
    example = _example(work, project, version, task_id)
    if layer == "label":
        mask = example.mask
    else:
        try:
            mask = read_predicted(work.store.version_path(project.slug, number), str(task_id))
        except (NotPredicted, UnknownVersion, DamagedVersion) as error:
            raise BadRequest(
                f"Version {number} keeps no prediction of task {task_id} (any more)."
            ) from error
    small = shrunk(as_rgb(example.image), max_side_px)
    return webp(overlay(small, nearest(mask, small.shape[0], small.shape[1])))


def _example(work: Workplace, project: Project, version: Version, task_id: int) -> Example:
    """What a version was judged on; with a newer label where the former is kept no more."""
    from training.committee.registry import UnknownExample

    for digest in _digests(work, project, version, task_id):
        try:
            return work.registry.get_example(project.slug, digest)
        except UnknownExample:
            continue
    raise BadRequest(f"The image of task {task_id} is not kept any more.")


def _digests(work: Workplace, project: Project, version: Version, task_id: int) -> Iterator[str]:
    rounds = work.ledger.rounds
    own = rounds.get(version.round_id).manifest or []
    for manifest in (own, *rounds.newest_manifests(project.id, KEEP_MANIFESTS)):
        for entry in manifest:
            if entry["task"] == task_id and entry["digest"] is not None:
                yield entry["digest"]
