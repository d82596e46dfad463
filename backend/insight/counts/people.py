"""What a person counted: the particles in an annotation, one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from acquisition.masks import UNKNOWN
from backend.label_studio.geometry import Patch
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.regions import read_annotation
from backend.options import ProjectOptions
from training.particles.instances import instances


@dataclass(frozen=True)
class Tally:
    """What one image shows.

    Attributes:
        counts: [C] particles of each class; the background, class 0, has none.
        areas: [C] share of the known pixels.
        unknown: share of the pixels of which nothing is known.
    """

    counts: NDArray[np.float64]
    areas: NDArray[np.float64]
    unknown: float


def count_people(
    annotations: Sequence[Mapping[str, Any]],
    size: tuple[int, int],
    config: LabelConfig,
    options: ProjectOptions,
    classes: Sequence[str],
    split: Mapping[int, float],
) -> Tally:
    """What a task's annotators counted, on average over them.

    As in training, annotations marked as ground truth decide alone.

    Args:
        annotations: at least one, and no skipped ones.
        size: (H, W) of the image.
        classes: names by index, background first.
        split: as the committee's particles were told apart in this image.
    """
    deciding = [a for a in annotations if a.get("ground_truth")] or list(annotations)
    tallies = [_count(a["result"], size, config, options, classes, split) for a in deciding]
    return Tally(
        np.mean([each.counts for each in tallies], axis=0),
        np.mean([each.areas for each in tallies], axis=0),
        float(np.mean([each.unknown for each in tallies])),
    )


def _count(
    result: object,
    size: tuple[int, int],
    config: LabelConfig,
    options: ProjectOptions,
    classes: Sequence[str],
    split: Mapping[int, float],
) -> Tally:
    drawn = _Drawn(size)
    mask = read_annotation(
        result,
        config,
        classes,
        size,
        unlabelled=UNKNOWN if options.unlabelled == "unknown" else 0,
        unknown_label=options.unknown_label,
        aliases=options.aliases,
        drawn=drawn,
    ).mask
    pixels = np.bincount(mask.ravel(), minlength=256)
    known = mask.size - int(pixels[UNKNOWN])
    areas = pixels[: len(classes)] / max(known, 1)
    counts = drawn.counts(len(classes), options.min_particle_px, split)
    return Tally(counts, areas, 1 - known / mask.size)


class _Drawn:
    """The regions of an annotation, as far as no later one covers them."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._numbers = np.zeros(size, np.int32)
        self._regions: list[tuple[int, bool]] = []

    def __call__(self, value: int, shape: str | None, patch: Patch) -> None:
        self._regions.append((value, shape in ("brush", "bitmask")))
        patch.paint(self._numbers, len(self._regions))

    def counts(self, classes: int, min_px: int, split: Mapping[int, float]) -> NDArray[np.float64]:
        """[C] particles of each class.

        An outline is one. Brushes and bitmasks of a class are one each where every one of several
        is of one piece; else they are the class's mask, which is divided as the committee's is.
        """
        counts = np.zeros(classes)
        pieces: dict[int, list[int]] = defaultdict(list)
        for value, is_mask, part in self._visible():
            if value in (0, UNKNOWN):
                continue
            if is_mask:
                pieces[value].append(len(instances(part.astype(np.uint8), min_px).classes))
            else:
                counts[value] += 1
        for value, of in pieces.items():
            one_by_one = len(of) > 1 and max(of) <= 1
            counts[value] += len(of) if one_by_one else self._divided(value, min_px, split)
        return counts

    def _visible(self) -> Iterator[tuple[int, bool, NDArray[np.bool_]]]:
        """What each region paints, whether it is a mask, and its pixels within its box."""
        boxes = find_objects(self._numbers)
        for number, (box, (value, is_mask)) in enumerate(
            zip(boxes, self._regions[: len(boxes)], strict=True), start=1
        ):
            if box is not None:
                yield value, is_mask, self._numbers[box] == number

    def _divided(self, value: int, min_px: int, split: Mapping[int, float]) -> int:
        """Particles of all brushes and bitmasks of a class together."""
        ours = np.array([0, *(value * (is_mask and v == value) for v, is_mask in self._regions)])
        mask = ours.astype(np.uint8)[self._numbers]
        return len(instances(mask, min_px, split=split).classes)
