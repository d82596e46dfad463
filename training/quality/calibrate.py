"""Probabilities that mean what they say."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.25, 8.0
"""Beyond these the logits say nothing worth scaling, and a search would run away."""


def fit_temperature(logits: Tensor, truth: Tensor) -> float:
    """The temperature at which softmax(logits / T) is likeliest to give the truth.

    Args:
        logits: [P, C] of pixels that the network never trained on.
        truth: [P] class indices, int64.

    Returns:
        T, between MIN_TEMPERATURE and MAX_TEMPERATURE.

    Raises:
        ValueError: no pixels, or shapes that do not belong together.

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.
    """
    if logits.ndim != 2 or truth.shape != logits.shape[:1] or not len(truth):
        raise ValueError(
            f"expected logits [P, C] and truth [P], got {tuple(logits.shape)} "
            f"and {tuple(truth.shape)}"
        )
    # The loss is convex in 1/T: golden-section search cannot miss the minimum.
    ratio = (math.sqrt(5) - 1) / 2
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    loss_left, loss_right = _loss(logits, truth, left), _loss(logits, truth, right)
    while high - low > 1e-3:
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - ratio * (high - low)
            loss_left = _loss(logits, truth, left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + ratio * (high - low)
            loss_right = _loss(logits, truth, right)
    return 2 / (low + high)


def _loss(logits: Tensor, truth: Tensor, inverse_temperature: float) -> float:
    return float(F.cross_entropy(logits * inverse_temperature, truth))


def reliability(probs: Tensor, truth: Tensor, bins: int = 15) -> list[tuple[float, float, int]]:
    """The reliability curve: per bin of confidence its mean, the share right, and the count.

    Args:
        probs: [P, C], each row sums to 1.
        truth: [P] class indices, int64.

    Returns:
        One triple per bin that is not empty, in order of confidence.
    """
    confidence, predicted = probs.max(dim=1)
    right = (predicted == truth).double()
    bin_of = (confidence * bins).long().clamp_(0, bins - 1)
    counts = torch.bincount(bin_of, minlength=bins)
    confidences = torch.bincount(bin_of, weights=confidence.double(), minlength=bins)
    rights = torch.bincount(bin_of, weights=right, minlength=bins)
    return [
        (float(confidences[b] / counts[b]), float(rights[b] / counts[b]), int(counts[b]))
        for b in range(bins)
        if counts[b]
    ]


def expected_calibration_error(probs: Tensor, truth: Tensor, bins: int = 15) -> float:
    """Mean distance between confidence and the share right, between 0 and 1.

    Args:
        probs: [P, C], each row sums to 1.
        truth: [P] class indices, int64.

    Source: Naeini et al. 2015; Guo et al. 2017, eq. 3.
    """
    curve = reliability(probs, truth, bins)
    total = sum(count for _, _, count in curve)
    return sum(abs(confidence - right) * count for confidence, right, count in curve) / total
