"""Scores: the largest, noise on them, percentiles, and mixtures of several arms."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest of scores [N], best first; ties keep pool order.

    Fewer than k scores give all of them.

    Raises:
        ValueError: ``scores`` is not 1-d, a score is not finite, or k is negative.
    """
    check_scores(scores)
    check_k(k)
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
    check_scores(scores)
    if len(scores) and bool(scores.amin() < 0):
        raise ValueError(
            f"power noise needs scores of at least 0, the lowest is {scores.amin().item():.4g}"
        )
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    waiting = torch.empty(len(scores), dtype=torch.float64).exponential_(generator=generator)
    gumbel = -waiting.log()
    return log_scores(scores) + gumbel.to(scores.device) / beta


def log_scores(scores: Tensor) -> Tensor:
    # Finite at 0, so that images without any uncertainty still have an order among themselves.
    return scores.double().clamp_min(torch.finfo(torch.float64).tiny).log()


def percentiles(scores: Tensor) -> Tensor:
    """Share of the scores [N] that are below each, ties counted half: [N] float64, above 0 and
    below 1.

    Raises:
        ValueError: ``scores`` is not 1-d, or a score is not finite.
    """
    check_scores(scores)
    ordered = scores.double().sort().values
    below = torch.searchsorted(ordered, scores.double())
    through = torch.searchsorted(ordered, scores.double(), right=True)
    return (below + through).double() / (2 * len(scores))


def rank_mixture(scores: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Weighted mean over the arms of each image's percentile in the pool.

    Percentiles, because nats, probabilities and shares are on no common scale.

    Args:
        scores: arm to scores [N].
        weights: arm to weight, not negative, their sum above 0; arms without a weight have 0.

    Returns:
        [N] float64 between 0 and 1.

    Raises:
        ValueError: a weight is negative, all are 0, one names no arm, or a score is not finite.
    """
    unknown = sorted(weights.keys() - scores.keys())
    if unknown:
        raise ValueError(f"there are no scores of {', '.join(unknown)}")
    total = sum(weights.values())
    if not total > 0 or min(weights.values()) < 0:
        raise ValueError(f"weights must not be negative and not all 0, they sum to {total}")
    mixed = [weight / total * percentiles(scores[arm]) for arm, weight in weights.items() if weight]
    return torch.stack(mixed).sum(dim=0)


def check_k(k: int) -> None:
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")


def check_scores(scores: Tensor) -> None:
    if scores.ndim != 1:
        raise ValueError(f"scores must be [N], got shape {tuple(scores.shape)}")
    bad = int((~torch.isfinite(scores)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(scores)} scores are not finite")
