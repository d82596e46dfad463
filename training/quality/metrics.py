"""How good a segmentation is, and whether one is better than another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from acquisition.masks import UNKNOWN


@dataclass(frozen=True)
class Overlap:
    """Pixel counts per class; those of several images add up.

    Attributes:
        shared: [C] pixels of the class in truth and prediction.
        truth: [C] pixels of the class in the truth.
        predicted: [C] pixels of the class in the prediction.
    """

    shared: NDArray[np.int64]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @classmethod
    def none(cls, classes: int) -> Overlap:
        """Of no image yet."""
        zero = np.zeros(classes, np.int64)
        return cls(zero, zero, zero)

    @classmethod
    def of(cls, table: NDArray[np.int64]) -> Overlap:
        """Of what ``confusion`` gave."""
        return cls(table.diagonal().copy(), table.sum(axis=1), table.sum(axis=0))

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.shared + other.shared, self.truth + other.truth, self.predicted + other.predicted
        )

    def dice(self) -> NDArray[np.float64]:
        """[C] Dice, between 0 and 1; NaN for a class in neither truth nor prediction."""
        total = self.truth + self.predicted
        return _ratio(2 * self.shared, total)

    def iou(self) -> NDArray[np.float64]:
        """[C] intersection over union, between 0 and 1; NaN for a class in neither."""
        union = self.truth + self.predicted - self.shared
        return _ratio(self.shared, union)

    def mean_iou(self) -> float:
        """Mean IoU of the classes but background that the truth shows; NaN where it shows none."""
        shown = self.truth[1:] > 0
        return float(self.iou()[1:][shown].mean()) if shown.any() else float("nan")

    def where_shown(self, values: NDArray[np.float64]) -> list[float | None]:
        """Values [C] for JSON: None for a class that the truth does not show."""
        pairs = zip(values, self.truth, strict=True)
        return [float(value) if count else None for value, count in pairs]

    def foreground_dice(self) -> float:
        """Mean Dice of the classes but background that are in truth or prediction.

        1 where neither shows any: nothing was missed and nothing invented.
        """
        dice = self.dice()[1:]
        return float(np.nanmean(dice)) if np.isfinite(dice).any() else 1.0


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole; NaN where the whole is 0."""
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def overlap(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Overlap:
    """Compare two class-index masks of one shape where the truth is known.

    Raises:
        ValueError: the shapes differ or an index is no class.
    """
    return Overlap.of(confusion(truth, predicted, classes))


def confusion(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int
) -> NDArray[np.int64]:
    """[C, C] pixels of each class of the truth by class of the prediction, where the truth is
    known.

    Raises:
        ValueError: the shapes differ or an index is no class.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} differ in shape")
    known = truth != UNKNOWN
    t, p = truth[known], predicted[known]
    highest = max(int(t.max(initial=0)), int(p.max(initial=0)))
    if highest >= classes:
        raise ValueError(f"class index {highest} in a mask of {classes} classes")
    counts = np.bincount(t.astype(np.int64) * classes + p, minlength=classes**2)
    return counts.reshape(classes, classes)


@dataclass(frozen=True)
class PairedDifference:
    """A paired bootstrap's answer.

    Attributes:
        mean: of second minus first.
        low, high: 95 % interval of the mean.
        p_worse: share of resamples in which the second is not worse: the one-sided p of
            "the second is worse".
        pairs: how many.
    """

    mean: float
    low: float
    high: float
    p_worse: float
    pairs: int


AT_ONCE = 500
"""Resamples that are drawn together: of some thousand pairs they take megabytes."""


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], seed: int, resamples: int = 10_000
) -> PairedDifference:
    """Whether the second of two scores of the same things is worse than the first.

    Raises:
        ValueError: no pairs, unequal lengths, or a score that is not finite.

    Source: Efron and Tibshirani 1993, chapter 16.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"expected pairs of scores, got {len(first)} and {len(second)}")
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    if not np.isfinite(differences).all():
        raise ValueError("a score is not finite")
    rng = np.random.default_rng(seed)
    N = len(differences)
    counts = [min(AT_ONCE, resamples - done) for done in range(0, resamples, AT_ONCE)]
    means = np.concatenate(
        [differences[rng.integers(N, size=(count, N))].mean(axis=1) for count in counts]
    )
    low, high = np.percentile(means, (2.5, 97.5))
    return PairedDifference(
        float(differences.mean()), float(low), float(high), float((means >= 0).mean()), N
    )


def auroc(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """Chance that a positive scores higher than a negative, ties counted half.

    Args:
        scores: [P].
        positive: [P]; which of them are.

    Returns:
        Between 0 and 1; NaN where all or none are positive.

    Source: Hanley and McNeil 1982; by the ranks of Mann and Whitney.
    """
    if scores.shape != positive.shape or scores.ndim != 1:
        raise ValueError(f"expected two [P], got {scores.shape} and {positive.shape}")
    ours = int(positive.sum())
    others = len(positive) - ours
    if ours == 0 or others == 0:
        return float("nan")
    rank_sum = float(rankdata(scores)[positive].sum())
    return (rank_sum - ours * (ours + 1) / 2) / (ours * others)
