"""Checks of the arrays that public functions take: shape, type, and whether they are probs."""

from __future__ import annotations

import torch
from torch import Tensor

# bfloat16 rounds each probability by up to 2**-9 of itself, so an honest sum over the classes
# strays from 1 by at most 0.002; logits stray by far more.
SUM_TOLERANCE = 0.01


def check_probs(probs: Tensor) -> None:
    """Raise unless these are an ensemble's class probabilities [M, N, C, H, W].

    Raises:
        TypeError: ``probs`` is not floating point.
        ValueError: ``probs`` is not 5-d, has an empty axis, or holds a pixel whose class
            values are not probabilities (negative, NaN, or not summing to 1 over C).
    """
    check_probs_shape(probs)
    check_distribution(probs, class_dim=2)


def check_probs_shape(probs: Tensor) -> None:
    """The part of ``check_probs`` that reads no pixel.

    Raises:
        TypeError, ValueError: as ``check_probs``.
    """
    if probs.ndim != 5:
        raise ValueError(f"probs must be [M, N, C, H, W], got shape {tuple(probs.shape)}")
    if 0 in probs.shape:
        raise ValueError(f"probs [M, N, C, H, W] has an empty axis: {tuple(probs.shape)}")
    if not probs.is_floating_point():
        raise TypeError(f"probs must be floating point, got {probs.dtype}")


def check_distribution(probs: Tensor, class_dim: int) -> None:
    """Raise unless the values are probabilities over ``class_dim``; finds logits above all.

    Raises:
        ValueError: a value is negative or NaN, or they do not sum to 1.
    """
    lowest = probs.amin()
    sums = probs.sum(dim=class_dim)
    off = (sums - 1).abs_().amax()
    # Written so that a NaN fails both.
    if not (bool(lowest >= 0) and bool(off <= SUM_TOLERANCE)):
        raise ValueError(
            "probs must be probabilities that sum to 1 over C; "
            f"the lowest value is {lowest.item():.4g} and the sums lie between "
            f"{sums.amin().item():.4g} and {sums.amax().item():.4g}. "
            "Pass softmax(logits), not logits."
        )


def check_map(uncertainty_map: Tensor) -> None:
    """Raise unless this is a stack of uncertainty maps [N, H, W].

    Raises:
        TypeError: it is not floating point.
        ValueError: it is not 3-d, or has an empty axis.
    """
    shape = tuple(uncertainty_map.shape)
    if uncertainty_map.ndim != 3 or 0 in shape:
        raise ValueError(f"an uncertainty map must be [N, H, W] without empty axis, got {shape}")
    if not uncertainty_map.is_floating_point():
        raise TypeError(f"an uncertainty map must be floating point, got {uncertainty_map.dtype}")


def check_predicted(uncertainty_map: Tensor, predicted: Tensor) -> None:
    """Raise unless the class indices match the map pixel by pixel.

    Raises:
        TypeError: ``predicted`` is not uint8.
        ValueError: its shape is not the map's [N, H, W].
    """
    if predicted.dtype != torch.uint8:
        raise TypeError(f"predicted must be class indices as uint8, got {predicted.dtype}")
    if predicted.shape != uncertainty_map.shape:
        raise ValueError(
            f"predicted {tuple(predicted.shape)} must have the map's shape "
            f"{tuple(uncertainty_map.shape)}"
        )
