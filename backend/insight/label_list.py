"""The labels of a project that somebody should look at again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.insight.read_model import Json, to_json
from backend.ledger import Ledger, Project
from backend.ledger.shapes import AnnotatorPair, Result

SHOWN = 20
"""Contradicted labels of a page: as many as the measured precision is about."""

UNUSABLE = ("blurred", "blank")
"""``Place.why`` of the images that are likely of no use."""


@dataclass(frozen=True)
class CheckRow:
    """A label that is contradicted by a member that never saw it.

    Attributes:
        share: contradicted pixels over those that label or prediction call foreground, 0 to 1.
        pixels: share of the image's known pixels that is contradicted.
        labelled, predicted: the classes that most of them are of.
    """

    task: int
    share: float
    pixels: float
    labelled: str
    predicted: str


@dataclass(frozen=True)
class UnusableRow:
    """An image that is likely of no use; ``why`` is one of ``UNUSABLE``."""

    task: int
    why: str


@dataclass(frozen=True)
class LabelList:
    """What somebody should look at.

    Attributes:
        version: whose members were asked; None before the first, ``judged`` False where it keeps
            no such judgement: an earlier release made it, or it has a single member.
        classes: of that version, without the background.
        images: labelled ones that were judged.
        rows: the contradicted labels, the worst first.
        pairs: annotators who labelled the same tasks, the least alike first.
        unusable: tasks of the queue that serves, at its end.
    """

    version: int | None
    judged: bool
    classes: Sequence[str]
    images: int
    rows: Sequence[CheckRow]
    pairs: Sequence[AnnotatorPair]
    unusable: Sequence[UnusableRow]

    def to_json(self) -> Json:
        found: Json = to_json(self)
        return found


def label_list(ledger: Ledger, project: Project) -> LabelList:
    """What the version that ranks, the last training round and the queue say."""
    version = ledger.versions.promoted(project.id)
    metrics = {} if version is None else version.metrics
    serving = ledger.publications.serving(project.id)
    places = [] if serving is None else ledger.publications.placed_for(serving.id, UNUSABLE)
    return LabelList(
        version=None if version is None else version.number,
        judged="label_check" in metrics,
        classes=[] if version is None else version.classes[1:],
        images=len(metrics.get("scores", {})),
        rows=[
            CheckRow(
                int(each["key"]),
                each["share"],
                each["pixels"],
                each["labelled"],
                each["predicted"],
            )
            for each in metrics.get("label_check", ())
        ],
        pairs=collected(ledger, project.id).get("pairs", []),
        unusable=[UnusableRow(place.task_id, place.why) for place in places],
    )


def collected(ledger: Ledger, project_id: int) -> Result:
    """What the last training round that read the labels keeps of them."""
    for each in ledger.rounds.recent(project_id, 2, kind="train"):
        for result in ledger.parts.results(each.id, "collect"):
            return result
    return {}
