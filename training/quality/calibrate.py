"""Probabilities that mean what they say."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from training.committee.calibration import Calibration

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.25, 8.0
"""Beyond these the logits say nothing worth scaling, and a search would run away."""

MOST_BIAS = 4.0
"""Nats. A background that had to be 50 times as likely was never learnt."""

HALF_TRUSTED_IMAGES = 10
"""From so many labelled images half of the bias is taken: few images hold the share of the
background of other few images only."""


def fit_calibration(logits: Tensor, truth: Tensor, images: int) -> Calibration:
    """The temperature and the background's bias at which softmax gives the truth likeliest.

    Weights of rare classes and crops that seek them both raise what is rare, so a network paints
    too much foreground. One bias corrects that; a bias for each class would lower the rare ones,
    whose pixels are few.

    Args:
        logits: [P, C] of pixels that the network never trained on; class 0 is the background.
        truth: [P] class indices, int64.
        images: how many images the pixels are of.

    Returns:
        A temperature between MIN_TEMPERATURE and MAX_TEMPERATURE, and a bias of the background
        alone, shrunk towards 0 where the images are few.

    Raises:
        ValueError: no pixels, or shapes that do not belong together.

    Source: temperature: Guo et al. 2017 (arXiv 1706.04599), section 4.2; bias: the logit
    adjustment of Menon et al. 2021 (arXiv 2007.07314), fitted.
    """
    if logits.ndim != 2 or truth.shape != logits.shape[:1] or not len(truth):
        raise ValueError(
            f"expected logits [P, C] and truth [P], got {tuple(logits.shape)} "
            f"and {tuple(truth.shape)}"
        )
    of_truth = logits.gather(1, truth[:, None])[:, 0].mean()
    background = (truth == 0).float().mean()

    def loss(x: NDArray[np.float64]) -> tuple[float, list[float]]:
        """Mean negative log-likelihood at 1 / T and the bias, convex in both, and its gradient."""
        scaled = logits * float(x[0])
        scaled[:, 0] += float(x[1])
        norm = scaled.logsumexp(dim=1)
        probs = (scaled - norm[:, None]).exp_()
        value = norm.mean() - x[0] * of_truth - x[1] * background
        by_scale = (probs * logits).sum(dim=1).mean() - of_truth
        return float(value), [float(by_scale), float(probs[:, 0].mean() - background)]

    def best(biases: tuple[float, float]) -> tuple[float, float]:
        found = minimize(
            loss,
            [1.0, biases[0] / 2 + biases[1] / 2],
            jac=True,
            method="L-BFGS-B",
            bounds=[(1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE), biases],
        )
        inverse_temperature, bias = found.x.tolist()
        return 1 / inverse_temperature, bias

    _, whole = best((-MOST_BIAS, MOST_BIAS))
    trusted = whole * images / (images + HALF_TRUSTED_IMAGES)
    # The temperature that goes with the whole bias would not fit the part that is taken.
    temperature, bias = best((trusted, trusted))
    return Calibration(temperature, (bias, *[0.0] * (logits.shape[1] - 1)))


def reliability(probs: Tensor, truth: Tensor, bins: int = 15) -> list[tuple[float, float, int]]:
    """The reliability curve: per bin of confidence its mean, the share right, and the count.

    Args:
        probs: [P, C], each row sums to 1.
        truth: [P] class indices, int64.

    Returns:
        One triple per bin that is not empty, in order of confidence.
    """
    confidence, predicted = probs.max(dim=1)
    return _curve(confidence, predicted == truth, bins)


def expected_calibration_error(probs: Tensor, truth: Tensor, bins: int = 15) -> float:
    """Mean distance between confidence and the share right, between 0 and 1.

    Args:
        probs: [P, C], each row sums to 1.
        truth: [P] class indices, int64.

    Source: Naeini et al. 2015; Guo et al. 2017, eq. 3.
    """
    return _error(reliability(probs, truth, bins))


def calibration_error_by_class(probs: Tensor, truth: Tensor, bins: int = 15) -> list[float]:
    """[C] mean distance between a class's probability and the share of its pixels, 0 to 1.

    Args:
        probs: [P, C], each row sums to 1.
        truth: [P] class indices, int64.

    Source: class-wise ECE, Kull et al. 2019 (arXiv 1910.12656), section 2.
    """
    return [_error(_curve(probs[:, c], truth == c, bins)) for c in range(probs.shape[1])]


def _curve(probability: Tensor, true: Tensor, bins: int) -> list[tuple[float, float, int]]:
    """Per bin of a probability [P] its mean, the share true, and the count."""
    bin_of = (probability * bins).long().clamp_(0, bins - 1)
    counts = torch.bincount(bin_of, minlength=bins)
    means = torch.bincount(bin_of, weights=probability.double(), minlength=bins)
    trues = torch.bincount(bin_of, weights=true.double(), minlength=bins)
    return [
        (float(means[b] / counts[b]), float(trues[b] / counts[b]), int(counts[b]))
        for b in range(bins)
        if counts[b]
    ]


def _error(curve: list[tuple[float, float, int]]) -> float:
    total = sum(count for _, _, count in curve)
    return sum(abs(mean - share) * count for mean, share, count in curve) / total
