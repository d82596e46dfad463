"""From scores to the queue: what weighs, who stands where and why, where an outsider belongs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from acquisition import adaptive
from acquisition.queue import RULE, Pick, Rule, compose, farthest_first, with_audits
from acquisition.scores import rank_mixture
from backend.options import FALLBACK, FIXED, fixed_arm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from acquisition.adaptive import Trust

QUANTILES = 101
"""Places of the queue whose uncertainty is kept, and quantiles of each arm: to place a task that
was opened outside the queue."""


@dataclass(frozen=True)
class Candidate:
    """What predicting an image leaves for the ranking.

    Attributes:
        arms: arm to score; empty before the first version.
        features: [F]; None where nothing was predicted.
        class_scores: [C] of the version's classes; None before the first.
    """

    arms: Mapping[str, float]
    features: NDArray[np.float16] | None = None
    class_scores: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Ranked:
    """A task's place in the queue.

    Attributes:
        uncertainty: the score that ranks, 0 to 1: before the rule, and whatever put it here.
        why: as ``Pick.why``, or "diverse" before the first version; or why it is likely of no use.
    """

    task_id: int
    uncertainty: float
    why: str


def weights_of(mode: str, trust: Trust) -> dict[str, float]:
    """Arm to its weight in the uncertainty, by the option ``mode``; empty where chance decides."""
    if mode in ("random", FALLBACK):
        return {}
    arm = fixed_arm(mode)
    return adaptive.weights_of(mode if arm is None else FIXED + arm, trust)


def rank(
    candidates: Mapping[int, Candidate],
    audits: Collection[int],
    weights: Mapping[str, float],
    length: int,
    *,
    seed: int,
    rule: Rule = RULE,
    known: Sequence[int] | None = None,
    drawn: Collection[int] | None = None,
    groups: Mapping[str, Collection[int]] | None = None,
) -> list[Ranked]:
    """The first ``length`` of the queue that a version's predictions make.

    Args:
        candidates: by task id; their order does not matter.
        audits: those of them that no score may place.
        weights: arm to weight; empty: chance alone decides.
        seed: of all that chance decides.
        rule: a part of it is left out where an image has not what it needs.
        known: labelled images that show each class of the version; none if not given.
        drawn: those of them that are an even sample of the pool, for chance to place; all if
            not given.
        groups: to candidates, of each group that the version does not know; none if not given.
    """
    generator = torch.Generator().manual_seed(seed)
    task_ids = sorted(candidates)
    if not task_ids:
        return []
    if not weights:
        return _by_chance(task_ids, audits, length, generator, drawn)
    arms = {
        arm: torch.tensor(
            [candidates[task_id].arms[arm] for task_id in task_ids], dtype=torch.float64
        )
        for arm, weight in weights.items()
        if weight > 0
    }
    return _composed(
        task_ids,
        rank_mixture(arms, {arm: weights[arm] for arm in arms}),
        audits,
        length,
        generator,
        rule,
        features=_stacked([candidates[task_id].features for task_id in task_ids]),
        class_scores=_stacked([candidates[task_id].class_scores for task_id in task_ids]),
        known=None if known is None else torch.tensor(known, dtype=torch.float64),
        drawn=drawn,
        groups=groups,
    )


def first_rank(
    candidates: Mapping[int, Candidate],
    audits: Collection[int],
    length: int,
    *,
    seed: int,
    drawn: Collection[int] | None = None,
) -> list[Ranked]:
    """The first ``length`` of the queue before any version: each image unlike those before it.

    By chance, of those ``drawn``, where the images were not predicted.
    """
    generator = torch.Generator().manual_seed(seed)
    task_ids = sorted(candidates)
    features = _stacked([candidates[task_id].features for task_id in task_ids])
    if features is None:
        return _by_chance(task_ids, audits, length, generator, drawn)
    measured, others = _shares(task_ids, audits, length, generator)
    order: list[int] = []
    if others:
        places = min(length, len(task_ids)) - len(measured)
        among = features[torch.tensor(others)]
        order = [others[i] for i in farthest_first(among, places, generator)]
    queue = with_audits([Pick(i, "uncertainty") for i in order], measured, generator)
    return [
        Ranked(
            task_ids[pick.index],
            1 - place / len(queue),
            "audit" if pick.why == "audit" else "diverse",
        )
        for place, pick in enumerate(queue)
    ]


def unusable_last(places: Sequence[Ranked], found: Mapping[int, str]) -> list[Ranked]:
    """The queue with what is likely of no use at its end.

    What chance drew stays: it must be an even sample of the pool.

    Args:
        found: task id to why, as ``training.quality.usable`` says.
    """
    moved = [
        replace(place, why=found[place.task_id])
        for place in places
        if place.task_id in found and place.why not in ("audit", "chance")
    ]
    gone = {place.task_id for place in moved}
    return [*(place for place in places if place.task_id not in gone), *moved]


def arm_quantiles(
    candidates: Mapping[int, Candidate], weights: Mapping[str, float]
) -> dict[str, list[float]]:
    """Weighted arm to ``QUANTILES`` evenly spaced quantiles of its scores, ascending."""
    shares = np.linspace(0, 1, QUANTILES)
    return {
        arm: np.quantile([each.arms[arm] for each in candidates.values()], shares).tolist()
        for arm, weight in weights.items()
        if weight > 0 and candidates
    }


def queue_quantiles(uncertainties: Sequence[float]) -> list[float]:
    """The uncertainty at evenly spaced places of the queue, as if the most uncertain came first."""
    ordered = sorted(uncertainties, reverse=True)
    last = len(ordered) - 1
    return [ordered[round(i * last / (QUANTILES - 1))] for i in range(QUANTILES)]


def _composed(
    task_ids: Sequence[int],
    scores: Tensor,
    audits: Collection[int],
    length: int,
    generator: torch.Generator,
    rule: Rule,
    *,
    features: Tensor | None = None,
    class_scores: Tensor | None = None,
    known: Tensor | None = None,
    drawn: Collection[int] | None = None,
    groups: Mapping[str, Collection[int]] | None = None,
) -> list[Ranked]:
    if features is None:
        rule = replace(rule, diverse=False)
    if class_scores is None:
        rule = replace(rule, class_share=0.0)
    measured, others = _shares(task_ids, audits, length, generator)
    among_drawn = set(task_ids if drawn is None else drawn)
    queue: list[Pick] = []
    if others:
        among = torch.tensor(others)
        picks = compose(
            scores[among],
            min(length, len(task_ids)) - len(measured),
            rule,
            generator,
            features=None if features is None else features[among],
            class_scores=None if class_scores is None else class_scores[among],
            known=known,
            by_chance=torch.tensor([task_ids[i] in among_drawn for i in others]),
            groups=_group_indices([task_ids[i] for i in others], groups or {}),
        )
        queue = [Pick(others[pick.index], pick.why) for pick in picks]
    return [
        Ranked(task_ids[pick.index], float(scores[pick.index]), pick.why)
        for pick in with_audits(queue, measured, generator)
    ]


def _group_indices(task_ids: Sequence[int], groups: Mapping[str, Collection[int]]) -> Tensor | None:
    """[N] each task's group as a number, -1 for none; None where no task has one."""
    of_task = {task_id: n for n, name in enumerate(sorted(groups)) for task_id in groups[name]}
    found = torch.tensor([of_task.get(task_id, -1) for task_id in task_ids])
    return found if bool((found >= 0).any()) else None


def _by_chance(
    task_ids: Sequence[int],
    audits: Collection[int],
    length: int,
    generator: torch.Generator,
    drawn: Collection[int] | None,
) -> list[Ranked]:
    if drawn is not None:
        # The uncertainty chose the others; there are some where the mode was changed since.
        task_ids = sorted(set(task_ids).intersection(drawn))
    scores = torch.rand(len(task_ids), generator=generator, dtype=torch.float64)
    places = _composed(task_ids, scores, audits, length, generator, Rule())
    return [replace(p, why="chance") if p.why != "audit" else p for p in places]


def _shares(
    task_ids: Sequence[int], audits: Collection[int], length: int, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """Indices of the audits that the queue has room for, and of all others.

    A queue shorter than the pool holds the audits' share of it, drawn by chance: no score may
    decide which of them are measured. What is left of a whole one is rounded by chance: of ten
    places always rounded down no audit would ever be measured.
    """
    wanted = set(audits)
    of_audits = [i for i, task_id in enumerate(task_ids) if task_id in wanted]
    others = [i for i, task_id in enumerate(task_ids) if task_id not in wanted]
    room = min(length, len(task_ids))
    share = len(of_audits) * room / len(task_ids) if task_ids else 0.0
    count = floor(share + float(torch.rand((), generator=generator)))
    count = max(count, room - len(others))
    order = torch.randperm(len(of_audits), generator=generator).tolist()
    return [of_audits[i] for i in order[:count]], others


def _stacked(found: Sequence[NDArray[Any] | None]) -> Tensor | None:
    """[N, ...] float32; None where one of the images has none."""
    there = [each for each in found if each is not None]
    if len(there) < len(found) or not there:
        return None
    return torch.from_numpy(np.stack(there).astype(np.float32))
