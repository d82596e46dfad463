"""Learning curves of a replay: what each round reached, as tables, JSON and CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.quality.metrics import Overlap

Quality = Mapping[str, float | None]

SECONDS = (
    "label",
    "wait",
    "collect",
    "judge",
    "fit",
    "assemble",
    "choose",
    "score",
    "publish",
    "test",
)
"""Where a round's time goes: labelling it, the wait for its start, its stages, testing."""


@dataclass(frozen=True)
class Point:
    """One round of a curve.

    Attributes:
        labels: tasks labelled when the round ran.
        made: the version that the round made.
        promoted: whether that one ranks now; if not, an earlier one was tested again.
        version: the version that was tested, the promoted one.
        publication: what serves after the round; None when the whole pool is labelled.
        iou: by class name, 0 to 1, over all pixels of the held-back images together; None for
            a class in neither truth nor prediction.
        dice: likewise.
        seconds: by ``SECONDS``.
        served: tasks that Label Studio chose for this round.
        mismatches: those of them that were not the head of the ledger's ranking.
    """

    round: int
    labels: int
    made: int
    promoted: bool
    version: int
    publication: str | None
    iou: Quality
    dice: Quality
    seconds: Mapping[str, float]
    served: int
    mismatches: int

    @property
    def mean_iou(self) -> float:
        return mean_of(self.iou)

    @property
    def mean_dice(self) -> float:
        return mean_of(self.dice)


@dataclass(frozen=True)
class Curve:
    """One order played in one project."""

    order: str
    project: int
    title: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class ReplayResult:
    """What a replay found; ``orders`` in the order they were played.

    Attributes:
        training: images that were uploaded.
        held_back: images that were kept for testing.
        deleted: the projects were deleted at the end.
    """

    folder: str
    classes: tuple[str, ...]
    training: int
    held_back: int
    deleted: bool
    curves: tuple[Curve, ...]

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        for curve, shown in zip(self.curves, found["curves"], strict=True):
            for point, fields in zip(curve.points, shown["points"], strict=True):
                fields |= {"mean_iou": point.mean_iou, "mean_dice": point.mean_dice}
        return found


def quality(overlap: Overlap, classes: Sequence[str]) -> tuple[Quality, Quality]:
    """(IoU, Dice) of each foreground class by name; None where there is nothing to judge."""
    return _by_name(overlap.iou(), classes), _by_name(overlap.dice(), classes)


def _by_name(values: Any, classes: Sequence[str]) -> Quality:
    return {
        name: None if math.isnan(value) else float(value)
        for name, value in zip(classes[1:], values[1:], strict=True)
    }


def mean_of(values: Quality) -> float:
    """Mean over the classes that could be judged; 1 where none could, as in ``metrics``."""
    judged = [value for value in values.values() if value is not None]
    return sum(judged) / len(judged) if judged else 1.0


# For a person at a terminal


def describe(result: ReplayResult) -> str:
    """Each curve's quality and seconds, and two curves side by side."""
    blocks = [
        f"{result.folder}: {result.training} images to learn from, {result.held_back} held back "
        f"for testing, classes {', '.join(result.classes[1:])}"
    ]
    for curve in result.curves:
        blocks += [_quality_block(curve), _seconds_block(curve), order_sentence(curve)]
    if len(result.curves) == 2:
        blocks.append(_beside_block(*result.curves))
    return "\n\n".join(blocks)


def _quality_block(curve: Curve) -> str:
    names = list(curve.points[0].iou) if curve.points else []
    rows = [
        [
            point.round,
            point.labels,
            f"v{point.version}" + ("" if point.promoted else f" (v{point.made} kept)"),
            point.publication or "-",
            _share(point.mean_iou),
            _share(point.mean_dice),
            *(_share(point.iou[name]) for name in names),
        ]
        for point in curve.points
    ]
    head = ["round", "labels", "version", "serving", "IoU", "Dice", *(f"IoU {n}" for n in names)]
    title = f"The {curve.order} order, project {curve.project}, {curve.title!r}:"
    return f"{title}\n{table(head, rows)}"


def _seconds_block(curve: Curve) -> str:
    rows = [
        [
            point.round,
            *(f"{point.seconds.get(name, 0.0):.1f}" for name in SECONDS),
            f"{sum(point.seconds.values()):.1f}",
        ]
        for point in curve.points
    ]
    return f"Seconds:\n{table(['round', *SECONDS, 'all'], rows)}"


def order_sentence(curve: Curve) -> str:
    served = sum(point.served for point in curve.points)
    wrong = sum(point.mismatches for point in curve.points)
    if curve.order != "queue":
        return "Tasks were drawn at random, not asked of the queue."
    if served == 0:
        return "No task was asked of the queue."
    return (
        f"{served - wrong} of {served} tasks that Label Studio served were the head of the "
        f"ranking; {wrong} were not."
    )


def _beside_block(first: Curve, second: Curve) -> str:
    rows = [
        [
            a.round,
            a.labels,
            _share(a.mean_iou),
            _share(b.mean_iou),
            f"{a.mean_iou - b.mean_iou:+.3f}",
            _share(a.mean_dice),
            _share(b.mean_dice),
            f"{a.mean_dice - b.mean_dice:+.3f}",
        ]
        for a, b in zip(first.points, second.points, strict=False)
    ]
    head = ["round", "labels"]
    for measure in ("IoU", "Dice"):
        head += [f"{measure} {first.order}", f"{measure} {second.order}", "difference"]
    return f"Side by side (one run of each: a difference is no proof):\n{table(head, rows)}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned to the right, two spaces between."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


# For a spreadsheet


def write_csv(result: ReplayResult, path: Path) -> None:
    """One line for each round of each curve; an empty cell is a class that nothing showed."""
    names = result.classes[1:]
    head = ["folder", "order", "project", "round", "labels", "version", "made", "promoted"]
    head += ["publication", "served", "mismatches", "mean_iou", "mean_dice"]
    head += [f"{measure}:{name}" for measure in ("iou", "dice") for name in names]
    head += [f"seconds:{name}" for name in SECONDS]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for curve in result.curves:
            for p in curve.points:
                row = [result.folder, curve.order, curve.project, p.round, p.labels, p.version]
                row += [p.made, p.promoted, p.publication, p.served, p.mismatches]
                row += [p.mean_iou, p.mean_dice]
                row += [values[name] for values in (p.iou, p.dice) for name in names]
                writer.writerow([*row, *(p.seconds.get(name, 0.0) for name in SECONDS)])
