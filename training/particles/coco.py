"""COCO's files of instances, and its run-length code of masks.

The code runs down the columns: background first, then mask, in turn. Compressed, each length is
written with five bits a character from "0" on, from the fourth one on as the difference from the
one before the last.

Source: cocodataset.org/#format-data; common/maskApi.c of cocodataset/cocoapi. By hand: pycocotools
is a compiled package for these few lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.files import replacing
from training.particles.instances import instances

MOST_CHARACTERS = 2**22
"""Of one compressed mask; a noisy one of 4096 x 4096 pixels takes a fraction."""

MOST_SHIFTS = 13
"""Characters of one length; seven hold any that an image has."""

Mask = NDArray[np.bool_]


class BadRuns(TrainingError):
    """A run-length code that does not describe a mask of its size."""


def encode_runs(inside: Mask, top: int, left: int, size: tuple[int, int]) -> str:
    """The compressed code of a mask [H, W] that is set within a box alone.

    Args:
        inside: [h, w] the mask within the box, whose corner is at ``top`` and ``left``.
        size: H, W.
    """
    height, width = size
    columns, rows = np.nonzero(inside.T)
    at = (columns + left) * height + rows + top
    # A run begins where the pixel before is not set.
    begins = np.flatnonzero(np.diff(at, prepend=-2) != 1)
    lasts = at[np.append(begins[1:], len(at)) - 1] if len(at) else at
    ends = np.stack([at[begins], lasts + 1], axis=1).ravel()
    counts = np.diff(ends, prepend=0, append=height * width)
    if counts[-1] == 0:
        counts = counts[:-1]
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


@dataclass(frozen=True)
class CocoImage:
    """An image of a file of instances.

    Attributes:
        number: its id.
        file: its name.
        size: H, W in pixels.
        particles: as ``coco_particle`` makes them.
    """

    number: int
    file: str
    size: tuple[int, int]
    particles: Iterable[dict[str, Any]]


def coco_particle(
    category: int, area: int, box: tuple[int, int, int, int], counts: str, size: tuple[int, int]
) -> dict[str, Any]:
    """A particle of an image of this size.

    Args:
        box: top, left, bottom, right; bottom and right lie outside.
        counts: the code of its pixels.
    """
    top, left, bottom, right = box
    return {
        "category_id": category,
        "bbox": [left, top, right - left, bottom - top],
        "area": area,
        "iscrowd": 0,
        "segmentation": {"size": list(size), "counts": counts},
    }


def coco_particles(mask: NDArray[np.uint8]) -> Iterator[dict[str, Any]]:
    """The particles of a mask [H, W] of class indices, 255 unknown: exact to the pixel."""
    found = instances(mask)
    height, width = mask.shape
    # Without scipy's boxes each particle would be sought in the whole image.
    from scipy.ndimage import find_objects

    for number, (rows, columns) in enumerate(find_objects(found.numbers), start=1):
        inside = found.numbers[rows, columns] == number
        box = (rows.start, columns.start, rows.stop, columns.stop)
        counts = encode_runs(inside, box[0], box[1], (height, width))
        area = int(inside.sum())
        category = int(found.classes[number - 1])
        yield coco_particle(category, area, box, counts, (height, width))


def write_coco(path: Path, images: Iterable[CocoImage], classes: Sequence[str]) -> None:
    """Write a file of instances. A reader sees all of it or none; one image is in memory at a time.

    Args:
        classes: names by index; category 1 is the first after the background.
    """
    listed: list[dict[str, object]] = []
    number = 0
    categories = [{"id": index, "name": name} for index, name in enumerate(classes) if index]
    with replacing(path) as file:
        file.write('{"info": {"description": "Written by Committee"}, "licenses": [],\n')
        file.write(f'"categories": {json.dumps(categories)},\n"annotations": [')
        for image in images:
            H, W = image.size
            listed.append({"id": image.number, "file_name": image.file, "height": H, "width": W})
            for particle in image.particles:
                number += 1
                entry = {"id": number, "image_id": image.number, **particle}
                file.write((",\n" if number > 1 else "\n") + json.dumps(entry))
        file.write(f'],\n"images": {json.dumps(listed)}}}\n')
