"""Diversity: how far images are from those already queued, by their features."""

from __future__ import annotations

import torch
from torch import Tensor

DISTANCE_PAIRS = 4096
"""Pairs of images that tell how far apart two of a pool usually are."""

COPIES_APART = 2e-3
"""Two images no further apart, where features have length 1, count as copies: float32 knows a
squared distance to some 1e-6."""

COPY = -1e6
"""Log newness of a copy: behind all that is none, whatever its score and noise."""


class Newness:
    """How far each image is from those taken, in half of the usual distance, at most 1: log."""

    def __init__(self, features: Tensor, generator: torch.Generator) -> None:
        self._features = standardised(features)
        N = len(features)
        # An empty pool has no pairs, and none to order.
        ends = torch.randint(max(N, 1), (2, DISTANCE_PAIRS if N else 0), generator=generator)
        apart = (self._features[ends[0]] - self._features[ends[1]]).norm(dim=1)
        # Among copies, however many, what is no copy must still be new.
        apart = apart[apart > COPIES_APART]
        usual = float(apart.median()) if len(apart) else 1.0
        self._scale = usual / 2
        self._squares = self._features.square().sum(dim=1)
        self.log = torch.zeros(N, dtype=torch.float64)

    def is_copy(self, index: int) -> bool:
        return bool(self.log[index] == COPY)

    def take(self, index: int) -> None:
        product = self._features @ self._features[index]
        apart = (self._squares + self._squares[index] - 2 * product).clamp_min(0).sqrt()
        share = (apart / self._scale).clamp_max(1).double()
        newness = torch.where(apart > COPIES_APART, share.log(), COPY)
        self.log = torch.minimum(self.log, newness)


def standardised(features: Tensor) -> Tensor:
    """Each feature with mean 0 and standard deviation 1 over the pool, each image of length 1:
    [N, F] float32. Features that do not vary are 0."""
    # In float32 the mean of a large constant is off by its rounding, which looks like a spread.
    centred = features.float() - features.mean(dim=0, dtype=torch.float64).float()
    spread = centred.square().mean(dim=0).sqrt()
    scaled = torch.where(spread > 1e-6 * spread.amax().clamp_min(1e-12), centred / spread, 0.0)
    length: Tensor = scaled.norm(dim=1, keepdim=True)
    return scaled / length.clamp_min(1e-6)


def check_features(features: Tensor | None, N: int) -> Tensor:
    if features is None or features.ndim != 2 or features.shape[0] != N or not features.shape[1]:
        got = None if features is None else tuple(features.shape)
        raise ValueError(f"features must be [{N}, F], got {got}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("features must be finite")
    return features
