"""From scores to an order: who goes first, with how much chance, and where the audits stand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isfinite

import torch
from torch import Tensor


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest of scores [N], best first; ties keep pool order.

    Fewer than k scores give all of them.

    Raises:
        ValueError: ``scores`` is not 1-d, a score is not finite, or k is negative.
    """
    _check_scores(scores)
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")
    return torch.argsort(scores, descending=True, stable=True)[:k]


def power_noise(scores: Tensor, beta: float, generator: torch.Generator) -> Tensor:
    """Scores perturbed so that their ``top_k`` is a draw without replacement, p ~ score ** beta.

    A batch of the very best images tends to hold the same image several times over; chance
    makes it diverse for nothing.

    Args:
        scores: [N], not negative. A zero ranks below all that is not vanishingly small.
        beta: above 0; the larger, the closer to the order of the scores themselves.
        generator: a CPU generator, whatever the device of the scores.

    Returns:
        [N] float64, log(score) + Gumbel noise / beta.

    Raises:
        ValueError: ``scores`` is not 1-d, a score is negative or not finite, or beta is not
            above 0.

    Source: Kirsch et al. 2023 (arXiv 2106.12059), power acquisition.
    """
    _check_scores(scores)
    if len(scores) and bool(scores.amin() < 0):
        raise ValueError(
            f"power noise needs scores of at least 0, the lowest is {scores.amin().item():.4g}"
        )
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    # Finite at 0, so that images without any doubt still have an order among themselves.
    log_scores = scores.double().clamp_min(torch.finfo(torch.float64).tiny).log()
    waiting = torch.empty(len(scores), dtype=torch.float64).exponential_(generator=generator)
    gumbel = -waiting.log()
    return log_scores + gumbel.to(scores.device) / beta


def order_queue(
    scores: Mapping[int, float], audit: Collection[int], generator: torch.Generator
) -> list[int]:
    """The queue's task ids: most doubtful first, audit tasks at uniformly random places.

    Audits are for an unbiased estimate, so neither their places nor their order depend on their
    scores; the other tasks keep their order around them.

    Args:
        scores: task id to score, larger is more doubtful; ties go by the smaller task id.
        audit: ids of audit tasks; those without a score are not queued.
        generator: a CPU generator. The same scores, audits and generator state give the same
            queue, in whatever order the arguments hold them.

    Returns:
        Each key of ``scores`` once.

    Raises:
        ValueError: a score is not finite.
    """
    not_finite = sorted(task_id for task_id, score in scores.items() if not isfinite(score))
    if not_finite:
        raise ValueError(
            f"{len(not_finite)} of {len(scores)} scores are not finite, first of task "
            f"{not_finite[0]}: {scores[not_finite[0]]}"
        )
    audits = sorted(scores.keys() & set(audit))
    ranked = sorted(scores.keys() - set(audits), key=lambda task_id: (-scores[task_id], task_id))
    # One permutation draws the audits' places and, by its order, which audit takes which.
    places = torch.randperm(len(scores), generator=generator)[: len(audits)].tolist()
    audit_at = dict(zip(places, audits, strict=True))
    others = iter(ranked)
    return [audit_at[place] if place in audit_at else next(others) for place in range(len(scores))]


def _check_scores(scores: Tensor) -> None:
    if scores.ndim != 1:
        raise ValueError(f"scores must be [N], got shape {tuple(scores.shape)}")
    bad = int((~torch.isfinite(scores)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(scores)} scores are not finite")
