"""Whether one strategy beats another, from learning curves over repeated seeds.

A curve is a quality (such as mean IoU) at each budget (labelled images). Strategies are compared
seed by seed: a seed fixes the first images and the members' random draws for all strategies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

CONFIDENCE = 0.95
"""Of every interval here."""

ALPHA = 0.05
"""Below it a corrected p is called significant."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean and its 95 % t-interval.

    Attributes:
        mean: of the values.
        low, high: the interval's ends; None for a single value, which has no known spread.
        count: how many values.
    """

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """How much the second of two paired series differs from the first.

    Attributes:
        mean: of second minus first; of ``relative_gain``, their means' ratio less 1.
        low, high: its 95 % interval; None where the pairs allow none.
        p: two-sided, of the null hypothesis that there is no difference; None for a single pair.
        pairs: how many.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    pairs: int


def aubc(budgets: ArrayLike, values: ArrayLike) -> float:
    """Area under the budget curve: the mean quality while the budget is spent.

    Args:
        budgets: [T] strictly increasing, at least two; scaled here to run from 0 to 1.
        values: [T].

    Returns:
        By the trapezoidal rule, in the unit of ``values`` and between their extremes.

    Raises:
        ValueError: unequal lengths, fewer than two budgets, budgets that do not increase, or a
            number that is not finite.

    Source: Zhan et al. 2021 (IJCAI, "A Comparative Survey: Benchmarking for Pool-based Active
    Learning"), section 4.
    """
    x, y = _curve(budgets, values)
    if len(x) < 2:
        raise ValueError(f"an area needs at least two budgets, got {len(x)}")
    return float(np.trapezoid(y, (x - x[0]) / (x[-1] - x[0])))


def labels_to_reach(budgets: ArrayLike, values: ArrayLike, target: float) -> float | None:
    """The budget at which a curve first reaches a target, linear between the budgets measured.

    Args:
        budgets: [T] strictly increasing, at least one.
        values: [T]; they may fall in between, the first crossing counts.
        target: in the unit of ``values``.

    Returns:
        A budget between the first and the last; the first where the curve starts at the target or
        above; None where it never reaches it.

    Raises:
        ValueError: as of ``aubc``, or a target that is not finite.
    """
    x, y = _curve(budgets, values)
    if not math.isfinite(target):
        raise ValueError(f"the target must be finite, got {target}")
    reached = np.flatnonzero(y >= target)
    if not len(reached):
        return None
    i = int(reached[0])
    if i == 0:
        return float(x[0])
    share = (target - y[i - 1]) / (y[i] - y[i - 1])
    return float(x[i - 1] + share * (x[i] - x[i - 1]))


def mean_interval(values: ArrayLike) -> MeanInterval:
    """The mean of values [R] and its 95 % interval by Student's t.

    Raises:
        ValueError: no values, or one that is not finite.

    Source: Student 1908.
    """
    sample = _finite(values, "values")
    R = len(sample)
    mean = float(sample.mean())
    if R < 2:
        return MeanInterval(mean, None, None, R)
    half = _quantile(R) * float(sample.std(ddof=1)) / math.sqrt(R)
    return MeanInterval(mean, mean - half, mean + half, R)


def paired_t(first: ArrayLike, second: ArrayLike) -> Difference:
    """Student's t-test of the differences of pairs, two-sided.

    Args:
        first, second: [R], the same seeds in the same order.

    Returns:
        Of second minus first. If all pairs differ by the same amount there is no spread: p is 1 if
        the amount is 0, else 0.

    Raises:
        ValueError: no pairs, unequal lengths, or a number that is not finite.

    Source: Student 1908. By hand: ``scipy.stats.ttest_rel`` gives NaN for identical pairs, and
    warns of those that differ by one amount.
    """
    differences = np.subtract(*reversed(_pairs(first, second)))
    found = mean_interval(differences)
    R = found.count
    if R < 2:
        return Difference(found.mean, None, None, None, R)
    error = float(differences.std(ddof=1)) / math.sqrt(R)
    if error == 0:
        p = 1.0 if found.mean == 0 else 0.0
    else:
        p = float(2 * student.sf(abs(found.mean) / error, R - 1))
    return Difference(found.mean, found.low, found.high, p, R)


def relative_gain(first: ArrayLike, second: ArrayLike) -> Difference:
    """How much more the second of two paired series holds, as a share of the first: 0.1 is 10 %.

    Args:
        first, second: [R], the same seeds in the same order; the first has a mean above 0.

    Returns:
        The ratio of the means less 1, with Fieller's interval, which allows for the chance in both
        means and excludes 0 exactly where ``paired_t`` has p < .05. No interval for a single
        pair, nor where the first's mean is itself not distinguishable from 0.

    Raises:
        ValueError: as of ``paired_t``, or a first mean that is not above 0.

    Source: Fieller 1954 ("Some Problems in Interval Estimation"). By hand: scipy has none.
    """
    a, b = _pairs(first, second)
    if a.mean() <= 0:
        raise ValueError(f"a share needs a whole above 0, got a mean of {a.mean()}")
    p = paired_t(a, b).p
    gain = float(b.mean() / a.mean()) - 1
    R = len(a)
    if R < 2:
        return Difference(gain, None, None, p, R)
    # The ratios q that a t-test of b - q a does not reject lie between the roots of a parabola.
    spread = np.cov(a, b) * _quantile(R) ** 2 / R
    square = float(a.mean() ** 2 - spread[0, 0])
    middle = float(a.mean() * b.mean() - spread[0, 1])
    end = float(b.mean() ** 2 - spread[1, 1])
    if square <= 0:
        return Difference(gain, None, None, p, R)
    # Rounding can leave the root of pairs without spread just below 0.
    half = math.sqrt(max(0.0, middle**2 - square * end)) / square
    return Difference(gain, middle / square - half - 1, middle / square + half - 1, p, R)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct a family of p: the chance of any false rejection among them stays below alpha.

    Args:
        p_values: of all tests of the family, each between 0 and 1.

    Returns:
        In the same order, none below its own p and none above 1.

    Raises:
        ValueError: a p that is not between 0 and 1.

    Source: Holm 1979 ("A Simple Sequentially Rejective Multiple Test Procedure"). By hand: scipy
    has Benjamini and Hochberg's correction, and no Holm's.
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"a p lies between 0 and 1, got {p}")
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def penalty_matrix(curves: ArrayLike) -> NDArray[np.float64]:
    """How often each strategy significantly beats each other one.

    At every budget all pairs of strategies are compared by a paired t-test over the seeds, and
    Holm's correction is made over these pairs.

    Args:
        curves: [S, R, T] quality of S strategies with R seeds at T budgets. Leave out the first
            budget, where all strategies hold the same images.

    Returns:
        [S, S]; entry (i, j) is the share of budgets at which i beats j, between 0 and 1. A
        column's mean is that strategy's penalty: the lower, the less often it was beaten.

    Raises:
        ValueError: not 3-d, no strategy or budget, fewer than two seeds, or a number that is not
            finite.

    Source: Ash et al. 2020 (arXiv 1906.03671, "BADGE"), figure 4; Holm's correction replaces their
    fixed threshold on t.
    """
    quality = np.asarray(curves, np.float64)
    if quality.ndim != 3 or 0 in quality.shape:
        raise ValueError(f"curves must be [S, R, T], none of them 0, got shape {quality.shape}")
    if not np.isfinite(quality).all():
        raise ValueError("a number in curves is not finite")
    S, R, T = quality.shape
    if R < 2:
        raise ValueError(f"a paired test needs at least two seeds, got {R}")
    beaten = np.zeros((S, S))
    pairs = [(i, j) for i in range(S) for j in range(i)]
    for budget in range(T):
        found = [paired_t(quality[j, :, budget], quality[i, :, budget]) for i, j in pairs]
        corrected = holm([difference.p for difference in found if difference.p is not None])
        for (i, j), difference, p in zip(pairs, found, corrected, strict=True):
            if p < ALPHA:
                winner, loser = (i, j) if difference.mean > 0 else (j, i)
                beaten[winner, loser] += 1
    return beaten / T


def mean_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the first axis of what is not NaN; NaN where all is.

    By hand: ``np.nanmean`` warns of a column that is all NaN.
    """
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    mean = np.full(total.shape, np.nan)
    np.divide(total, known.sum(axis=0), out=mean, where=known.any(axis=0))
    return mean


def _quantile(count: int) -> float:
    """Half the width of a two-sided interval of a mean of so many values, in standard errors."""
    return float(student.ppf((1 + CONFIDENCE) / 2, count - 1))


def _curve(
    budgets: ArrayLike, values: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = _finite(budgets, "budgets"), _finite(values, "values")
    if len(x) != len(y):
        raise ValueError(f"expected a value per budget, got {len(x)} and {len(y)}")
    if (np.diff(x) <= 0).any():
        raise ValueError(f"budgets must increase, got {x.tolist()}")
    return x, y


def _pairs(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _finite(first, "the first series"), _finite(second, "the second series")
    if len(a) != len(b):
        raise ValueError(f"expected pairs, got {len(a)} and {len(b)}")
    return a, b


def _finite(numbers: ArrayLike, name: str) -> NDArray[np.float64]:
    found = np.asarray(numbers, np.float64)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"{name} must be a list of numbers, at least one, got {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"a number in {name} is not finite")
    return found
