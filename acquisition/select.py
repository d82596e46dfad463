"""From scores to an order: who goes first, with how much chance, and where the audits stand."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Literal

import torch
from torch import Tensor

Why = Literal["doubt", "class", "chance", "audit"]

DISTANCE_PAIRS = 4096
"""Pairs of images that tell how far apart two of a pool usually are."""

COPIES_APART = 2e-3
"""Two images no further apart, where features have length 1, count as copies: float32 knows a
squared distance to some 1e-6."""

COPY = -1e6
"""Log newness of a copy: behind all that is none, whatever its score and noise."""

COMPOSED = 1000
"""Places that heed newness and classes; those behind are ordered by score, noise and chance alone.
A queue is made anew long before anybody gets there, and 10,000 such places would take half a
minute."""

REFERENCES = 2048
"""Images that the middle of a pool is found among: all 20,000 would take minutes."""


@dataclass(frozen=True)
class Rule:
    """How a queue is made of scores; every part can be left out, and all are seeded.

    Attributes:
        beta: of the power noise on the scores; None for none.
        class_share: share of the places not left to chance that go to the classes in turn, the
            least known first.
        diverse: what resembles an image already queued stands back.
        chance_share: share of the places that go to images drawn evenly beforehand; nothing
            else can place these, in this queue.
    """

    beta: float | None = None
    class_share: float = 0.0
    diverse: bool = False
    chance_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("class_share", "chance_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.beta is not None and not self.beta > 0:
            raise ValueError(f"beta must be above 0, got {self.beta}")


RULE = Rule(beta=10.0, class_share=0.5, diverse=True, chance_share=0.2)
"""What serves unless a comparison asks for another; docs/ACQUISITION.md has the evidence."""


@dataclass(frozen=True)
class Pick:
    """An image's place in a queue, by its index in the pool, and what put it there."""

    index: int
    why: Why


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest of scores [N], best first; ties keep pool order.

    Fewer than k scores give all of them.

    Raises:
        ValueError: ``scores`` is not 1-d, a score is not finite, or k is negative.
    """
    _check_scores(scores)
    _check_k(k)
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
    waiting = torch.empty(len(scores), dtype=torch.float64).exponential_(generator=generator)
    gumbel = -waiting.log()
    return _log(scores) + gumbel.to(scores.device) / beta


def _log(scores: Tensor) -> Tensor:
    # Finite at 0, so that images without any doubt still have an order among themselves.
    return scores.double().clamp_min(torch.finfo(torch.float64).tiny).log()


def percentiles(scores: Tensor) -> Tensor:
    """Share of the scores [N] that are below each, ties counted half: [N] float64, above 0 and
    below 1.

    Raises:
        ValueError: ``scores`` is not 1-d, or a score is not finite.
    """
    _check_scores(scores)
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


def compose(
    scores: Tensor,
    k: int,
    rule: Rule,
    generator: torch.Generator,
    *,
    features: Tensor | None = None,
    class_scores: Tensor | None = None,
    known: Tensor | None = None,
    by_chance: Tensor | None = None,
) -> list[Pick]:
    """The first k of a queue, in order: any beginning of it is a batch by the same rule.

    Place by place: the image with the largest score, noise included, times how new it is beside
    those queued before it. Some places go to a class in turn, the one that the fewest labelled
    and queued images show, and there the score counts that the image has for this class; some
    go to chance.

    Args:
        scores: [N], not negative; percentiles, so that a product with newness means something.
        k: at most N are given.
        rule: what to heed.
        generator: a CPU generator.
        features: [N, F] of the images, in any unit; needed by a diverse rule.
        class_scores: [N, C] doubt about each class's own pixels, 0 where an image shows none of
            it; needed by a rule with a class share. Class 0, the background, has no turn.
        known: [C] labelled images that show each class; none if not given.
        by_chance: [N] bool, the images that chance may draw, themselves an even sample of
            the pool; all if not given. Copies of queued images excepted, every one of them is
            drawn alike, whatever its score.

    Raises:
        ValueError: what the rule needs is missing, a shape is wrong, k is negative, or a score
            is negative or not finite.
    """
    _check_scores(scores)
    N = len(scores)
    if N and bool(scores.amin() < 0):
        raise ValueError(f"scores must be at least 0, the lowest is {scores.amin().item():.4g}")
    _check_k(k)
    worth, noise = _worth(scores, rule.beta, generator)
    new = _Newness(_check_features(features, N), generator) if rule.diverse else None
    classes = None
    if rule.class_share > 0:
        classes = _Classes(_check_class_scores(class_scores, N), noise, known)
    order = torch.randperm(N, generator=generator)
    of_chance = _Share(rule.chance_share, generator)
    of_classes = _Share(rule.class_share, generator)
    waiting = _Waiting(worth, _drawn(order, of_chance, by_chance), new, classes)
    picks: list[Pick] = []
    ranked = 0  # places that did not go to chance
    while len(picks) < min(k, N, COMPOSED):
        pick = waiting.next_by_chance() if of_chance.holds(len(picks)) else None
        if pick is None:
            pick = waiting.next_for_class() if of_classes.holds(ranked) else None
            pick = pick or waiting.next_by_uncertainty() or waiting.next_copy()
            ranked += 1
        waiting.take(pick.index)
        picks.append(pick)
    return picks + _behind(waiting, range(len(picks), min(k, N)), of_chance)


def _worth(scores: Tensor, beta: float | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Log scores with their noise, and the noise alone: [N] float64 each."""
    log_scores = _log(scores).cpu()
    noise = torch.zeros(len(scores), dtype=torch.float64)
    if beta is not None:
        noise = power_noise(scores, beta, generator).cpu() - log_scores
    return log_scores + noise, noise


class _Share:
    """An evenly spread share of the places of a queue, begun anywhere."""

    def __init__(self, share: float, generator: torch.Generator) -> None:
        self._share = share
        self._offset = float(torch.rand((), generator=generator))

    def holds(self, place: int) -> bool:
        through = floor((place + 1) * self._share + self._offset)
        return through > floor(place * self._share + self._offset)


def _drawn(order: Tensor, of_chance: _Share, by_chance: Tensor | None) -> list[int]:
    """The images that chance places, in its order.

    Drawn before anything is ranked: of what doubt leaves over no draw would be even. And as many
    as the whole pool's queue needs, so that a shorter queue is the beginning of a longer one.
    """
    N = len(order)
    if by_chance is not None:
        order = order[_check_by_chance(by_chance, N)[order]]
    drawn: list[int] = order[: sum(of_chance.holds(place) for place in range(N))].tolist()
    return drawn


class _Waiting:
    """The images that are not queued yet: those drawn by chance, and those that are ranked."""

    def __init__(
        self, worth: Tensor, drawn: list[int], new: _Newness | None, classes: _Classes | None
    ) -> None:
        self._worth, self.drawn, self._new, self._classes = worth, drawn, new, classes
        self._left = torch.ones(len(worth), dtype=torch.bool)
        self._left[drawn] = False

    def next_by_chance(self) -> Pick | None:
        """The first of those drawn that is no copy of a queued image; None if all are."""
        for place, index in enumerate(self.drawn):
            if self._new is None or not self._new.is_copy(index):
                return Pick(self.drawn.pop(place), "chance")
        return None

    def next_for_class(self) -> Pick | None:
        """The first for the class whose turn it is; None if there is none (``_Classes.best``)."""
        index = None if self._classes is None else self._classes.best(self._left, self._new)
        return None if index is None else Pick(index, "class")

    def next_by_uncertainty(self) -> Pick | None:
        """The largest score times newness; None if only those drawn are left."""
        if not bool(self._left.any()):
            return None
        return Pick(_best(self._worth, self._left, self._new), "doubt")

    def next_copy(self) -> Pick:
        """The first of those drawn, where all that is left was drawn and is copies."""
        return Pick(self.drawn.pop(0), "chance")

    def take(self, index: int) -> None:
        self._left[index] = False
        if self._new is not None:
            self._new.take(index)
        if self._classes is not None:
            self._classes.take(index)

    def ranked(self) -> list[int]:
        """All that were not drawn, by score and noise alone, the best first."""
        order = torch.where(self._left, self._worth, -torch.inf).argsort(
            descending=True, stable=True
        )
        ranked: list[int] = order[: int(self._left.sum())].tolist()
        return ranked


def _behind(waiting: _Waiting, places: range, of_chance: _Share) -> list[Pick]:
    """The places that heed neither newness nor classes."""
    drawn, ranked = deque(waiting.drawn), deque(waiting.ranked())
    return [
        Pick(drawn.popleft(), "chance")
        if drawn and (not ranked or of_chance.holds(place))
        else Pick(ranked.popleft(), "doubt")
        for place in places
    ]


class _Newness:
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


class _Classes:
    """Whose turn it is, and who stands first for a class."""

    def __init__(self, class_scores: Tensor, noise: Tensor, known: Tensor | None) -> None:
        self._shows = class_scores > 0  # [N, C]
        C = class_scores.shape[1]
        if known is not None and known.shape != (C,):
            raise ValueError(f"known must be [{C}], got shape {tuple(known.shape)}")
        self._worth = []
        for c in range(C):
            shown = self._shows[:, c]
            worth = torch.full((len(shown),), -torch.inf, dtype=torch.float64)
            worth[shown] = percentiles(class_scores[shown, c]).log() + noise[shown]
            self._worth.append(worth)
        self._count = torch.zeros(C) if known is None else known.double().clone()

    def best(self, left: Tensor, new: _Newness | None) -> int | None:
        """The first for the class that the fewest show; None if no image left shows any but
        copies of those queued."""
        if new is not None:
            left = left & (new.log > COPY)
        there = self._shows[left].any(dim=0)
        there[0] = False
        if not bool(there.any()):
            return None
        turn = int(torch.where(there, self._count, torch.inf).argmin())
        return _best(self._worth[turn], left & self._shows[:, turn], new)

    def take(self, index: int) -> None:
        self._count += self._shows[index]


def _best(worth: Tensor, among: Tensor, new: _Newness | None) -> int:
    total = worth if new is None else worth + new.log
    return int(torch.where(among, total, -torch.inf).argmax())


def standardised(features: Tensor) -> Tensor:
    """Each feature with mean 0 and standard deviation 1 over the pool, each image of length 1:
    [N, F] float32. Features that do not vary are 0."""
    # In float32 the mean of a large constant is off by its rounding, which looks like a spread.
    centred = features.float() - features.mean(dim=0, dtype=torch.float64).float()
    spread = centred.square().mean(dim=0).sqrt()
    scaled = torch.where(spread > 1e-6 * spread.amax().clamp_min(1e-12), centred / spread, 0.0)
    length: Tensor = scaled.norm(dim=1, keepdim=True)
    return scaled / length.clamp_min(1e-6)


def farthest_first(features: Tensor, k: int, generator: torch.Generator) -> list[int]:
    """The image in the middle of all, then again and again the one least like those before it.

    Before there is a model the first labels must show what there is. Typical images do not: in a
    pool of several kinds they are all of the commonest (docs/ACQUISITION.md has the measurement).

    Args:
        features: [N, F], in any unit.
        k: places; fewer where N is smaller. Beyond ``COMPOSED`` of them what is left stands in the
            order of its distance at that place.
        generator: a CPU generator; of a large pool the middle is found among ``REFERENCES`` images.

    Returns:
        Indices; copies come last.

    Source: the greedy k-centre of Gonzalez 1985, as core-sets are chosen by Sener and Savarese
    2018 (arXiv 1708.00489).
    """
    points = standardised(_check_features(features, len(features)))
    _check_k(k)
    N = len(points)
    references = points[torch.randperm(N, generator=generator)[:REFERENCES]]
    order: list[int] = []
    apart = torch.full((N,), torch.inf)  # from the nearest that is queued
    while len(order) < min(k, N, COMPOSED):
        index = int(apart.argmax()) if order else _middle(points, references)
        order.append(index)
        apart = torch.minimum(apart, (points - points[index]).norm(dim=1))
        apart[index] = -1.0  # behind the copies of those queued
    behind = apart.argsort(descending=True, stable=True).tolist()
    return order + behind[: min(k, N) - len(order)]


def _middle(points: Tensor, references: Tensor) -> int:
    pieces = (points[start : start + 1024] for start in range(0, len(points), 1024))
    far = [torch.cdist(piece, references).double().mean(dim=1) for piece in pieces]
    return int(torch.cat(far).argmin())


def with_audits(
    picks: Sequence[Pick], audits: Collection[int], generator: torch.Generator
) -> list[Pick]:
    """The queue with audit images at evenly drawn places, the others in their order around them.

    Audits are for an unbiased estimate, so neither their places nor their order depend on any
    score.

    Args:
        picks: the queue without audits.
        audits: their indices.
        generator: a CPU generator.
    """
    waiting = sorted(audits)
    length = len(picks) + len(waiting)
    # One permutation draws the audits' places and, by its order, which audit takes which.
    places = torch.randperm(length, generator=generator)[: len(waiting)].tolist()
    audit_at = dict(zip(places, waiting, strict=True))
    others = iter(picks)
    return [
        Pick(audit_at[place], "audit") if place in audit_at else next(others)
        for place in range(length)
    ]


def _check_k(k: int) -> None:
    if k < 0:
        raise ValueError(f"k must not be negative, got {k}")


def _check_features(features: Tensor | None, N: int) -> Tensor:
    if features is None or features.ndim != 2 or features.shape[0] != N or not features.shape[1]:
        got = None if features is None else tuple(features.shape)
        raise ValueError(f"features must be [{N}, F], got {got}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("features must be finite")
    return features


def _check_by_chance(by_chance: Tensor, N: int) -> Tensor:
    if by_chance.shape != (N,) or by_chance.dtype != torch.bool:
        raise ValueError(f"by_chance must be [{N}] bool, got {tuple(by_chance.shape)}")
    return by_chance.cpu()


def _check_class_scores(class_scores: Tensor | None, N: int) -> Tensor:
    if (
        class_scores is None
        or class_scores.ndim != 2
        or class_scores.shape[0] != N
        or not class_scores.shape[1]
    ):
        got = None if class_scores is None else tuple(class_scores.shape)
        raise ValueError(f"class_scores must be [{N}, C], got {got}")
    if not bool((class_scores >= 0).all() and torch.isfinite(class_scores).all()):
        raise ValueError("class_scores must not be negative and must be finite")
    return class_scores.double()


def _check_scores(scores: Tensor) -> None:
    if scores.ndim != 1:
        raise ValueError(f"scores must be [N], got shape {tuple(scores.shape)}")
    bad = int((~torch.isfinite(scores)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(scores)} scores are not finite")
