"""What a committee predicts for one image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from acquisition.adaptive import Judgement, judge
from acquisition.uncertainty import entropy_of_mean
from training.compute import bounded_threads

STRIP_PX = 1 << 19
"""Pixels of the full-size image that are enlarged at once: with 9 classes 19 MB."""

STRIP_VALUES = 16 * STRIP_PX
"""Probabilities that are enlarged at once, where more classes make them more: 34 MB."""

STRIP_THREADS = 1
"""More gain nothing on so little, and on busy cores their waiting takes three times the work."""


@dataclass(frozen=True)
class Segmentation:
    """The classes of one image.

    Attributes:
        size: H, W of the image in pixels.
        probs: [C, h, w] float32, the members' mean, calibrated, at the network's resolution.
    """

    size: tuple[int, int]
    probs: NDArray[np.float32]

    def mask(self) -> NDArray[np.uint8]:
        """[H, W] class indices: the likeliest class of the enlarged probabilities."""
        return self._enlarged[0]

    def confidence(self) -> NDArray[np.float32]:
        """[H, W] probability of the winning class, in steps of 1/255."""
        return cast(NDArray[np.float32], self._enlarged[1] / np.float32(255))

    def uncertainty(self) -> NDArray[np.float32]:
        """[H, W] predictive entropy in nats, enlarged from the network's resolution."""
        small = np.empty(self.probs.shape[1:], np.float32)
        whole = np.empty(self.size, np.float32)
        probs = torch.from_numpy(self.probs)
        step = max(1, STRIP_VALUES // (len(self.probs) * small.shape[1]))
        with bounded_threads(STRIP_THREADS):
            for top in range(0, len(small), step):
                small[top : top + step] = entropy_of_mean(probs[:, top : top + step]).numpy()
            for rows, values in _enlarge(small[None], self.size):
                whole[rows] = values[0].numpy()
        return whole

    @cached_property
    def _enlarged(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        mask, confidence = np.empty(self.size, np.uint8), np.empty(self.size, np.uint8)
        with bounded_threads(STRIP_THREADS):
            for rows, probs in _enlarge(self.probs, self.size):
                highest, winner = probs.max(dim=0)
                mask[rows] = winner.to(torch.uint8).numpy()
                confidence[rows] = (highest * 255).round_().to(torch.uint8).numpy()
        return mask, confidence


@dataclass(frozen=True)
class Prediction(Segmentation):
    """A committee's prediction for one image.

    Attributes:
        predicted: [h, w] uint8 class indices.
        maps: the measures of ``acquisition.uncertainty.MEASURES``, each [h, w] float32.
        arms: "measure/aggregate" to the image's score.
        class_scores: [C] float32 nats, the mean predictive entropy of the pixels predicted as each
            class; 0 for a class with fewer pixels than an object has.
        features: [M, F] float32, each member's features of the whole image.
    """

    predicted: NDArray[np.uint8]
    maps: Mapping[str, NDArray[np.float32]]
    arms: Mapping[str, float]
    class_scores: NDArray[np.float32]
    features: NDArray[np.float32]

    def judge(self, truth: NDArray[np.uint8]) -> Judgement:
        """How well each measure marked the pixels where this prediction is wrong.

        Args:
            truth: [h, w] uint8 class indices, 255 where unknown.
        """
        return judge(
            {name: torch.from_numpy(each)[None] for name, each in self.maps.items()},
            torch.from_numpy(self.predicted)[None],
            torch.from_numpy(truth)[None],
        )


def _enlarge(values: NDArray[np.float32], size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """Rows of an image of this size and their values [C, rows, W], of [C, h, w], without seams."""
    H, W = size
    C, h, w = values.shape
    small = torch.from_numpy(values)
    step = max(1, min(STRIP_PX, STRIP_VALUES // C) // W)
    for top in range(0, H, step):
        whole = slice(top, min(top + step, H))
        if (h, w) == size:
            yield whole, small[:, whole]
            continue
        rows = np.arange(whole.start, whole.stop)
        # Pixel centres lie at halves, as in torch's interpolation of the columns.
        at = np.clip((rows + 0.5) * h / H - 0.5, 0, h - 1)
        above = np.floor(at).astype(np.int64)
        below = np.minimum(above + 1, h - 1)
        share = torch.from_numpy((at - above).astype(np.float32))[:, None]
        strip = torch.lerp(small[:, above], small[:, below], share)  # [C, rows, w]
        wide = F.interpolate(strip[None], (len(rows), W), mode="bilinear", align_corners=False)
        yield whole, wide[0]


def winners(probs: Tensor) -> Tensor:
    """The likeliest class [B, h, w] uint8 of probs [B, C, h, w], the first one of equals.

    Takes a sixth of the time of ``argmax`` over an axis that is not the innermost.
    """
    best, winner = probs[:, 0].clone(), torch.zeros_like(probs[:, 0], dtype=torch.uint8)
    for c in range(1, probs.shape[1]):
        winner.masked_fill_(probs[:, c] > best, c)
        torch.maximum(best, probs[:, c], out=best)
    return winner
