"""The five uncertainty maps, fused, on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from acquisition.uncertainty import uncertainty_maps
from tests.bench.harness import Measured, against_limit, row

SIDE_PX = 1024


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@row(
    "acquisition",
    "maps_per_mpx",
    against="limit; five maps, M=5, C=6, one thread",
    unit="CPU-ms/Mpx",
    goal=1.0,
)
def maps_per_mpx() -> Measured:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 1, 6, SIDE_PX, SIDE_PX, generator=generator)
    probs = torch.softmax(logits, dim=2)
    with one_thread():
        return against_limit(lambda: uncertainty_maps(probs), limit=100.0, scale=1e6 / SIDE_PX**2)
