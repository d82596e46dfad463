"""What is noted of a task's annotations when its example is made, for the pages.

Label Studio's lead time runs from the opening of a task to its submission, pauses and all, and goes
on when the annotation is edited.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from statistics import fmean
from typing import Any

from acquisition.masks import UNKNOWN
from backend.label_studio.region_counts import Counts, from_rows, to_rows
from backend.label_studio.regions import Reading
from backend.ledger.shapes import AnnotatorPair, LabelTime

MOST_PAIRED = 6
"""Annotations of a task that are compared with each other."""

LEAST_ALIKE = 5
"""Tasks of two annotators that are named."""

MOST_TIMES = 2000
"""Newest labels whose times a round keeps."""


@dataclass(frozen=True)
class ExampleNote:
    """What is known of a task's annotations.

    Attributes:
        counts: their regions by kind.
        pairs: the numbers of two annotators, the lower one first, and the foreground Dice of their
            masks.
        seconds: that an annotator took, as a mean over them; None where Label Studio does not know.
        assisted: one of them began with a prediction.
        at: when the first was made, unix seconds.
    """

    counts: Counts = field(default_factory=Counts)
    pairs: Sequence[tuple[int, int, float]] = ()
    seconds: float | None = None
    assisted: bool = False
    at: float | None = None

    def to_text(self) -> str:
        return json.dumps(
            {
                "regions": to_rows(self.counts),
                "pairs": self.pairs,
                "seconds": self.seconds,
                "assisted": self.assisted,
                "at": self.at,
            }
        )

    @classmethod
    def from_text(cls, text: str) -> ExampleNote:
        """What ``to_text`` gave, or an earlier release: nothing, or the regions alone."""
        kept = json.loads(text or "[]")
        if isinstance(kept, list):
            return cls(from_rows(kept))
        return cls(
            from_rows(kept["regions"]),
            [(one, two, dice) for one, two, dice in kept["pairs"]],
            kept["seconds"],
            kept["assisted"],
            kept["at"],
        )


def note_of(
    annotations: Sequence[Mapping[str, Any]], readings: Sequence[Reading], counts: Counts
) -> ExampleNote:
    """What is noted of a task.

    Args:
        annotations: those that decide, at least one.
        readings: how the first of them were read, in their order.
        counts: of all regions.
    """
    times = [each.get("lead_time") for each in annotations]
    known = [float(each) for each in times if isinstance(each, int | float) and each > 0]
    made = [datetime.fromisoformat(a["created_at"]).timestamp() for a in annotations]
    return ExampleNote(
        counts,
        _pairs(annotations, readings),
        fmean(known) if known else None,
        any(was_prepared(each) for each in annotations),
        min(made),
    )


def _pairs(
    annotations: Sequence[Mapping[str, Any]], readings: Sequence[Reading]
) -> list[tuple[int, int, float]]:
    import numpy as np

    from training.quality.metrics import overlap

    by = [each.get("completed_by") for each in annotations]
    found = []
    for one, two in combinations(range(min(len(readings), MOST_PAIRED)), 2):
        first, second = by[one], by[two]
        if not isinstance(first, int) or not isinstance(second, int) or first == second:
            continue  # nobody's, as of an import; or one person's, twice
        mask, other = readings[one].mask, readings[two].mask
        known = (mask != UNKNOWN) & (other != UNKNOWN)
        alike = overlap(np.where(known, mask, UNKNOWN), np.where(known, other, 0), UNKNOWN)
        found.append((min(first, second), max(first, second), alike.foreground_dice()))
    return found


def was_prepared(annotation: Mapping[str, Any]) -> bool:
    """Whether it was made from a pre-annotation.

    Label Studio forgets ``parent_prediction`` when the prediction is deleted; its regions still
    say where they come from.
    """
    if annotation.get("parent_prediction") is not None:
        return True
    result = annotation.get("result")
    return isinstance(result, list) and any(
        isinstance(part, Mapping) and str(part.get("origin")).startswith("prediction")
        for part in result
    )


def pairs_of(notes: Mapping[int, ExampleNote]) -> list[AnnotatorPair]:
    """How alike any two annotators label, the least alike first.

    Args:
        notes: by task id.
    """
    tasks: dict[tuple[int, int], list[tuple[float, int]]] = defaultdict(list)
    for task_id, note in notes.items():
        for one, two, dice in note.pairs:
            tasks[one, two].append((dice, task_id))
    found: list[AnnotatorPair] = [
        {
            "one": one,
            "two": two,
            "tasks": len(alike),
            "dice": fmean(dice for dice, _ in alike),
            "least": [(task_id, dice) for dice, task_id in sorted(alike)[:LEAST_ALIKE]],
        }
        for (one, two), alike in tasks.items()
    ]
    return sorted(found, key=lambda pair: pair["dice"])


def times_of(notes: Iterable[ExampleNote]) -> list[LabelTime]:
    """When the newest labels were made and how long each took, oldest first."""
    known = [
        (note.at, note.seconds, note.assisted)
        for note in notes
        if note.at is not None and note.seconds is not None
    ]
    return sorted(known)[-MOST_TIMES:]
