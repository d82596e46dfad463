"""Label Studio's brush codec beside the SDK's, on ordinary masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from label_studio_sdk.converter.brush import decode_rle, mask2rle

from backend.label_studio import brush
from tests.bench.harness import Measured, row, side_by_side

Mask = npt.NDArray[np.bool_]

AGAINST = "label_studio_sdk.converter.brush"
GOAL = 10.0
MASKS = 3


def blob_mask(side_px: int, seed: int) -> Mask:
    """A field of cells as people paint them: round with a wavy rim, some of them overlapping.

    The cells keep their size in pixels, so a larger image holds more of them: 12 on 512 x 512,
    48 on 1024 x 1024, at least one.
    """
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side_px, :side_px]
    mask = np.zeros((side_px, side_px), dtype=bool)
    for _ in range(max(1, 12 * side_px**2 // 512**2)):
        center_y, center_x = generator.uniform(0, side_px, size=2)
        radius = generator.uniform(20, 60)
        angle = np.arctan2(y - center_y, x - center_x)
        waves, phase = generator.integers(3, 9), generator.uniform(0, 2 * np.pi)
        rim = radius * (1 + 0.12 * np.sin(waves * angle + phase))
        mask |= np.hypot(y - center_y, x - center_x) < rim
    return mask


def encode_row(side_px: int) -> Measured:
    masks = [blob_mask(side_px, seed) for seed in range(MASKS)]
    painted = [mask.astype(np.uint8) * 255 for mask in masks]
    for mask, paint in zip(masks, painted, strict=True):
        np.testing.assert_array_equal(sdk_alpha(brush.encode(mask), side_px), paint)
    return side_by_side(
        lambda: [brush.encode(mask) for mask in masks],
        lambda: [mask2rle(paint) for paint in painted],
        scale=1 / MASKS,
    )


def decode_row(side_px: int) -> Measured:
    streams = [brush.encode(blob_mask(side_px, seed)) for seed in range(MASKS)]
    for stream in streams:
        ours = brush.decode(stream, side_px, side_px)
        np.testing.assert_array_equal(ours, sdk_alpha(stream, side_px))
    return side_by_side(
        lambda: [brush.decode(stream, side_px, side_px) for stream in streams],
        lambda: [sdk_alpha(stream, side_px) for stream in streams],
        scale=1 / MASKS,
    )


def sdk_alpha(stream: list[int], side_px: int) -> npt.NDArray[np.uint8]:
    return decode_rle(stream).reshape(side_px, side_px, 4)[:, :, 3]


for _side_px in (512, 1024):
    for _way, _measure in (("encode", encode_row), ("decode", decode_row)):
        row(
            "live-loop",
            f"brush_{_way}_{_side_px}",
            against=AGAINST,
            unit="ms/mask",
            goal=GOAL,
            sizes=_side_px,
            small=64,
        )(_measure)
