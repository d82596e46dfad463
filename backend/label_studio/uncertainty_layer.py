"""The uncertainty layer of a pre-annotation: one region that nobody can draw on, and none reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import orjson

from backend.label_studio import brush
from backend.label_studio.reserved_controls import LAYER, UNSURE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MOST_BYTES = 150_000
"""JSON of one layer, whatever the image's size."""

STEPS = (8, 6, 4, 3)
"""Steps of opacity that are tried in turn; of fewer than three nobody sees where it is worst."""

MOST_ALPHA = 127
"""Label Studio lets clicks through to what is beneath, which it does not where alpha is 255. And a
brush's pixels count where alpha is above this: read by mistake, the layer paints nothing."""


def layer_region(
    grid: NDArray[np.uint8], size: tuple[int, int], image_name: str, text: str
) -> dict[str, Any]:
    """A grid over an image as graded opacity, as fine as ``MOST_BYTES`` allows.

    Args:
        grid: [h, w], 255 where the layer is most opaque.
        size: H, W of the image in pixels.
        text: what Label Studio shows when the region is selected.

    Returns:
        A result of the control ``LAYER``, as Label Studio stores it.
    """
    height, width = size
    rle: list[int] = []
    for alpha in _coarser_and_coarser(grid, size):
        rle = brush.encode_alpha(alpha)
        if len(orjson.dumps(rle)) <= MOST_BYTES:
            break
    return {
        "id": "committee-unsure",
        "from_name": LAYER,
        "to_name": image_name,
        "type": "brushlabels",
        "readonly": True,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "meta": {"text": [text]},
        "value": {"format": "rle", "rle": rle, "brushlabels": [UNSURE]},
    }


def _coarser_and_coarser(
    grid: NDArray[np.uint8], size: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    """Alpha [H, W]; the last is one step of opacity all over."""
    while True:
        # Smooth between cells: an outline has fewer runs than steps of squares, and reads better.
        whole = cv2.resize(grid, size[::-1], interpolation=cv2.INTER_LINEAR)
        for steps in STEPS:
            levels = np.arange(256) * (steps + 1) // 256
            alphas = np.round(levels * (MOST_ALPHA / steps)).astype(np.uint8)
            yield np.asarray(cv2.LUT(whole, alphas), np.uint8)
        if grid.size == 1:
            return
        h, w = grid.shape
        half = (max(1, w // 2), max(1, h // 2))
        coarser = cv2.resize(grid, half, interpolation=cv2.INTER_AREA)
        grid = np.asarray(coarser, np.uint8).reshape(half[::-1])
