"""A folder's masks as labels and brush strokes of Label Studio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from acquisition.masks import UNKNOWN
from backend.label_studio.brush import encode
from backend.label_studio.label_config import CONTROL_NAME, IMAGE_NAME, build_label_config
from training.colours import class_colour

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def label_config(classes: Sequence[str], unknown: str) -> str:
    """Label Studio's configuration: one brush label per class but background, and unknown."""
    names = [*enumerate(classes[1:], start=1), (UNKNOWN, unknown)]
    return build_label_config((name, class_colour(index)) for index, name in names)


def strokes(
    mask: NDArray[np.uint8],
    classes: Sequence[str],
    unknown: str,
    prediction: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """A mask as an annotation's regions, one brush region per class and one for unknown pixels.

    Where the pre-annotation has a region of that label, it is redrawn, as in the browser, and
    keeps its id; other regions of the pre-annotation are erased.

    Args:
        mask: [H, W] class indices, 255 unknown.
    """
    height, width = mask.shape
    drawn: dict[str, str] = {}
    for region in [] if prediction is None else prediction["result"]:
        for label in region["value"].get("brushlabels", []):
            drawn.setdefault(label, region["id"])
    regions: list[dict[str, Any]] = []
    for index, label in [*enumerate(classes[1:], start=1), (UNKNOWN, unknown)]:
        pixels = mask == index
        if not pixels.any():
            continue
        regions.append(
            {
                "id": drawn.get(label, f"class-{index}"),
                "from_name": CONTROL_NAME,
                "to_name": IMAGE_NAME,
                "type": "brushlabels",
                "origin": "prediction-changed" if label in drawn else "manual",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {"format": "rle", "rle": encode(pixels), "brushlabels": [label]},
            }
        )
    return regions
