"""Errors as annotators make them, planted in right labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from acquisition.masks import UNKNOWN
from training.examples import Example
from training.particles.instances import instances

Mask = NDArray[np.uint8]
Plant = Callable[[Mask, int, np.random.Generator], Mask | None]
"""From a mask [h, w] of class indices and the number of classes: the wrong one; None where it
cannot be made."""

MIN_PX = 12
"""As the option `min_particle_px` has it: a smaller error is none."""

LOOSE_PX, MOVED_PX = 4, 8


def missing(mask: Mask, _classes: int, rng: np.random.Generator) -> Mask | None:
    """A third of the particles, one at least, was not labelled."""
    found, chosen = _third(mask, rng)
    return None if found is None else np.where(np.isin(found, chosen), 0, mask).astype(np.uint8)


def wrong_class(mask: Mask, classes: int, rng: np.random.Generator) -> Mask | None:
    """A third of the particles, one at least, is labelled as another class."""
    found, chosen = _third(mask, rng)
    if found is None or classes < 3:
        return None
    wrong = mask.copy()
    for number in chosen.tolist():
        inside = found == number
        others = [index for index in range(1, classes) if index != mask[inside][0]]
        wrong[inside] = rng.choice(others)
    return wrong


def loose(mask: Mask, _classes: int, _rng: np.random.Generator) -> Mask | None:
    """Every outline is drawn ``LOOSE_PX`` too wide."""
    side = 2 * LOOSE_PX + 1
    wide = cv2.dilate(_known(mask), np.ones((side, side), np.uint8))
    return np.where(mask == 0, wide, mask).astype(np.uint8)


def moved(mask: Mask, _classes: int, rng: np.random.Generator) -> Mask | None:
    """The whole mask lies ``MOVED_PX`` beside its image, down or up and right or left."""
    down, right = rng.choice([-MOVED_PX, MOVED_PX], 2).tolist()
    h, w = mask.shape
    wrong = np.zeros_like(mask)
    wrong[max(0, down) : h + min(0, down), max(0, right) : w + min(0, right)] = mask[
        max(0, -down) : h + min(0, -down), max(0, -right) : w + min(0, -right)
    ]
    return wrong


KINDS: Mapping[str, Plant] = {
    "missing": missing,
    "loose": loose,
    "moved": moved,
    "wrong class": wrong_class,
}


def plant(
    examples: Sequence[Example], classes: int, count: int, seed: int
) -> tuple[list[Example], dict[str, str]]:
    """Examples, ``count`` of them with a wrong label, and which kind of error each of these has.

    Args:
        classes: C, background included.
    """
    rng = np.random.default_rng([seed, 77])
    kinds = [kind for kind in KINDS if kind != "wrong class" or classes > 2]
    found, planted = list(examples), dict[str, str]()
    for at in rng.permutation(len(examples)).tolist():
        if len(planted) == count:
            break
        kind = kinds[len(planted) % len(kinds)]
        right = examples[at].mask
        wrong = KINDS[kind](right, classes, rng)
        if wrong is not None and int((wrong != right).sum()) >= MIN_PX:
            found[at] = replace(examples[at], mask=wrong)
            planted[examples[at].key] = kind
    return found, planted


def _known(mask: Mask) -> Mask:
    return np.where(mask == UNKNOWN, 0, mask).astype(np.uint8)


def _third(
    mask: Mask, rng: np.random.Generator
) -> tuple[NDArray[np.int32] | None, NDArray[np.signedinteger]]:
    """The particles by number, and the numbers of a third of them; None where there is none."""
    found = instances(_known(mask), MIN_PX)
    count = len(found.classes)
    chosen = rng.permutation(count)[: max(1, round(count / 3))] + 1
    return (found.numbers if count else None), chosen
