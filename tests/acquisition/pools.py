"""Drawn pools, and small helpers to read a queue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.queue import Pick, Rule, compose
from acquisition.scores import percentiles


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doubles(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Pool:
    """A pool drawn from a seed: scores, features, class scores with zeros, and what is known."""

    def __init__(self, N: int, seed: int, C: int = 4) -> None:
        generator = seeded(seed)
        self.scores = percentiles(torch.rand(N, generator=generator))
        self.features = torch.randn(N, 6, generator=generator)
        shown = torch.rand(N, C, generator=generator) < 0.4
        self.class_scores = torch.rand(N, C, generator=generator) * shown
        self.known = torch.randint(0, 5, (C,), generator=generator)

    def queue(self, k: int, rule: Rule, seed: int = 0, groups: Tensor | None = None) -> list[Pick]:
        return compose(
            self.scores,
            k,
            rule,
            seeded(seed),
            features=self.features,
            class_scores=self.class_scores,
            known=self.known,
            groups=groups,
        )


def indices(picks: Sequence[Pick]) -> list[int]:
    return [pick.index for pick in picks]


def standardised_by_loop(features: NDArray[np.float64]) -> NDArray[np.float64]:
    columns = []
    for column in features.T:
        spread = column.std()
        columns.append((column - column.mean()) / spread if spread > 0 else 0 * column)
    points = np.stack(columns, axis=1)
    return np.stack([point / max(float(np.linalg.norm(point)), 1e-6) for point in points])
