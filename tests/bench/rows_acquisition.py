"""The five uncertainty maps, fused, on one thread: against a limit and against libraries.

A library is asked for the maps that it has, by its own functions, of the same numbers in the
same float32, laid out beforehand as it wants them. Each must equal ours; the time is per map. It is
imported by its own row: each takes seconds, which the other rows do without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.adaptive import ARMS, Evidence, judge, trust
from acquisition.queue import RULE, compose
from acquisition.scores import percentiles
from acquisition.uncertainty import MEASURES, uncertainty_maps
from tests.bench.harness import Measured, against_limit, row, side_by_side

Map = NDArray[np.float32]

MEMBERS, CLASSES = 5, 6
SIDE_PX, SMALL_PX = 1024, 32
GOAL = 10.0


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def drawn_probs(side_px: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(MEMBERS, 1, CLASSES, side_px, side_px, generator=generator)
    return torch.softmax(logits, dim=2)


@row(
    "acquisition",
    "maps_per_mpx",
    against="limit; five maps, M=5, C=6, one thread",
    unit="CPU-ms/Mpx",
    goal=1.0,
    sizes=SIDE_PX,
    small=SMALL_PX,
)
def maps_per_mpx(side_px: int) -> Measured:
    probs = drawn_probs(side_px)
    with one_thread():
        return against_limit(lambda: uncertainty_maps(probs), limit=100.0, scale=1e6 / side_px**2)


def per_map(probs: Tensor, library: Mapping[str, Callable[[], Map]]) -> Measured:
    """Ours beside the library's maps, by measure; ms per map of 1 Mpx.

    Raises:
        AssertionError: a map of the library is not ours to 1e-6.
    """
    with one_thread():
        maps = uncertainty_maps(probs)
        for measure, its_map in library.items():
            np.testing.assert_allclose(
                its_map().ravel(), maps[measure].numpy().ravel(), rtol=0, atol=1e-6, err_msg=measure
            )
        both = side_by_side(
            lambda: uncertainty_maps(probs), lambda: [its_map() for its_map in library.values()]
        )
    return Measured(both.ours / len(MEASURES), both.peer / len(library), both.spread)


@row(
    "acquisition",
    "maps_vs_baal",
    against="baal 2.0.0, per map: entropy, BALD, deviation, certainty; M=5, C=6, one thread",
    unit="ms",
    goal=GOAL,
    sizes=SIDE_PX,
    small=SMALL_PX,
)
def maps_vs_baal(side_px: int) -> Measured:
    from baal.active.heuristics import BALD, Certainty, Entropy, Variance

    probs = drawn_probs(side_px)
    # Contiguous with the members last, as baal's own ensemble stacks its predictions.
    stacked = probs.permute(1, 2, 3, 4, 0).contiguous().numpy()  # [N, C, H, W, M]
    heuristics = {
        "predictive_entropy": Entropy(),
        "mutual_information": BALD(),
        # It has the variance and the certainty; its reductions make our two measures of them.
        "standard_deviation": Variance(reduction=lambda variance: np.sqrt(variance).mean(axis=1)),
        "least_confidence": Certainty(reduction=lambda certainty: 1 - certainty),
    }
    return per_map(
        probs,
        {
            measure: partial(heuristic.get_uncertainties, stacked)
            for measure, heuristic in heuristics.items()
        },
    )


@row(
    "acquisition",
    "maps_vs_skactiveml",
    against="scikit-activeml 1.0.1, per map: entropy, KL, confidence, votes; M=5, C=6, one thread",
    unit="ms",
    goal=GOAL,
    sizes=SIDE_PX,
    small=SMALL_PX,
)
def maps_vs_skactiveml(side_px: int) -> Measured:
    from skactiveml.pool import average_kl_divergence, uncertainty_scores, variation_ratios

    probs = drawn_probs(side_px)
    # As its committees predict: a pixel is a sample, [M, N * H * W, C].
    members = probs.permute(0, 1, 3, 4, 2).reshape(MEMBERS, -1, CLASSES).contiguous().numpy()
    return per_map(
        probs,
        {
            "predictive_entropy": lambda: uncertainty_scores(members.mean(0), method="entropy"),
            # The members' mean divergence from their mean is the mutual information. Its default
            # floor of 1e-7 under the probabilities would move the result by more than 1e-6.
            "mutual_information": lambda: average_kl_divergence(members, eps=1e-30),
            "least_confidence": lambda: uncertainty_scores(members.mean(0)),
            "variation_ratio": lambda: variation_ratios(members.argmax(2).T),
        },
    )


@dataclass(frozen=True)
class Corrected:
    """Images that were corrected since the last round."""

    images: int = 100
    side_px: int = 512


@row(
    "acquisition",
    "judge_100",
    against="limit; judge 100 corrected images of 512x512 and weigh all arms anew, one thread",
    unit="CPU-s",
    goal=1.0,
    sizes=Corrected(),
    small=Corrected(images=3, side_px=128),
)
def judge_100(corrected: Corrected) -> Measured:
    generator = torch.Generator().manual_seed(0)
    size = (1, corrected.side_px, corrected.side_px)
    maps = {name: torch.rand(size, generator=generator) ** 4 for name in MEASURES}
    truth = torch.zeros(size, dtype=torch.uint8)
    for top in range(20, corrected.side_px - 60, 90):  # particles, some of which were not seen
        truth[:, top : top + 40, 30:440] = 1
        truth[:, top : top + 40, 100:140] = 0
    predicted = truth.clone()
    predicted[:, 110:150] = 0
    scores = dict.fromkeys(ARMS, 0.5)

    def update() -> None:
        evidence = []
        for number in range(corrected.images):
            found = judge(maps, predicted, truth)
            evidence.append(
                Evidence(number // 10, number // 10, found.rewards, scores, found.error)
            )
        trust(evidence)

    with one_thread():
        return against_limit(update, limit=2.0, scale=1e-3, rounds=5)


@dataclass(frozen=True)
class Selection:
    """A pool of images with features, and how many of them are asked for."""

    pool: int = 20_000
    query: int = 200
    features: int = 432


@row(
    "acquisition",
    "select_200",
    against="limit; 200 of 20,000 with noise, classes and diversity, F=432, one thread",
    unit="CPU-s",
    goal=1.0,
    sizes=Selection(),
    small=Selection(pool=200, query=20, features=8),
)
def select_200(asked: Selection) -> Measured:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(asked.pool, asked.features, generator=generator)
    scores = percentiles(torch.rand(asked.pool, generator=generator))
    shown = torch.rand(asked.pool, CLASSES, generator=generator) < 0.2
    class_scores = torch.rand(asked.pool, CLASSES, generator=generator) * shown

    def select() -> None:
        drawn = torch.Generator().manual_seed(1)
        rule = replace(RULE, diverse=True)
        compose(scores, asked.query, rule, drawn, features=features, class_scores=class_scores)

    with one_thread():
        return against_limit(select, limit=5.0, scale=1e-3, rounds=5)
