"""Particles of one class that touch, told apart by a watershed.

Each is a hill: high far from the outline and where the committee is sure. Two hills are two
particles where the pass between them lies low enough.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from training.particles.instances import connected
from training.particles.sizes import depths

SMOOTHING = 0.1
"""Standard deviation of the Gaussian that evens a hill out, as a share of the typical diameter.
Chosen with ``PASS`` as docs/PARTICLES.md says."""

PASS = 0.9
"""A pass above this share of the lower of its two tops lies within one particle."""


def split_touching(
    numbers: NDArray[np.int32], diameter_px: float, confidence: NDArray[np.floating] | None = None
) -> NDArray[np.int32]:
    """Connected sets of one class, those of several touching particles cut into these.

    Args:
        numbers: [H, W] the connected set (8 neighbours) of each pixel from 1, 0 outside.
        diameter_px: of a typical particle, see ``training.particles.sizes``.
        confidence: probability of the class, [H, W] or a smaller grid over the image.

    Returns:
        [H, W] numbers from 1 without gaps, each a connected set within one of ``numbers``; 0 where
        that is.
    """
    inside = numbers > 0
    height: NDArray[Any] = depths(inside)
    if confidence is not None:
        wide = cv2.resize(confidence.astype(np.float32), (inside.shape[1], inside.shape[0]))
        height *= np.asarray(wide, np.float32)
    # Half of a pixel: the digital outline alone makes tops that are nearer.
    smooth = cv2.GaussianBlur(height, (0, 0), max(0.5, SMOOTHING * diameter_px))
    height = np.where(inside, smooth, 0).astype(np.float32)
    tops = connected(local_maxima(height, connectivity=2).view(np.bool_) & inside)
    at_top = tops > 0
    peaks = np.zeros(int(tops.max()) + 1, np.float32)
    peaks[tops[at_top]] = height[at_top]
    sets = np.zeros(len(peaks), np.int32)
    sets[tops[at_top]] = numbers[at_top]
    # Most have one top: only the others are flooded, which takes the time.
    several = np.bincount(sets[1:], minlength=int(numbers.max()) + 1) > 1
    crowded = several[numbers]
    basins = watershed(-height, np.where(crowded, tops, 0), connectivity=2, mask=crowded)
    hills = _merge(peaks, *_passes(basins, height))[basins]
    found = np.where(crowded, hills + numbers.max(), numbers)
    present = np.bincount(found.ravel()) > 0
    present[0] = False
    renumbered = np.where(present, np.cumsum(present), 0).astype(np.int32)
    return np.asarray(renumbered[found])


def _passes(
    basins: NDArray[np.int32], height: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pairs [P, 2] of basins that touch (8 neighbours), and the highest place [P] where they do."""
    width = basins.shape[1]
    most = int(basins.max(initial=0)) + 1
    keys, lows = [], []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = np.s_[: -down or None, max(0, -right) : width - max(0, right)]
        there = np.s_[down:, max(0, right) : width + min(0, right)]
        one, other = basins[here], basins[there]
        apart = (one != other) & (one > 0) & (other > 0)
        one, other = one[apart].astype(np.int64), other[apart].astype(np.int64)
        keys.append(np.minimum(one, other) * most + np.maximum(one, other))
        lows.append(np.minimum(height[here][apart], height[there][apart]))
    pairs, number = np.unique(np.concatenate(keys), return_inverse=True)
    passes = np.zeros(len(pairs), np.float32)
    np.maximum.at(passes, number, np.concatenate(lows))
    return np.stack([pairs // most, pairs % most], axis=1), passes


def _merge(
    peaks: NDArray[np.float32], pairs: NDArray[np.int64], passes: NDArray[np.float32]
) -> NDArray[np.int32]:
    """The basin that each becomes a part of, by number; itself where it is the highest of its hill.

    The tops that remain are those of an h-maxima transform of the logarithm, at a fraction of its
    time and memory.
    """
    top = list(range(len(peaks)))

    def top_of(basin: int) -> int:
        while top[basin] != basin:
            top[basin] = basin = top[top[basin]]
        return basin

    # The highest first: a hill is whole before it meets the next one.
    for at in np.argsort(-passes, kind="stable").tolist():
        one, other = (top_of(basin) for basin in pairs[at].tolist())
        lower, higher = (one, other) if peaks[one] < peaks[other] else (other, one)
        if passes[at] > PASS * peaks[lower]:
            top[lower] = higher
    return np.array([top_of(basin) for basin in range(len(peaks))], np.int32)
