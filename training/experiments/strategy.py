"""Ways to choose the images to label next, by the same functions that serve live.

A strategy is a *mode*, which defines an image's score, and a ``Rule``, which makes a batch of the
scores. The named ones are what a comparison needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from acquisition.adaptive import ARMS, Trust, weights_of
from acquisition.queue import RULE, Pick, Rule, compose, farthest_first
from acquisition.scores import percentiles, rank_mixture
from training.committee.prediction import Prediction
from training.errors import TrainingError, wrong_fields

MODES = (
    *("random", "farthest_first", "foreground", "hedge", "leader", "rank_average"),
    "oracle_error",
)

RANDOM = "random"
"""The strategy that all others are compared with."""

FULL = "all"
"""Not a strategy: the whole pool labelled at once, in round 0, once per seed. It shows what can be
reached."""


class UnknownStrategy(TrainingError):
    """No strategy has this name, or its description is wrong."""


@dataclass(frozen=True)
class Strategy:
    """A way to choose images.

    Attributes:
        name: used in files, tables and figures.
        mode: one of ``MODES``, or "fixed:measure/aggregate".
        rule: what makes a batch of the scores.
        power: the raw score, not its percentile, takes the noise: power acquisition as published.
        anneal: the noise's beta rises from 1 to 100 over the rounds, as in ClaSP PE.
    """

    name: str
    mode: str
    rule: Rule = field(default_factory=Rule)
    power: bool = False
    anneal: bool = False

    @property
    def needs_predictions(self) -> bool:
        """Whether it needs the committee's predictions of the candidates."""
        return self.mode not in ("random", "farthest_first") or self.rule.class_share > 0


def _fixed(name: str, arm: str, **changes: Any) -> Strategy:
    return Strategy(name, f"fixed:{arm}", **changes)


NAMED: Mapping[str, Strategy] = {
    each.name: each
    for each in (
        Strategy("random", "random"),
        # Two thirds show a class drawn evenly, drawn evenly among those that do: what nnActive
        # found hard to beat.
        Strategy("foreground_random", "foreground", Rule(beta=1.0, chance_share=1 / 3), power=True),
        _fixed("entropy", "predictive_entropy/image_mean"),
        _fixed("entropy_top", "predictive_entropy/top_quantile_mean"),
        _fixed("entropy_object", "predictive_entropy/object_max"),
        _fixed("bald", "mutual_information/image_mean"),
        _fixed("power_bald", "mutual_information/image_mean", rule=Rule(beta=1.0), power=True),
        _fixed(
            "clasp",
            "predictive_entropy/top_quantile_mean",
            rule=Rule(beta=1.0, class_share=2 / 3),
            anneal=True,
        ),
        Strategy("rank_average", "rank_average"),
        Strategy("oracle_error", "oracle_error"),
        Strategy("diverse", "random", Rule(diverse=True)),
        Strategy("farthest_first", "farthest_first"),
        Strategy("hedge_plain", "hedge"),
        Strategy("leader", "leader", RULE),
        Strategy("committee", "hedge", RULE),
    )
}
"""Strategies by name; "committee" is what serves live by default."""


def strategy_of(described: str | Mapping[str, Any]) -> Strategy:
    """A strategy from its name, or from {"name": ..., "mode": ..., and fields of ``Rule``}.

    Raises:
        UnknownStrategy: no such name, or a field that is wrong; the message lists what is allowed.
    """
    if isinstance(described, str):
        if described not in NAMED:
            raise UnknownStrategy(
                f"there is no strategy {described!r}; there are {', '.join(NAMED)}, or a mapping "
                "with name, mode, beta, class_share, diverse, chance_share"
            )
        return NAMED[described]
    try:
        given = _Described.model_validate(dict(described))
    except ValidationError as error:
        wrong = "; ".join(wrong_fields(error))
        raise UnknownStrategy(f"strategy {described.get('name')!r}: {wrong}") from error
    arm = given.mode.removeprefix("fixed:")
    if given.mode not in MODES and (arm == given.mode or arm not in ARMS):
        raise UnknownStrategy(
            f"the mode of {given.name!r} must be {', '.join(MODES)} or fixed:measure/aggregate, "
            f"got {given.mode!r}"
        )
    return Strategy(given.name, given.mode, Rule(**given.model_dump(exclude={"name", "mode"})))


class _Described(BaseModel):
    """A strategy as a configuration describes it."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    # It is part of file names.
    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}$")
    mode: str
    beta: float | None = Field(None, gt=0)
    class_share: float = Field(0.0, ge=0, le=1)
    diverse: bool = False
    chance_share: float = Field(0.0, ge=0, le=1)


@dataclass(frozen=True)
class Candidates:
    """What a strategy may know about the images that it chooses from.

    Attributes:
        features: [N, F] of the encoder.
        predictions: the committee's, one per image; empty if the strategy needs none.
        errors: [N] share of wrong pixels, for the oracle; None for the others.
        known: [C] number of labelled images that show each class.
    """

    features: Tensor
    predictions: Sequence[Prediction]
    errors: Sequence[float] | None
    known: Tensor


def choose(
    strategy: Strategy,
    candidates: Candidates,
    k: int,
    trust: Trust,
    progress: float,
    generator: torch.Generator,
) -> list[Pick]:
    """The k images to label next.

    Args:
        trust: in the arms, from the evidence so far.
        progress: share of the rounds that are done, 0 to 1.
    """
    scores = _scores(strategy, candidates, trust, generator)
    rule = strategy.rule
    if strategy.anneal:
        rule = replace(rule, beta=100.0**progress)
    class_scores = None
    if rule.class_share > 0:
        class_scores = torch.from_numpy(
            np.stack([prediction.class_scores for prediction in candidates.predictions])
        )
    return compose(
        scores,
        k,
        rule,
        generator,
        features=candidates.features if rule.diverse else None,
        class_scores=class_scores,
        known=candidates.known,
    )


def _scores(
    strategy: Strategy, candidates: Candidates, trust: Trust, generator: torch.Generator
) -> Tensor:
    N = len(candidates.features)
    if strategy.mode == "random":
        return percentiles(torch.rand(N, generator=generator))
    if strategy.mode == "farthest_first":
        scores = torch.empty(N, dtype=torch.float64)
        scores[farthest_first(candidates.features, N, generator)] = (
            torch.arange(N, 0, -1, dtype=torch.float64) / N
        )
        return scores
    if strategy.mode == "oracle_error":
        assert candidates.errors is not None
        return percentiles(torch.tensor(candidates.errors))
    if strategy.mode == "foreground":
        return _foreground(candidates.predictions)
    weights = weights_of(strategy.mode, trust)
    arms = {
        arm: torch.tensor(
            [prediction.arms[arm] for prediction in candidates.predictions], dtype=torch.float64
        )
        for arm in weights
    }
    if strategy.power:
        return next(iter(arms.values()))
    return rank_mixture(arms, weights)


def _foreground(predictions: Sequence[Prediction]) -> Tensor:
    """[N] chance of each image if a class is drawn evenly, and then one that shows it."""
    shows = (
        torch.from_numpy(np.stack([prediction.class_scores for prediction in predictions]))[:, 1:]
        > 0
    )
    count = shows.sum(dim=0)  # [C - 1]
    if not bool(count.any()):
        return torch.full((len(predictions),), 1 / len(predictions))
    return (shows / count.clamp_min(1)).sum(dim=1) / (count > 0).sum()
