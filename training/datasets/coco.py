"""COCO's files of instances, and its run-length code of masks.

The code runs down the columns: background first, then mask, in turn. Compressed, each length is
written with five bits a character from "0" on, from the fourth one on as the difference from the
one before the last.

Source: cocodataset.org/#format-data; common/maskApi.c of cocodataset/cocoapi. By hand: pycocotools
is a compiled package for these few lines.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.particles.instances import instances

MOST_CHARACTERS = 2**22
"""Of one compressed mask; a noisy one of 4096 x 4096 pixels takes a fraction."""

MOST_SHIFTS = 13
"""Characters of one length; seven hold any that an image has."""

Mask = NDArray[np.bool_]


class BadRuns(TrainingError):
    """A run-length code that does not describe a mask of its size."""


def encode_runs(part: Mask, left: int, width: int) -> str:
    """A mask as a compressed code.

    Args:
        part: [H, w], the columns from ``left`` on; nothing else of the mask is set.
        width: of the whole mask.
    """
    height = len(part)
    flat = np.zeros(part.size + 2, bool)
    flat[1:-1] = part.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + left * height
    ends = np.append(changes[changes < width * height], width * height)
    counts = np.diff(ends, prepend=0)
    counts[3:] -= counts[1:-2].copy()
    text = bytearray()
    for count in counts.tolist():
        more = True
        while more:
            bits = count & 31
            count >>= 5
            more = count != -1 if bits & 16 else count != 0
            text.append((bits | 32 if more else bits) + 48)
    return text.decode("ascii")


def decode_runs(counts: object, size: tuple[int, int]) -> tuple[int, Mask]:
    """The mask that a code describes, compressed or as a list of numbers.

    Returns:
        The first column that is set, and the mask [H, w] from there to the last one that is.

    Raises:
        BadRuns: it is something else, or of another size.
    """
    height, width = size
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int for run in runs):
        raise BadRuns("its counts must be a text or a list of whole numbers")
    if any(not 0 <= run <= height * width for run in runs) or sum(runs) != height * width:
        raise BadRuns(f"its counts must add up to {width} x {height} pixels")
    ends = np.cumsum(np.array(runs, np.int64))
    starts, stops = ends[:-1:2], ends[1::2]
    starts, stops = starts[starts < stops], stops[starts < stops]
    if not len(starts):
        return 0, np.zeros((height, 0), bool)
    left, right = int(starts[0]) // height, (int(stops[-1]) - 1) // height + 1
    change = np.zeros((right - left) * height + 1, np.int8)
    np.add.at(change, starts - left * height, 1)
    np.add.at(change, stops - left * height, -1)
    inside = np.cumsum(change[:-1], dtype=np.int8).astype(bool)
    return left, inside.reshape(right - left, height).T


def _runs(text: str) -> list[int]:
    if len(text) > MOST_CHARACTERS:
        raise BadRuns(f"its counts must have at most {MOST_CHARACTERS} characters")
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift >= 5 * MOST_SHIFTS:
            raise BadRuns("its counts are no run-length code")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise BadRuns("its counts end within a number")
    return runs


def write_coco(
    path: Path, images: Iterable[tuple[int, str, NDArray[np.uint8]]], classes: Sequence[str]
) -> None:
    """Write a file of instances: each particle of each mask, exact to the pixel.

    A reader sees all of the file or none of it, and one image at a time is in memory.

    Args:
        images: number, file name and mask [H, W] of class indices, 255 unknown.
        classes: names by index; category 1 is the first after the background.
    """
    folder = Path(mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _write(folder / path.name, images, classes)
        (folder / path.name).replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(
    path: Path, images: Iterable[tuple[int, str, NDArray[np.uint8]]], classes: Sequence[str]
) -> None:
    listed: list[dict[str, object]] = []
    number = 0
    categories = [{"id": index, "name": name} for index, name in enumerate(classes) if index]
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "Exported by Committee"}, "licenses": [],\n')
        file.write(f'"categories": {json.dumps(categories)},\n"annotations": [')
        for image_id, name, mask in images:
            height, width = mask.shape
            listed.append({"id": image_id, "file_name": name, "height": height, "width": width})
            for instance in _instances(mask):
                number += 1
                entry = {"id": number, "image_id": image_id, **instance}
                file.write((",\n" if number > 1 else "\n") + json.dumps(entry))
        file.write(f'],\n"images": {json.dumps(listed)}}}\n')


def _instances(mask: NDArray[np.uint8]) -> Iterable[dict[str, object]]:
    found = instances(mask)
    height, width = mask.shape
    # Without scipy's own boxes each particle would be sought in the whole image.
    from scipy.ndimage import find_objects

    for number, box in enumerate(find_objects(found.numbers), start=1):
        (top, bottom), (left, right) = ((part.start, part.stop) for part in box)
        inside = found.numbers[:, left:right] == number
        yield {
            "category_id": int(found.classes[number - 1]),
            "bbox": [left, top, right - left, bottom - top],
            "area": int(inside.sum()),
            "iscrowd": 0,
            "segmentation": {"size": [height, width], "counts": encode_runs(inside, left, width)},
        }
