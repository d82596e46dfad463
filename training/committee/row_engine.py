"""Many classes: the members' last layer runs a few rows at a time, in bounded memory.

The probabilities of five members for 64 classes take 1.3 GB at 1024 px, and an engine that makes
them at once needs four times as much. What they are made of takes 126 MB, whatever the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.committee.calibration import Calibration
from training.committee.engine import Engine, Members
from training.committee.tiles import Span, Strip, spans
from training.compute import bounded_threads
from training.networks.forward import pad_to_stride
from training.networks.unet import Lite0UNet, UNet

STRIP_VALUES = 1 << 23
"""Probabilities made at once: 32 MiB."""


class Bodies(Members):
    """All members but their last layers: from images to what probabilities are made of."""

    def answer(self, member: int, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D, h / scale, w / scale] and the features [B, F]; sides are multiples of stride."""
        decoded, features = self.members[member].decode(images)  # type: ignore[operator]
        return decoded, features.float()


@dataclass(frozen=True)
class _Tile:
    """A part of the images: where it lies, and [M, B, D, h / scale, w / scale] of it."""

    down: Span
    across: Span
    decoded: Tensor


class RowEngine:
    """Members of many classes.

    Args:
        body: runs ``Bodies``.
        members: on the body's device.
        calibration: what makes probabilities of their logits.
        threads: of torch.
        release: gives back what the body needed in between: 1 GB, which is wanted for the rows.
    """

    def __init__(
        self,
        body: Engine,
        members: Sequence[Lite0UNet | UNet],
        calibration: Calibration,
        *,
        stride: int,
        threads: int,
        release: Callable[[], None],
    ) -> None:
        self.name, self.precision = body.name, body.precision
        self._body, self._members, self._calibration = body, members, calibration
        self._stride, self._threads, self._release = stride, threads, release

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """All at once, as other engines do."""
        whole = [Span(0, side, torch.ones(side)) for side in images.shape[2:]]
        tile, features = self._tile(images, *whole)
        return self._blend([tile], slice(0, images.shape[2]), images.shape[3]), features

    def strips(self, images: Tensor) -> Iterator[tuple[Strip, Tensor]]:
        """As ``training.committee.tiles.strips``, with a bound on a strip's probabilities."""
        B, _, h, w = images.shape
        down, across = spans(h), spans(w)
        classes = self._members[0].head.out_channels
        # Even, so that each strip begins where a row of what is decoded does.
        step = max(2, STRIP_VALUES // (len(self._members) * B * classes * w) // 2 * 2)
        above: list[_Tile] = []
        for number, span in enumerate(down):
            seen = [self._tile(images, span, column) for column in across]
            self._release()
            row = [tile for tile, _ in seen]
            end = down[number + 1].start if number + 1 < len(down) else h
            tops = range(span.start, end, step)
            share = torch.stack([features for _, features in seen]).mean(dim=0) / len(down)
            for top in tops:
                rows = slice(top, min(top + step, end))
                yield Strip(rows, self._blend([*above, *row], rows, w)), share / len(tops)
            above = row

    def _tile(self, images: Tensor, down: Span, across: Span) -> tuple[_Tile, Tensor]:
        part = images[:, :, down.start : down.stop, across.start : across.stop]
        decoded, features = self._body(pad_to_stride(part.contiguous(), self._stride))
        # The engine's own are overwritten by its next call.
        return _Tile(down, across, decoded.clone()), features.clone()

    @torch.inference_mode()
    def _blend(self, tiles: Sequence[_Tile], rows: slice, width: int) -> Tensor:
        """Probabilities [M, B, C, rows, width] of some rows."""
        M, B = tiles[0].decoded.shape[:2]
        shape = (M, B, self._members[0].head.out_channels, rows.stop - rows.start, width)
        blended = torch.zeros(shape, device=tiles[0].decoded.device)
        with bounded_threads(self._threads):
            for tile in tiles:
                top, bottom = max(rows.start, tile.down.start), min(rows.stop, tile.down.stop)
                if top >= bottom:
                    continue
                inside = slice(top - tile.down.start, bottom - tile.down.start)
                weights = tile.down.weights[inside, None] * tile.across.weights
                weights = weights.to(blended.device)
                place = blended[..., top - rows.start : bottom - rows.start, :]
                for m in range(M):
                    probs = self._probs(m, tile.decoded[m], inside)[..., : len(weights[0])]
                    place[m, ..., tile.across.start : tile.across.stop] += probs * weights
        return blended

    def _probs(self, member: int, decoded: Tensor, rows: slice) -> Tensor:
        """A member's probabilities [B, C, rows, w] of a tile's rows."""
        network = self._members[member]
        scale = network.decoded_scale
        # Enlarging looks at one row beyond.
        first = max(0, rows.start // scale - 1)
        last = -(-rows.stop // scale) + 1
        part = decoded[:, :, first:last].contiguous(memory_format=torch.channels_last)
        logits = network.logits_of(part)[:, :, rows.start - first * scale :][
            :, :, : rows.stop - rows.start
        ]
        return self._calibration.probs(logits.float(), dim=1)
