"""Where a committee is unsure of an image, and between which classes: small enough to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from acquisition.aggregate import interior

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.committee.prediction import Prediction

SIDE = 64
"""Cells along the longer side: of an image of 1024 px each is 16 px wide, about what a person takes
in at a glance."""


@dataclass(frozen=True)
class Hesitation:
    """A coarse map of a measure, and what stands at its highest cell.

    Attributes:
        size: H, W of the image in pixels.
        grid: [h, w] uint8, the measure's mean in each cell, in 255ths of the highest.
        at: the highest cell's third of the image, 0 to 2 from the top and from the left.
        between: the two likeliest classes there, each with its probability; the likelier first.
    """

    size: tuple[int, int]
    grid: NDArray[np.uint8]
    at: tuple[int, int]
    between: tuple[tuple[str, float], tuple[str, float]]


def find_hesitation(
    prediction: Prediction, measure: str, classes: Sequence[str]
) -> Hesitation | None:
    """Where a measure is high, off the boundaries of what is predicted: these it always marks.

    Args:
        measure: a key of ``prediction.maps``.
        classes: names by index.

    Returns:
        None where the measure is 0 off the boundaries, or no number.
    """
    inside = interior(torch.from_numpy(prediction.predicted)[None])[0].numpy()
    values = np.where(inside, prediction.maps[measure], np.float32(0))
    height, width = values.shape
    scale = min(1.0, SIDE / max(height, width))
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    cells = cv2.resize(values, (w, h), interpolation=cv2.INTER_AREA)
    highest = float(cells.max())
    if not (np.isfinite(highest) and highest > 0):
        return None
    row, column = (int(each) for each in np.unravel_index(cells.argmax(), cells.shape))
    rows = slice(row * height // h, (row + 1) * height // h)
    columns = slice(column * width // w, (column + 1) * width // w)
    shares = prediction.probs[:, rows, columns].mean(axis=(1, 2))
    first, second = np.argsort(-shares, kind="stable")[:2].tolist()
    return Hesitation(
        size=prediction.size,
        grid=np.round(cells * np.float32(255 / highest)).clip(0, 255).astype(np.uint8),
        at=(row * 3 // h, column * 3 // w),
        between=(
            (classes[first], float(shares[first])),
            (classes[second], float(shares[second])),
        ),
    )
