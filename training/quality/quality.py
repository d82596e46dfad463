"""How good predictions are on several images, and how far their probabilities hold."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.masks import UNKNOWN
from training.quality.calibrate import calibration_error_by_class, expected_calibration_error
from training.quality.metrics import Overlap, overlap


def draw_known(
    mask: NDArray[np.uint8], most: int, rng: np.random.Generator
) -> NDArray[np.signedinteger]:
    """Places of known pixels in a flattened mask, so many at most, drawn without replacement.

    Neighbours say much the same, so a few thousand of an image say what all of it would.
    """
    known = np.flatnonzero(mask != UNKNOWN)
    return rng.choice(known, min(len(known), most), replace=False)


class Quality:
    """Overlap and calibration of predictions, image by image.

    Args:
        classes: C, background included.
        drawn_px: pixels of each image that calibration is measured on. The same masks in the same
            order give the same pixels, whoever predicts them.

    Attributes:
        overlap: of all images so far.
    """

    def __init__(self, classes: int, drawn_px: int) -> None:
        self.overlap = Overlap.none(classes)
        self._drawn_px = drawn_px
        self._rng = np.random.default_rng(0)
        self._probs: list[NDArray[np.float32]] = []
        self._truth: list[NDArray[np.uint8]] = []

    def add(
        self,
        truth: NDArray[np.uint8],
        predicted: NDArray[np.uint8],
        probs: NDArray[np.float32],
    ) -> NDArray[np.signedinteger]:
        """Count one more image.

        Args:
            truth: [h, w] class indices, 255 where nothing is known; those pixels count nowhere.
            predicted: [h, w] class indices.
            probs: [C, h, w].

        Returns:
            [P] places of the drawn pixels in the flattened image.

        Raises:
            ValueError: the shapes differ or an index is no class.
        """
        C = len(self.overlap.truth)
        self.overlap += overlap(truth, predicted, C)
        drawn = draw_known(truth, self._drawn_px, self._rng)
        self._probs.append(probs.reshape(C, -1)[:, drawn].T)
        self._truth.append(truth.ravel()[drawn])
        return drawn

    def ece(self) -> float:
        """Expected calibration error over the drawn pixels of all images."""
        return expected_calibration_error(*self._drawn())

    def ece_by_class(self) -> list[float]:
        """[C] of each class's own probability, over the drawn pixels of all images."""
        return calibration_error_by_class(*self._drawn())

    def _drawn(self) -> tuple[Tensor, Tensor]:
        return (
            torch.from_numpy(np.concatenate(self._probs)),
            torch.from_numpy(np.concatenate(self._truth)).long(),
        )
