"""What clicks are compared with: the predicted mask itself, superpixels, and GrabCut."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import slic

from training.particles.clicked import Click, Predicted
from training.particles.instances import connected

Mask = NDArray[np.bool_]


def own_mask(predicted: Predicted, clicks: Sequence[Click], _label: str) -> Mask:
    """The connected set of predicted foreground under the first click; others change nothing."""
    sets = connected(predicted.numbers > 0)
    number = sets[clicks[0].row, clicks[0].column]
    return np.asarray((sets == number) & (number > 0))


def superpixels(predicted: Predicted, clicks: Sequence[Click], label: str) -> Mask:
    """SLIC and a threshold: superpixels with a mean foreground of a half that hang together with
    a clicked one, and those that are clicked; without those that a click takes away."""
    side = predicted.diameter_px(label) / 3
    area = predicted.numbers.size
    numbers = _superpixels(predicted.image.tobytes(), predicted.image.shape, int(area / side**2))
    foreground = cv2.resize(predicted.foreground, predicted.size[::-1])
    mean = np.bincount(numbers.ravel(), foreground.ravel()) / np.bincount(numbers.ravel())
    inside = mean >= 127.5
    for click in clicks:
        inside[numbers[click.row, click.column]] = click.adds
    sets = connected(inside[numbers])
    chosen = {int(sets[click.row, click.column]) for click in clicks if click.adds}
    return np.asarray(np.isin(sets, list(chosen - {0})))


@lru_cache(maxsize=1)
def _superpixels(image: bytes, shape: tuple[int, ...], count: int) -> NDArray[np.int64]:
    pixels = np.frombuffer(image, np.uint8).reshape(shape)
    return np.asarray(slic(pixels, n_segments=max(2, count), start_label=0), np.int64)


def grabcut(predicted: Predicted, clicks: Sequence[Click], label: str) -> Mask:
    """GrabCut of the image alone, that knows the typical diameter: probably the particle within
    half of it around a click, nothing of it farther than a whole one."""
    diameter = predicted.diameter_px(label)
    marks = np.full(predicted.size, cv2.GC_BGD, np.uint8)
    for radius, value in ((1.0, cv2.GC_PR_BGD), (0.5, cv2.GC_PR_FGD)):
        for click in clicks:
            if click.adds:
                _disc(marks, click, radius * diameter, value)
    for click in clicks:
        _disc(marks, click, 0.1 * diameter, cv2.GC_FGD if click.adds else cv2.GC_BGD)
    reach = int(1.3 * diameter)
    rows = [click.row for click in clicks]
    columns = [click.column for click in clicks]
    window = np.s_[
        max(0, min(rows) - reach) : max(rows) + reach,
        max(0, min(columns) - reach) : max(columns) + reach,
    ]
    part = np.ascontiguousarray(marks[window])
    models = np.zeros((2, 1, 65))
    cv2.setRNGSeed(0)
    seen = np.ascontiguousarray(predicted.image[window])
    cv2.grabCut(seen, part, (0, 0, 1, 1), models[0], models[1], 3, cv2.GC_INIT_WITH_MASK)
    sets = connected((part & 1).astype(np.bool_))
    found = np.zeros(predicted.size, np.bool_)
    chosen = {
        int(sets[c.row - window[0].start, c.column - window[1].start]) for c in clicks if c.adds
    }
    found[window] = np.isin(sets, list(chosen - {0}))
    return found


def _disc(marks: NDArray[np.uint8], click: Click, radius: float, value: int) -> None:
    cv2.circle(marks, (click.column, click.row), max(2, round(radius)), value, -1)
