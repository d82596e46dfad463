"""Ensembles to test with, drawn from a seed or written out member by member."""

from __future__ import annotations

import torch
from torch import Tensor

# No two axes are of one size, so that a swapped axis cannot pass.
ASYMMETRIC = (3, 2, 4, 5, 6)


def ensemble_of(*members: list[float]) -> Tensor:
    """Probs of one pixel: each member is its list of C probabilities."""
    return torch.tensor(members).reshape(len(members), 1, -1, 1, 1)


def random_probs(
    shape: tuple[int, int, int, int, int] = ASYMMETRIC,
    seed: int = 0,
    sharpness: float = 2.0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Softmax of seeded normal logits; a large sharpness makes members certain."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.softmax(sharpness * logits, dim=2).to(dtype)
