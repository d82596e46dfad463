"""Planted errors are what they are called, and are there as often as asked."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.discs import disc_examples
from training.experiments.label_errors.measure import SCORES, _found
from training.experiments.label_errors.planting import KINDS, MOVED_PX, plant

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_error_changes_a_label_as_it_says(kind: str) -> None:
    right = disc_examples(1)[0].mask
    wrong = KINDS[kind](right, 3, RNG)
    assert wrong is not None
    changed = wrong != right
    assert changed.any()
    if kind == "missing":
        assert set(wrong[changed]) == {0}
    elif kind == "loose":
        assert set(right[changed]) == {0}
    elif kind == "wrong class":
        assert np.array_equal(wrong > 0, right > 0)
    else:
        inner = slice(MOVED_PX, -MOVED_PX)
        shifts = [(d, r) for d in (-MOVED_PX, MOVED_PX) for r in (-MOVED_PX, MOVED_PX)]
        assert any(
            np.array_equal(np.roll(right, shift, (0, 1))[inner, inner], wrong[inner, inner])
            for shift in shifts
        )


def test_where_there_is_nothing_no_error_is_planted() -> None:
    blank = np.zeros((20, 20), np.uint8)
    assert KINDS["missing"](blank, 3, RNG) is None
    assert KINDS["wrong class"](disc_examples(1)[0].mask, 2, RNG) is None


def test_as_many_labels_are_wrong_as_asked_and_the_others_are_as_they_were() -> None:
    right = disc_examples(12)
    examples, planted = plant(right, 3, 5, seed=0)
    assert len(planted) == 5
    assert set(planted.values()) == set(KINDS)
    for before, after in zip(right, examples, strict=True):
        assert np.array_equal(before.mask, after.mask) == (after.key not in planted)


def test_precision_is_counted_by_hand_and_each_score_puts_the_wrong_label_first() -> None:
    scores = {str(n): float(-n) for n in range(40)}
    found = _found(scores, {"0": "loose", "5": "moved", "39": "moved"})
    assert found == {"precision_at_20": 0.1, "by_kind": "loose 1/1; moved 1/2"}
    right = disc_examples(1)[0].mask
    wrong = KINDS["missing"](right, 3, RNG)
    assert wrong is not None
    probs = np.full((3, *right.shape), 0.01, np.float32)
    np.put_along_axis(probs, right[None].astype(np.int64), 0.98, axis=0)
    for score in SCORES.values():
        assert score(wrong, probs, right) > score(right, probs, right)
