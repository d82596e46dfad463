"""Particles as COCO has them: run-length encoded masks, which keep holes and every pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def coco_rle(inside: NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> list[int]:
    """The ``counts`` of a particle in an image of this size, H and W.

    Pixels go down the columns, from left to right; the counts are of pixels outside and inside in
    turn. Any reader of COCO takes this uncompressed form.

    Args:
        inside: [h, w] the particle within its bounding box, at ``top`` and ``left``.
    """
    H, W = size
    columns, rows = np.nonzero(inside.T)
    at = (columns + left) * H + rows + top
    # A run begins where the pixel before is not the particle's.
    begins = np.flatnonzero(np.diff(at, prepend=-2) != 1)
    ends = np.append(begins[1:], len(at)) - 1
    edges = np.stack([at[begins], at[ends] + 1], axis=1).ravel()
    counts: list[int] = np.diff(edges, prepend=0, append=H * W).tolist()
    return counts


def coco_annotation(
    number: int, image: int, category: int, area: int, box: tuple[int, int, int, int], rle: Any
) -> dict[str, Any]:
    """One particle of a COCO file.

    Args:
        box: top, left, bottom, right; bottom and right lie outside.
        rle: what ``coco_rle`` gives, and the image's size as ``{"counts": ..., "size": [H, W]}``.
    """
    top, left, bottom, right = box
    return {
        **{"id": number, "image_id": image, "category_id": category, "iscrowd": 0},
        **{"area": area, "bbox": [left, top, right - left, bottom - top], "segmentation": rle},
    }
