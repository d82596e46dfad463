"""What is noted of annotations: who agrees with whom, and how long a label took."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from acquisition.masks import UNKNOWN
from backend.label_studio.region_counts import Counts
from backend.label_studio.regions import Reading
from backend.rounds.example_notes import (
    MOST_TIMES,
    ExampleNote,
    note_of,
    pairs_of,
    times_of,
    was_prepared,
)

COUNTS: Counts = Counter({("read", ""): 3})


def annotation(who: int | None, **fields: Any) -> dict[str, Any]:
    made = {"created_at": "2026-11-28T00:00:10Z", "lead_time": None, "result": []}
    return {"completed_by": who, "parent_prediction": None, **made, **fields}


def reading(foreground: int) -> Reading:
    """The first so many of ten pixels are of class 1, the last is unknown."""
    mask: NDArray[np.uint8] = np.zeros((1, 10), np.uint8)
    mask[0, :foreground] = 1
    mask[0, 9] = UNKNOWN
    return Reading(mask, None, [], COUNTS)


def test_two_annotators_are_compared_where_both_know() -> None:
    people = [annotation(9), annotation(4), annotation(9), annotation(None)]
    note = note_of(people, [reading(4), reading(6), reading(5), reading(1)], COUNTS)
    # 4 with 9, twice: 2 * 4 / (4 + 6) and 2 * 5 / (5 + 6); nobody's and one's own are no pair.
    assert note.pairs == [(4, 9, pytest.approx(0.8)), (4, 9, pytest.approx(10 / 11))]
    (pair,) = pairs_of({7: note, 8: ExampleNote(pairs=[(4, 9, 0.2)])})
    assert (pair["one"], pair["two"], pair["tasks"]) == (4, 9, 3)
    assert pair["least"][0] == (8, 0.2)


def test_a_labels_time_is_the_mean_over_its_annotators_and_helped_if_one_began_so() -> None:
    people = [annotation(1, lead_time=20.0), annotation(2, lead_time=40), annotation(3)]
    note = note_of(people, [reading(1)] * 3, COUNTS)
    assert (note.seconds, note.assisted) == (30.0, False)
    helped = annotation(1, lead_time=5, result=[{"origin": "prediction-changed"}])
    assert note_of([helped], [reading(1)], COUNTS).assisted
    assert was_prepared(annotation(1, parent_prediction=3))
    assert note_of([annotation(1, lead_time=-3)], [reading(1)], COUNTS).seconds is None


def test_a_note_comes_back_as_it_was_and_those_of_earlier_releases_too() -> None:
    note = note_of([annotation(1, lead_time=2), annotation(2)], [reading(3), reading(2)], COUNTS)
    assert ExampleNote.from_text(note.to_text()) == note
    assert ExampleNote.from_text('[["read", "", 3]]') == ExampleNote(COUNTS)
    assert ExampleNote.from_text("") == ExampleNote()


def test_the_newest_times_are_kept_oldest_first() -> None:
    notes = [ExampleNote(seconds=1.0, at=float(n)) for n in range(MOST_TIMES + 5, 0, -1)]
    found = times_of([*notes, ExampleNote(at=1.0), ExampleNote(seconds=1.0)])
    assert len(found) == MOST_TIMES
    assert found[0][0] == 6.0
    assert found[-1][0] == MOST_TIMES + 5
