"""How many particles a pool of images holds: a committee's count, corrected by what people counted
on the audits, with its interval. A share of the area, or any other number an image has, likewise.

The images are a finite pool, and the audits a random sample of it. The committee has predicted
every image, so no chance but that of the sample is left: the mean is that of the predictions plus
what the audits say they are off (the difference estimator of survey sampling, Särndal, Swensson
and Wretman 1992, ch. 6; prediction-powered inference, Angelopoulos et al. 2023, arXiv 2301.09633,
of a pool that the audits belong to). How far the predictions are trusted is tuned on the audits
(arXiv 2311.01453).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from training.quality.audit import Interval

FEWEST_SHOWN = 40
"""Audits that must show a class, in the mask or in the prediction, before there is an interval.
docs/COUNTS.md has the simulation that it comes from."""

MOST_BEYOND = 0.2
"""Share of the predicted particles that may lie in images with more of them than any audit: of such
images the audits say nothing, and a sample that misses them looks surer than it is."""

FEWEST_DEGREES = 1.0
"""Of freedom: below, Student's distribution has not even a spread that grows with its tails."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """The mean of a pool as one or many samples tell it; each field is a number a sample.

    Attributes:
        mean: per image; no less than what was counted on the sample, which is there.
        low, high: its 95 % interval; both are the mean where the sample has no spread.
        weight: how far the predictions are trusted, from 0 (the audits alone) to 1.
    """

    mean: Values
    low: Values
    high: Values
    weight: Values


def estimate_mean(counted: Values, predicted: Values, pool_mean: float, images: int) -> Estimate:
    """The mean of a pool by a sample of it, with predictions of the whole pool.

    The weight is Cov(counted, predicted) / Var(predicted) of the sample, within 0 to 1. It is
    chosen by the very images that correct the count, so the spread is the jackknife's: each audit
    is left out in turn, of the weight too. Student's degrees of freedom are those that the
    spread's own spread leaves, 2n / (kurtosis - 1) and at most n - 1: where a few audits hold most
    particles there are few, however many audits there are (Valliant and Rust 2010, Journal of
    Official Statistics 26, 585). The interval is that of a count on the log scale (Burnham and
    others 1987, Wildlife Monographs 96, 212): a few full images make counts skewed, and a
    symmetric one would end too low at both sides.

    Args:
        counted, predicted: [..., n] of the audits; n at least 3.
        pool_mean: of the predictions of all images of the pool, the audits among them.
        images: of the pool.
    """
    n = counted.shape[-1]
    terms = np.stack([counted, predicted, counted * predicted, predicted * predicted])
    sums = terms.sum(axis=-1)
    weight = _weight(sums, n)
    mean = sums[0] / n + weight * (pool_mean - sums[1] / n)
    others = sums[..., None] - terms
    without = others[0] / (n - 1) + _weight(others, n - 1) * (pool_mean - others[1] / (n - 1))
    off = without - without.mean(axis=-1, keepdims=True)
    second, fourth = (off**2).mean(axis=-1), (off**4).mean(axis=-1)
    mean = np.maximum(mean, sums[0] / images)
    # Rounding leaves a spread of some 1e-16 where there is none.
    flat = np.sqrt(second) <= 1e-12 * np.maximum(mean, 1e-9)
    kurtosis = fourth / np.where(flat, 1.0, second) ** 2
    degrees = np.clip(2 * n / np.maximum(kurtosis - 1, 1e-9), FEWEST_DEGREES, n - 1)
    variance = (1 - n / images) * (n - 1) * second
    relative = variance / np.where(flat, 1.0, mean) ** 2
    factor = np.exp(student.ppf(0.975, degrees) * np.sqrt(np.log1p(relative)))
    factor = np.where(flat, 1.0, factor)
    return Estimate(mean, mean / factor, mean * factor, weight)


def share_beyond(predicted: Values, highest: Values) -> Values:
    """The share of all predicted particles that lie in images with more of them than ``highest``.

    Args:
        predicted: [N] of the pool.
        highest: [...] of the audits' own.
    """
    pool = np.sort(predicted)
    above = np.append(np.cumsum(pool[::-1])[::-1], 0.0)
    share: Values = above[np.searchsorted(pool, highest, "right")] / max(above[0], 1e-9)
    return share


def _weight(sums: Values, n: int) -> Values:
    """The least-squares slope, within 0 to 1; 0 where the predictions are all alike.

    Args:
        sums: [4, ...] over n images: counted, predicted, their product, predicted squared.
    """
    counted, predicted, product, square = sums
    variance = square - predicted**2 / n
    # What rounding leaves of no variance.
    alike = variance <= 1e-9 * square
    slope = (product - counted * predicted / n) / np.where(alike, 1.0, variance)
    return np.where(alike, 0.0, np.clip(slope, 0.0, 1.0))


@dataclass(frozen=True)
class PoolCount:
    """What is known of one class in a pool, per image; times ``images`` it is the total.

    Attributes:
        images: of the pool, the audits among them.
        audits: that people counted.
        shown: audits that show the class in the mask or in the prediction.
        counted, predicted: means over the audits, by people and by the committee; None without any.
        plain: mean of the predictions over the pool.
        corrected: by the audits; None where there is no interval.
        alone: by the audits without predictions; None where ``corrected`` is, or too few masks
            show the class.
        weight: how far ``corrected`` trusts the predictions; None without it.
        reason: why there is no ``corrected``, a sentence; "" where there is.
    """

    images: int
    audits: int
    shown: int
    counted: float | None
    predicted: float | None
    plain: float
    corrected: Interval | None
    alone: Interval | None
    weight: float | None
    reason: str


def may_give_interval(audits: int) -> bool:
    """Whether so many audits can give an interval, if all of them show the class."""
    return audits >= FEWEST_SHOWN


def count_pool(
    predicted: Values,
    audits: NDArray[np.intp],
    counted: Values,
    alike: Values | None = None,
    most: float = math.inf,
) -> PoolCount:
    """One class in a pool of images.

    Args:
        predicted: [N] each image's count (or share of the area) by who never trained on it.
        audits: [n] which of the images people counted, a random sample.
        counted: [n] what they counted there.
        alike: [N] each image's count by a predictor that does not depend on whether it taught the
            committee, by which the count is corrected; as in ``predicted`` if not given. Images
            are chosen to be labelled because they are unlike others, so what predicts these alone
            must not predict the pool.
        most: that an image can hold; a share of its area is at most 1.

    Raises:
        ValueError: the pool is empty, or the audits and the counts are not as many.
    """
    if not len(predicted) or len(audits) != len(counted):
        raise ValueError(
            f"expected images and a count for each audit, got {len(predicted)} images, "
            f"{len(audits)} audits and {len(counted)} counts"
        )
    N, n = len(predicted), len(audits)
    plain = float(predicted.mean())
    if n == 0:
        reason = "no audit has been counted"
        return PoolCount(N, 0, 0, None, None, plain, None, None, None, reason)
    ours = predicted[audits]
    alike = predicted if alike is None else alike
    shown = int(((counted > 0) | (alike[audits] > 0)).sum())
    corrected, weight, reason = _interval(counted, alike[audits], alike, most)
    # What the audits miss they miss with predictions and without.
    alone = None if corrected is None else _interval(counted, np.zeros(n), np.zeros(N), most)[0]
    means = float(counted.mean()), float(ours.mean())
    return PoolCount(N, n, shown, *means, plain, corrected, alone, weight, reason)


def _interval(
    counted: Values, predicted: Values, pool: Values, most: float
) -> tuple[Interval | None, float | None, str]:
    """The interval, the weight and "", or why there is none."""
    n, images = len(counted), len(pool)
    known = float(counted.sum()) / images
    if n == images:
        return Interval(known, known, known), 0.0, ""
    shown = int(((counted > 0) | (predicted > 0)).sum())
    if shown < FEWEST_SHOWN:
        return None, None, _too_few(shown, n, images)
    beyond = float(share_beyond(pool, predicted.max()))
    if beyond > MOST_BEYOND:
        return (
            None,
            None,
            (
                f"{beyond:.0%} of what is predicted lies in images that hold more of it than any "
                "audit, and an interval needs audits like these: more of them would do"
            ),
        )
    found = estimate_mean(counted, predicted, float(pool.mean()), images)
    if found.low == found.high:
        return None, None, f"the {n} audits differ in nothing that an interval could be made of"
    # The pool holds what was counted on the audits, and no more than this and the most in all
    # other images.
    highest = known + most * (1 - n / images)
    value, low, high = (
        min(max(known, float(each)), highest) for each in (found.mean, found.low, found.high)
    )
    return Interval(value, low, high), float(found.weight), ""


def _too_few(shown: int, audits: int, images: int) -> str:
    held = f"{shown} of {audits} audits show it, an interval needs {FEWEST_SHOWN}"
    if not shown:
        return held
    needed = math.ceil(FEWEST_SHOWN * audits / shown)
    if needed >= images:
        return f"{held}, and so rare a class may need an audit of every image"
    return f"{held}: some {needed - audits} more audits would do"
