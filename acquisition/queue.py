"""The queue: which image comes first, how much is left to chance, where the audits stand."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import floor
from typing import Literal

import torch
from torch import Tensor

from acquisition.diversity import COPY, Newness, check_features, standardised
from acquisition.scores import check_k, check_scores, log_scores, percentiles, power_noise

Why = Literal["uncertainty", "class", "group", "chance", "audit"]

COMPOSED = 1000
"""Places that newness and classes decide too; score, noise and chance alone order those behind.
A queue is made anew long before anybody gets there, and 10,000 such places would take half a
minute."""

GROUP_PLACES = 5
"""One in so many places that do not go to chance goes to the groups that are new to the model."""

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
    groups: Tensor | None = None,
) -> list[Pick]:
    """The first k of a queue, in order: any beginning of it is a batch by the same rule.

    Place by place: the image with the largest score, noise included, times how new it is beside
    those queued before it. Some places go to a class in turn, the one that the fewest labelled
    and queued images show, and there the score counts that the image has for this class; some
    go to chance, and some to the groups that are new to the model, in turn.

    Args:
        scores: [N], not negative; percentiles, so that a product with newness means something.
        k: at most N are given.
        rule: the shares of the queue.
        generator: a CPU generator.
        features: [N, F] of the images, in any unit; needed by a diverse rule.
        class_scores: [N, C] uncertainty of each class's own pixels, 0 where an image shows none of
            it; needed by a rule with a class share. Class 0, the background, has no turn.
        known: [C] labelled images that show each class; none if not given.
        by_chance: [N] bool, the images that chance may draw, themselves an even sample of
            the pool; all if not given. Copies of queued images excepted, every one of them is
            drawn alike, whatever its score.
        groups: [N] int64, the number of the group of each image whose group is new to the model,
            -1 of the others; no group is if not given.

    Raises:
        ValueError: what the rule needs is missing, a shape is wrong, k is negative, or a score
            is negative or not finite.
    """
    check_scores(scores)
    N = len(scores)
    if N and bool(scores.amin() < 0):
        raise ValueError(f"scores must be at least 0, the lowest is {scores.amin().item():.4g}")
    check_k(k)
    worth, noise = _worth(scores, rule.beta, generator)
    new = Newness(check_features(features, N), generator) if rule.diverse else None
    classes = None
    if rule.class_share > 0:
        classes = _Classes(_check_class_scores(class_scores, N), noise, known)
    new_groups = None if groups is None else _NewGroups(_check_groups(groups, N))
    order = torch.randperm(N, generator=generator)
    of_chance = _Share(rule.chance_share, generator)
    of_classes = _Share(rule.class_share, generator)
    waiting = _Waiting(worth, _drawn(order, of_chance, by_chance), new, classes, new_groups)
    picks: list[Pick] = []
    ranked = 0  # places that did not go to chance
    while len(picks) < min(k, N, COMPOSED):
        pick = waiting.next_by_chance() if of_chance.holds(len(picks)) else None
        if pick is None:
            pick = waiting.next_for_group(ranked)
            if pick is None and of_classes.holds(ranked):
                pick = waiting.next_for_class()
            pick = pick or waiting.next_by_uncertainty() or waiting.next_copy()
            ranked += 1
        waiting.take(pick.index)
        picks.append(pick)
    return picks + _behind(waiting, range(len(picks), min(k, N)), of_chance)


def _worth(scores: Tensor, beta: float | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Log scores with their noise, and the noise alone: [N] float64 each."""
    logs = log_scores(scores).cpu()
    noise = torch.zeros(len(scores), dtype=torch.float64)
    if beta is not None:
        noise = power_noise(scores, beta, generator).cpu() - logs
    return logs + noise, noise


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

    Drawn before anything is ranked: what the uncertainty leaves over is no even sample. And as many
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
        self,
        worth: Tensor,
        drawn: list[int],
        new: Newness | None,
        classes: _Classes | None,
        groups: _NewGroups | None,
    ) -> None:
        self._worth, self.drawn, self._new, self._classes = worth, drawn, new, classes
        self._groups = groups
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

    def next_for_group(self, place: int) -> Pick | None:
        """The best of the new group whose turn it is; None where it is none's, or none is left.

        Args:
            place: of those that did not go to chance.
        """
        among = None if self._groups is None else self._groups.whose_turn(place, self._left)
        return None if among is None else Pick(_best(self._worth, among, self._new), "group")

    def next_by_uncertainty(self) -> Pick | None:
        """The largest score times newness; None if only those drawn are left."""
        if not bool(self._left.any()):
            return None
        return Pick(_best(self._worth, self._left, self._new), "uncertainty")

    def next_copy(self) -> Pick:
        """The first of those drawn, where all that is left was drawn and is copies."""
        return Pick(self.drawn.pop(0), "chance")

    def take(self, index: int) -> None:
        self._left[index] = False
        if self._new is not None:
            self._new.take(index)
        if self._classes is not None:
            self._classes.take(index)
        if self._groups is not None:
            self._groups.take(index)

    def ranked(self) -> list[int]:
        """All that were not drawn, by score and noise alone, the best first."""
        order = torch.where(self._left, self._worth, -torch.inf).argsort(
            descending=True, stable=True
        )
        ranked: list[int] = order[: int(self._left.sum())].tolist()
        return ranked


def _behind(waiting: _Waiting, places: range, of_chance: _Share) -> list[Pick]:
    """The places that neither newness nor classes decide."""
    drawn, ranked = deque(waiting.drawn), deque(waiting.ranked())
    return [
        Pick(drawn.popleft(), "chance")
        if drawn and (not ranked or of_chance.holds(place))
        else Pick(ranked.popleft(), "uncertainty")
        for place in places
    ]


class _NewGroups:
    """Whose turn it is among the groups that are new to the model: nothing here is drawn."""

    def __init__(self, groups: Tensor) -> None:
        self._groups = groups
        self._queued = Counter[int]()

    def whose_turn(self, place: int, left: Tensor) -> Tensor | None:
        """[N] bool, the waiting images of the group with the fewest in the queue."""
        # Spread evenly, the first of them at once: nothing is known of these images.
        if place % GROUP_PLACES:
            return None
        there = set(self._groups[left & (self._groups >= 0)].tolist())
        if not there:
            return None
        turn = min(there, key=lambda group: (self._queued[group], group))
        return torch.logical_and(left, self._groups == turn)

    def take(self, index: int) -> None:
        self._queued[int(self._groups[index])] += 1


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

    def best(self, left: Tensor, new: Newness | None) -> int | None:
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


def _best(worth: Tensor, among: Tensor, new: Newness | None) -> int:
    total = worth if new is None else worth + new.log
    return int(torch.where(among, total, -torch.inf).argmax())


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
    points = standardised(check_features(features, len(features)))
    check_k(k)
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


def _check_by_chance(by_chance: Tensor, N: int) -> Tensor:
    if by_chance.shape != (N,) or by_chance.dtype != torch.bool:
        raise ValueError(f"by_chance must be [{N}] bool, got {tuple(by_chance.shape)}")
    return by_chance.cpu()


def _check_groups(groups: Tensor, N: int) -> Tensor:
    if groups.shape != (N,) or groups.dtype != torch.int64:
        raise ValueError(f"groups must be [{N}] int64, got {tuple(groups.shape)} {groups.dtype}")
    return groups.cpu()


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
