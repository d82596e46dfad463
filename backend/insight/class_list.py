"""How well the version that ranks knows each class, and what its confidence is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from backend.ledger import Version
from backend.ledger.shapes import Interval, Metrics, Mistaken


@dataclass(frozen=True)
class ClassRow:
    """A class of a version.

    Attributes:
        images: labelled images that show it; None of a version of an earlier release.
        iou, dice: on labelled images, each judged by a member that never saw it; None for a class
            that nothing showed.
        audit: Dice on the audit images.
        worst, best: task and Dice of the labelled images of the class that are predicted worst and
            best; of none where they were not kept.
    """

    name: str
    images: int | None
    iou: float | None
    dice: float | None
    audit: Interval | None
    worst: Sequence[tuple[int, float]]
    best: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Reliability:
    """Pixels of about one confidence.

    Attributes:
        confidence: their mean probability of the class that won, 0 to 1.
        right: the share of them in which that class was right.
    """

    confidence: float
    right: float
    pixels: int


@dataclass(frozen=True)
class ClassList:
    """The classes of a version, the weakest first, and its calibration.

    Attributes:
        confusion: what was predicted as another class, most pixels first; None where it was not
            kept.
        ece, ece_uncalibrated: expected calibration error, 0 to 1, and what it would be without
            calibration.
    """

    version: int
    classes: Sequence[ClassRow]
    reliability: Sequence[Reliability]
    confusion: Sequence[Mistaken] | None
    ece: float | None
    ece_uncalibrated: float | None


def class_list(version: Version) -> ClassList:
    """What the metrics of a version say of its classes."""
    metrics = version.metrics
    counts, audit = metrics.get("labelled_images") or {}, metrics.get("audit")
    iou, dice = metrics.get("iou") or {}, metrics.get("dice") or {}
    rows = [
        ClassRow(
            name=name,
            images=counts.get(name),
            iou=iou.get(name),
            dice=dice.get(name),
            audit=None if audit is None else audit["dice"].get(name),
            worst=_tasks(metrics, name, "worst"),
            best=_tasks(metrics, name, "best"),
        )
        for name in version.classes[1:]
    ]
    return ClassList(
        version=version.number,
        classes=sorted(rows, key=lambda row: 1.0 if row.iou is None else row.iou),
        reliability=[Reliability(*bin_) for bin_ in metrics.get("reliability") or () if bin_[2]],
        confusion=metrics.get("confusion"),
        ece=metrics.get("ece"),
        ece_uncalibrated=metrics.get("ece_uncalibrated"),
    )


def _tasks(metrics: Metrics, name: str, end: Literal["worst", "best"]) -> list[tuple[int, float]]:
    found = metrics.get("class_examples", {}).get(name)
    return [] if found is None else [(int(key), dice) for key, dice in found[end]]
