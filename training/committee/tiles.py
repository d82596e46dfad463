"""Large images in overlapping tiles that fade into each other: bounded memory, no seams."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from training.committee.memory import WHOLE_PX

TILE_PX = 640
"""Longest side of a tile where it is. At 2048 px five members then take 1.2 GB, and see 1.4 times
the pixels; by tiles of 768 px it would be 1.5 GB and 1.3 times."""

OVERLAP_PX = 128
"""Neighbouring tiles share at least so many rows or columns."""

MARGIN_PX = 32
"""A tile's outermost pixels, which lack half of what surrounds them, count for nothing where a
neighbour sees them better."""

ALIGN_PX = 32
"""Tiles start at multiples of the coarsest feature's size: a network's pooling then falls on the
same pixels in every tile as in the whole image."""

Predict = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From images [B, channels, h, w] to probabilities [M, B, C, h, w] and features [M, B, F]."""


@dataclass(frozen=True)
class Strip:
    """Rows of an image, seen to the end.

    Attributes:
        rows: which.
        probs: [M, B, C, rows, w]; holds until the next strip.
    """

    rows: slice
    probs: Tensor


@dataclass(frozen=True)
class Span:
    """One tile along one axis: from ``start`` to ``stop``, with a weight [stop - start] each."""

    start: int
    stop: int
    weights: Tensor


def spans(length: int) -> list[Span]:
    """Tiles along an axis of this length; at each place their weights sum to 1."""
    if length <= WHOLE_PX:
        return [Span(0, length, torch.ones(length))]
    count = math.ceil((length - OVERLAP_PX) / (TILE_PX - OVERLAP_PX))
    # As small as so many tiles may be: what they share is seen twice.
    side = math.ceil((length + (count - 1) * OVERLAP_PX) / count / ALIGN_PX) * ALIGN_PX
    starts = [
        round(i * (length - side) / (count - 1) / ALIGN_PX) * ALIGN_PX for i in range(count - 1)
    ]
    edges = [(start, start + side) for start in starts]
    edges.append(((length - side) // ALIGN_PX * ALIGN_PX, length))
    weights = [torch.ones(stop - start) for start, stop in edges]
    for (before, after), left, right in zip(pairwise(edges), weights, weights[1:], strict=False):
        shared = before[1] - after[0]
        rise = _rise(shared)
        left[-shared:] *= 1 - rise
        right[:shared] *= rise
    return [Span(*edge, weight) for edge, weight in zip(edges, weights, strict=True)]


def _rise(shared: int) -> Tensor:
    """[shared] from 0 to 1: flat for a margin at either end, a straight line between."""
    at = torch.arange(shared) + 0.5 - MARGIN_PX
    return (at / (shared - 2 * MARGIN_PX)).clamp_(0, 1)


def strips(images: Tensor, predict: Predict) -> Iterator[tuple[Strip, Tensor]]:
    """Predict images of any size, from the top down.

    Args:
        images: [B, channels, h, w].
        predict: the probabilities and features of a tile.

    Yields:
        A strip, and the features [M, B, F] of its share of the pixels: the strips' features sum
        to those of the image, as a mean over its tiles.
    """
    h, w = images.shape[2:]
    down, across = spans(h), spans(w)
    if len(down) == len(across) == 1:
        probs, features = predict(images)
        yield Strip(slice(0, h), probs), features
        return
    carried: Tensor | None = None
    for number, span in enumerate(down):
        seen, features = _tile_row(images, predict, span, across)
        if carried is not None:
            seen[..., : carried.shape[3], :] += carried
        end = down[number + 1].start if number + 1 < len(down) else h
        done = end - span.start
        yield Strip(slice(span.start, end), seen[..., :done, :]), features / len(down)
        carried = seen[..., done:, :].clone()


def _tile_row(
    images: Tensor, predict: Predict, span: Span, across: list[Span]
) -> tuple[Tensor, Tensor]:
    """Weighted probabilities [M, B, C, rows, w] and mean features of the tiles side by side."""
    seen: Tensor | None = None
    total: Tensor | None = None
    for column in across:
        tile = images[:, :, span.start : span.stop, column.start : column.stop]
        probs, features = predict(tile.contiguous())
        if seen is None or total is None:
            seen = probs.new_zeros((*probs.shape[:4], images.shape[3]))
            total = torch.zeros_like(features)
        weights = (span.weights[:, None] * column.weights[None, :]).to(probs.device)
        for m in range(len(probs)):  # a member at a time: half the memory
            seen[m, ..., column.start : column.stop] += probs[m] * weights
        total += features
    assert seen is not None
    assert total is not None
    return seen, total / len(across)
