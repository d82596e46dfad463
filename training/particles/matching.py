"""Particles of a truth and of a prediction: how many, and how many were found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acquisition.masks import UNKNOWN
from training.particles.instances import connected, instances

MATCHING_IOU = 0.5
"""A particle is found by one of its class whose IoU with it is above this. Above a half no particle
can have two partners, so there is nothing to choose. Kirillov et al. 2019 (arXiv 1801.00868)."""


@dataclass(frozen=True)
class Particles:
    """Counts per class; those of several images add up. The background, class 0, has none.

    Attributes:
        truth: [C] particles of the truth.
        predicted: [C] particles of the prediction.
        found: [C] pairs of the two that match.
    """

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    found: NDArray[np.int64]

    @classmethod
    def none(cls, classes: int) -> Particles:
        """Of no image yet."""
        zero = np.zeros(classes, np.int64)
        return cls(zero, zero, zero)

    def __add__(self, other: Particles) -> Particles:
        return Particles(
            self.truth + other.truth, self.predicted + other.predicted, self.found + other.found
        )

    def recall(self) -> list[float | None]:
        """[C] share of the truth's particles that were found; None for a class without any."""
        return _shares(self.found, self.truth)

    def precision(self) -> list[float | None]:
        """[C] share of the predicted particles that are there; None for a class without any."""
        return _shares(self.found, self.predicted)


def particles(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Particles:
    """Count and match the particles of two class-index masks [H, W] where the truth is known.

    Raises:
        ValueError: the shapes differ.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} differ in shape")
    known = np.where(truth == UNKNOWN, 0, predicted)
    counts = np.zeros((3, classes), np.int64)
    for c in range(1, classes):
        true, ours = connected(truth == c), connected(known == c)
        counts[:, c] = true.max(initial=0), ours.max(initial=0), matches(true, ours)
    return Particles(*counts)


def count_particles(mask: NDArray[np.uint8]) -> int:
    """Connected sets (8 neighbours) of pixels of one class but background, in a mask [H, W]."""
    return len(instances(mask).classes)


def matches(true: NDArray[np.int32], ours: NDArray[np.int32], iou: float = MATCHING_IOU) -> int:
    """How many pairs of two numberings [H, W] match: their IoU is above this, at least a half."""
    both = (true > 0) & (ours > 0)
    width = int(ours.max(initial=0)) + 1
    pairs, shared = np.unique(true[both].astype(np.int64) * width + ours[both], return_counts=True)
    areas = np.bincount(true.ravel())[pairs // width] + np.bincount(ours.ravel())[pairs % width]
    return int((shared > iou * (areas - shared)).sum())


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> list[float | None]:
    return [p / w if w else None for p, w in zip(part.tolist(), whole.tolist(), strict=True)]
