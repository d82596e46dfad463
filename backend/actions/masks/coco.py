"""COCO's files of instances, as masks of their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from acquisition.masks import BACKGROUND, UNKNOWN
from backend.actions.masks.class_names import ClassNames
from backend.actions.masks.given import BadMask, Given, Labels
from backend.errors import BadRegion, BadRequest
from backend.label_studio.geometry import Patch, fill_polygon
from backend.label_studio.image_paths import without_ending
from backend.label_studio.regions import MOST_EFFORT, MOST_RESULTS
from backend.label_studio.shapes import FARTHEST, MAX_POINTS
from training.particles.coco import BadRuns, decode_runs
from training.particles.instances import Instances
from training.pixels import MAX_PIXELS

MAX_FILE_BYTES = 2**29
"""It is read as a whole, which takes some ten times as much."""

_PARTS = ("images", "annotations", "categories")


def is_coco(path: Path) -> bool:
    """Whether a JSON file has COCO's parts; False of what is too large or no JSON."""
    try:
        return _read(path).keys() >= set(_PARTS)
    except BadRequest:
        return False


def read_coco(path: Path, names: ClassNames) -> list[Given]:
    """The images of a COCO file; each one's mask is made when it is read.

    Raises:
        BadRequest: it is no such file.
    """
    content = _read(path)
    for part in _PARTS:
        if not _are_objects(content.get(part)):
            raise BadRequest(f"{path} is no COCO file of instances: its {part} must be objects.")
    categories = {_key(each.get("id")): str(each.get("name")) for each in content["categories"]}
    drawn: dict[str, list[Mapping[str, Any]]] = {}
    for each in content["annotations"]:
        drawn.setdefault(_key(each.get("image_id")), []).append(each)
    return [
        Given(
            without_ending(str(image.get("file_name")).replace("\\", "/")),
            f"{path}, {image.get('file_name')}",
            partial(_labels, image, drawn.get(_key(image.get("id")), []), categories, names),
        )
        for image in content["images"]
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadRequest(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB: split it.")
        content = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise BadRequest(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise BadRequest(f"{path} is no COCO file: it must be an object.")
    return content


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _key(value: object) -> str:
    """Numbers and texts are both in use as ids."""
    return str(value)[:100]


def _labels(
    image: Mapping[str, Any],
    drawn: Sequence[Mapping[str, Any]],
    categories: Mapping[str, str],
    names: ClassNames,
) -> Labels:
    size = _size(image)
    if not drawn:
        raise BadMask("it has no annotations: whether the image is empty cannot be told.")
    if len(drawn) > MOST_RESULTS:
        raise BadMask(f"it has {len(drawn)} annotations, and at most {MOST_RESULTS} are read.")
    numbers = np.zeros(size, np.int32)
    mask = np.zeros(size, np.uint8)
    classes = np.zeros(len(drawn), np.uint8)
    effort = 0
    # The larger ones first, so that what lies on another is seen.
    for number, each in enumerate(sorted(drawn, key=_area, reverse=True), start=1):
        name = categories.get(_key(each.get("category_id")))
        index = None if name is None else names.named(name)
        if index is None:
            raise BadMask(
                f"nothing says which label the category {name or each.get('category_id')!r} is: "
                f"add --map {name or 'NAME'}=LABEL ({names.labels})."
            )
        try:
            patches = _patches(each.get("segmentation"), size)
        except (BadRuns, BadRegion) as error:
            raise BadMask(f"annotation {each.get('id')}: {str(error).rstrip('.')}.") from error
        for patch in patches:
            effort += patch.mask.size + patch.effort
            _paint(patch, numbers, number)
            patch.paint(mask, index)
        if effort > MOST_EFFORT:
            raise BadMask(f"its annotations hold more than {MOST_EFFORT} pixels together.")
        classes[number - 1] = index
    # What is hidden, or is no particle, gets no number.
    numbers[(mask == BACKGROUND) | (mask == UNKNOWN)] = 0
    present, found = np.unique(numbers, return_inverse=True)
    found = found.reshape(size).astype(np.int32) + (present[0] != 0)
    return Labels(mask, Instances(found, classes[present[present > 0] - 1]))


def _size(image: Mapping[str, Any]) -> tuple[int, int]:
    height, width = image.get("height"), image.get("width")
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise BadMask("its height and width must be whole numbers.")
    if height * width > MAX_PIXELS:
        raise BadMask(f"it has {width} x {height} pixels, and at most {MAX_PIXELS} are read.")
    return height, width


def _area(annotation: Mapping[str, Any]) -> float:
    area = annotation.get("area")
    # NaN is not equal to itself.
    return float(area) if isinstance(area, int | float) and area == area else 0.0


def _paint(patch: Patch, numbers: np.ndarray[Any, np.dtype[np.int32]], number: int) -> None:
    height, width = patch.mask.shape
    part = numbers[patch.top : patch.top + height, patch.left : patch.left + width]
    part[patch.mask] = number


def _patches(segmentation: object, size: tuple[int, int]) -> list[Patch]:
    """Polygons, or a run-length code."""
    if isinstance(segmentation, Mapping):
        if segmentation.get("size") != list(size):
            raise BadRuns(f"its segmentation must be of the image's size, {list(size)}")
        left, part = decode_runs(segmentation.get("counts"), size)
        return [Patch(0, left, part)]
    if not isinstance(segmentation, list) or not segmentation:
        raise BadRuns("it has no segmentation, and a box is no mask")
    return [fill_polygon(_points(outline), size) for outline in segmentation]


def _points(outline: object) -> np.ndarray[Any, np.dtype[np.float64]]:
    if (
        not isinstance(outline, list)
        or not 6 <= len(outline) <= 2 * MAX_POINTS
        or len(outline) % 2
        or any(type(value) not in (int, float) for value in outline)
    ):
        raise BadRuns("each of its polygons must be a list of x and y in turn, of three or more")
    if any(not abs(value) <= FARTHEST for value in outline):
        raise BadRuns("its polygons lie far outside the image")
    return np.array(outline, np.float64).reshape(-1, 2)
