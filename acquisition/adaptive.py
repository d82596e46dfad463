"""Which uncertainty measure to trust: each is compared with what people corrected.

Before a person annotates an image, the committee has computed every measure on it. Once the image
is corrected, all measures can be judged, not only the one that was used. This is full information:
Hedge fits it, and a bandit would waste most of it. The judgement is prequential: it is made by a
version that never trained on the annotation, so it needs no held-out set.

Finding errors is not learning from them. The reward here is for being uncertain where the errors
are; whether the labels made the committee better is measured elsewhere (``training.quality``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.aggregate import AGGREGATES, interior
from acquisition.masks import UNKNOWN
from acquisition.shapes import check_map, check_predicted
from acquisition.uncertainty import MEASURES

ARMS: tuple[str, ...] = tuple(f"{measure}/{name}" for measure in MEASURES for name in AGGREGATES)
"""Every measure by every aggregate, in the order of ``aggregate.aggregate``."""


MIN_WRONG_PX = 20
"""An AUROC over fewer wrong pixels is mostly chance."""

RECENT = 50
"""Corrections that the rank correlation looks back on, a few rounds; more where the oldest of
their batches holds more: within a batch no correction is older than another."""

SHRINK = 20
"""The rank correlation of n corrections is weighted n / (n + 20): that of ten is mostly chance."""

DECAY = 0.9
"""Weight of a round's evidence one round later: as a committee learns, its uncertainty changes."""

RATE = 4.0
"""Hedge's learning rate. AUROCs of good measures differ by some hundredths; at a rate of 1 the
weights would hardly differ."""

FLOOR = 0.1
"""The weight shared by all arms whatever the evidence. A floor for each of 30 arms would swallow
the rest."""


@dataclass(frozen=True)
class Judgement:
    """How well each measure marked the pixels where one image's pre-annotation was wrong.

    Attributes:
        rewards: measure to 2 (AUROC - 0.5), between -1 and 1: how surely a wrong pixel was more
            uncertain than a right one; empty with fewer than ``MIN_WRONG_PX`` wrong pixels, or
            without a right one.
        wrong: pixels that were corrected, off the boundaries.
        judged: known pixels off the boundaries.
    """

    rewards: Mapping[str, float]
    wrong: int
    judged: int

    @property
    def error(self) -> float:
        """Share of the judged pixels that were corrected: the annotator's effort, 0 to 1."""
        return self.wrong / self.judged if self.judged else 0.0


@dataclass(frozen=True)
class Evidence:
    """A judgement with what is needed to compare it with others.

    Attributes:
        batch: the round that judged it; evidence of one batch is weighed together.
        version: of the committee that predicted; scores of two versions are not on one scale.
        rewards: as in ``Judgement``.
        scores: arm to the image's score.
        error: share of the judged pixels that were corrected.
    """

    batch: int
    version: int
    rewards: Mapping[str, float]
    scores: Mapping[str, float]
    error: float


@dataclass(frozen=True)
class Trust:
    """How far to trust each arm, by the evidence.

    Attributes:
        weights: arm to weight; they sum to 1.
        leader: the arm with the largest reward in the latest batch that had any; None before.
        rewards: arm to reward in that batch; empty before.
        pixel_rewards: measure to the mean of its rewards in that batch.
        correlations: arm to the shrunk rank correlation as of that batch.
        batches: batches that rewarded any arm.
        images: images judged in all.
    """

    weights: Mapping[str, float]
    leader: str | None
    rewards: Mapping[str, float]
    pixel_rewards: Mapping[str, float]
    correlations: Mapping[str, float]
    batches: int
    images: int


def judge(maps: Mapping[str, Tensor], predicted: Tensor, truth: Tensor) -> Judgement:
    """Compare one image's uncertainty maps with what a person corrected.

    Within ``aggregate.BOUNDARY_PX`` of a boundary of the truth nothing is judged: no two people
    draw an outline alike.

    Args:
        maps: measure name to map [1, H, W] float, not negative.
        predicted: [1, H, W] uint8 class indices.
        truth: [1, H, W] uint8 class indices, 255 where unknown.

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape is wrong, or a map holds, where it earns a reward, a value that is
            negative or not finite.
    """
    if len(predicted) != 1:
        raise ValueError(f"one image is judged at a time, got {len(predicted)}")
    for uncertainty_map in maps.values():
        check_map(uncertainty_map)
        check_predicted(uncertainty_map, predicted)
        check_predicted(uncertainty_map, truth)
    inside = (interior(truth) & (truth != UNKNOWN)).flatten().nonzero()[:, 0]
    wrong = (predicted != truth).flatten()[inside]
    count, judged = int(wrong.sum()), len(wrong)
    rewards = {}
    if count >= MIN_WRONG_PX and judged > count:
        rewards = {
            name: 2 * binned_auroc(uncertainty_map.flatten()[inside], wrong) - 1
            for name, uncertainty_map in maps.items()
        }
    return Judgement(rewards, count, judged)


def binned_auroc(uncertainty: Tensor, wrong: Tensor) -> float:
    """Chance that a wrong pixel is more uncertain than a right one, ties counted half.

    Values are compared by the 18 leading bits of their float32, 1 part in 512: counting instead of
    sorting (``scipy.stats``) takes a tenth of the time, and moves the result by less than 0.002
    where the values spread over more than a few such parts.

    Args:
        uncertainty: [P] float, not negative.
        wrong: [P] bool, some and not all of them true.

    Returns:
        Between 0 and 1.

    Raises:
        ValueError: ``uncertainty`` holds a value that is negative or not finite, or ``wrong`` is
            all true or all false.

    Source: Hanley and McNeil 1982, by the ranks of Mann and Whitney.
    """
    # Written so that a NaN fails too: both extremes are NaN then.
    if len(uncertainty) and not (
        bool(uncertainty.amin() >= 0) and bool(uncertainty.amax() < torch.inf)
    ):
        raise ValueError("uncertainty must not be negative and must be finite")
    # Floats that are not negative are in the order of their bits; adding 0 turns -0 into 0. The
    # last bit of the key tells wrong from right, so that one count does for both.
    key = (uncertainty.float() + 0.0).cpu().numpy().view(np.int32) >> 14
    key *= 2
    key += wrong.cpu().numpy()
    counts = np.bincount(key, minlength=2 * (len(key) > 0))
    others, ours = np.append(counts, [0] * (len(counts) % 2)).reshape(-1, 2).T
    pairs = int(ours.sum()) * int(others.sum())
    if pairs == 0:
        raise ValueError("an AUROC needs wrong pixels and right ones")
    below = np.cumsum(others) - others
    return float((ours * (below + 0.5 * others)).sum() / pairs)


def trust(evidence: Sequence[Evidence]) -> Trust:
    """Weigh the arms by all that was judged: Hedge with forgetting.

    A pure function of the evidence: nothing else is stored, and a correction that is withdrawn or
    made again counts as if it had always been so.

    Args:
        evidence: in the order of its batches; within a batch the order does not matter.

    Returns:
        Equal weights where no batch had an error that could be judged.

    Source: Freund and Schapire 1997 (Hedge); prequential: Dawid 1984.
    """
    gains = dict.fromkeys(ARMS, 0.0)
    rewards: dict[str, float] = {}
    pixel: dict[str, float] = {}
    correlations: dict[str, float] = {}
    batches = 0
    for number in sorted({each.batch for each in evidence}):
        batch = [each for each in evidence if each.batch == number]
        judged = [each.rewards for each in batch if each.rewards]
        if not judged:
            continue
        batches += 1
        pixel = {m: float(np.mean([rewards[m] for rewards in judged])) for m in MEASURES}
        correlations = _correlations([each for each in evidence if each.batch <= number])
        rewards = {arm: pixel[arm.partition("/")[0]] + correlations[arm] for arm in ARMS}
        gains = {arm: DECAY * gains[arm] + rewards[arm] for arm in ARMS}
    leader = max(ARMS, key=lambda arm: rewards[arm]) if rewards else None
    return Trust(_weights(gains), leader, rewards, pixel, correlations, batches, len(evidence))


def weights_of(mode: str, trust: Trust) -> dict[str, float]:
    """Arm to its weight in the score.

    Args:
        mode: "hedge" by the trust in each; "leader" only the arm that marked the latest errors
            best, all alike before there is one; "rank_average" all alike;
            "fixed:measure/aggregate" that arm alone.

    Raises:
        ValueError: another mode.
    """
    if mode == "hedge":
        return dict(trust.weights)  # equal before any evidence
    if mode == "leader" and trust.leader is not None:
        return {trust.leader: 1.0}
    if mode in ("leader", "rank_average"):
        return dict.fromkeys(ARMS, 1 / len(ARMS))
    arm = mode.removeprefix("fixed:")
    if arm == mode or arm not in ARMS:
        raise ValueError(f"{mode!r} is not a mode that weighs the arms")
    return {arm: 1.0}


def _weights(gains: Mapping[str, float]) -> dict[str, float]:
    most = max(gains.values())
    shares = {arm: exp(RATE * (gain - most)) for arm, gain in gains.items()}
    total = sum(shares.values())
    return {arm: (1 - FLOOR) * share / total + FLOOR / len(shares) for arm, share in shares.items()}


def _correlations(evidence: Sequence[Evidence]) -> dict[str, float]:
    """Arm to the rank correlation of its scores with the errors, ranked within a version and
    shrunk by how few there are."""
    oldest = sorted(each.batch for each in evidence)[-RECENT:][0]
    latest = [each for each in evidence if each.batch >= oldest]
    groups = [
        [each for each in latest if each.version == version]
        for version in sorted({each.version for each in latest})
    ]
    n = len(latest)
    if n < 3:
        return dict.fromkeys(ARMS, 0.0)
    errors = np.concatenate([_ranks([each.error for each in group]) for group in groups])
    found = {}
    for arm in ARMS:
        scores = np.concatenate([_ranks([each.scores[arm] for each in group]) for group in groups])
        found[arm] = _pearson(scores, errors) * n / (n + SHRINK)
    return found


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks between 0 and 1, ties in the middle of theirs."""
    array = np.asarray(values, np.float64)
    ordered = np.sort(array)
    through = np.searchsorted(ordered, array, "right")
    ranks: NDArray[np.float64] = (np.searchsorted(ordered, array) + through) / (2 * len(array))
    return ranks


def _pearson(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Correlation, 0 where one of them does not vary."""
    a, b = first - first.mean(), second - second.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 1e-12 else 0.0
