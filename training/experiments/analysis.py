"""What a run shows, in figures: which strategy needs fewer labels, and how surely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.experiments.runs import Run
from training.experiments.statistics import (
    ALPHA,
    Difference,
    aubc,
    holm,
    labels_to_reach,
    mean_known,
    paired_t,
    penalty_matrix,
)
from training.experiments.strategy import RANDOM

SHARES_OF_FULL = (0.95, 0.99)
"""Shares of full-data quality whose labels are counted."""

ADAPTIVE = "committee"
"""The strategy that the hypotheses are about: what serves live by default."""


@dataclass(frozen=True)
class Standing:
    """A strategy's area under the budget curve.

    Attributes:
        mean, sd: over the seeds; no standard deviation of one seed.
        difference: from random with the same seeds; None for random itself, or without it.
        p_holm: of that difference, corrected over the strategies.
    """

    strategy: str
    mean: float
    sd: float | None
    difference: Difference | None
    p_holm: float | None

    @property
    def verdict(self) -> str:
        """How it compares with random; a star only if the difference survives the correction."""
        if self.difference is None:
            return "the reference" if self.strategy == RANDOM else "no random to compare with"
        if self.p_holm is None:
            return "one seed: nothing can be said"
        if self.p_holm >= ALPHA:
            return "no difference shown"
        if self.difference.mean > 0:
            return "better than random *"
        return "significantly worse than random *"


@dataclass(frozen=True)
class Against:
    """A strategy's area under the budget curve, less another's with the same seeds.

    Attributes:
        p_holm: corrected over all strategies that it is compared with.
    """

    strategy: str
    other: str
    difference: Difference
    p_holm: float | None


@dataclass(frozen=True)
class ClassGain:
    """A strategy's area under the curve of one class's IoU, less random's with the same seeds.

    Attributes:
        index: of the class.
        p_holm: corrected over the classes of the strategy.
    """

    strategy: str
    index: int
    difference: Difference
    p_holm: float | None


@dataclass(frozen=True)
class Reach:
    """Labels until a target, with one seed; None if the run ended first."""

    strategy: str
    seed: int
    target: str
    labels: float | None


def standings(run: Run) -> list[Standing]:
    """All strategies by their mean area under the budget curve, largest first."""
    areas = _areas(run)
    against = {
        strategy: paired_t(areas[RANDOM], area)
        for strategy, area in areas.items()
        if RANDOM in areas and strategy != RANDOM
    }
    corrected = dict(zip(against, _corrected(list(against.values())), strict=True))
    found = [
        Standing(
            strategy,
            float(area.mean()),
            float(area.std(ddof=1)) if len(area) > 1 else None,
            against.get(strategy),
            corrected.get(strategy),
        )
        for strategy, area in areas.items()
    ]
    return sorted(found, key=lambda standing: -standing.mean)


def _areas(run: Run) -> dict[str, NDArray[np.float64]]:
    """[R] each strategy's area with each seed."""
    return {
        strategy: np.array([aubc(run.budgets, curve) for curve in run.quality[strategy]])
        for strategy in run.strategies
    }


def _corrected(differences: Sequence[Difference]) -> list[float | None]:
    """Holm's correction over a family of p; None where a single seed gave none."""
    corrected = iter(holm([d.p for d in differences if d.p is not None]))
    return [None if d.p is None else next(corrected) for d in differences]


def adaptive_strategies(run: Run) -> list[str]:
    """The strategies that the hypotheses are about: ``ADAPTIVE``, else all that have weights."""
    return [ADAPTIVE] if ADAPTIVE in run.strategies else list(arm_weights(run))


def aubc_against(run: Run) -> list[Against]:
    """Each adaptive strategy against every other one."""
    areas = _areas(run)
    found = []
    for strategy in adaptive_strategies(run):
        others = [other for other in run.strategies if other != strategy]
        differences = [paired_t(areas[other], areas[strategy]) for other in others]
        found += [
            Against(strategy, *each)
            for each in zip(others, differences, _corrected(differences), strict=True)
        ]
    return found


def class_gains(run: Run) -> list[ClassGain]:
    """Each strategy against random in each class but background that the test images show."""
    if RANDOM not in run.strategies:
        return []
    areas = {}
    for strategy in run.strategies:
        for index in run.foreground:
            curves = run.class_iou(strategy, index)
            if np.isfinite(curves).all():
                areas[strategy, index] = [aubc(run.budgets, curve) for curve in curves]
    found = []
    for strategy in run.strategies:
        if strategy == RANDOM:
            continue
        shown = [i for i in run.foreground if {(RANDOM, i), (strategy, i)} <= areas.keys()]
        differences = [paired_t(areas[RANDOM, i], areas[strategy, i]) for i in shown]
        found += [
            ClassGain(strategy, *each)
            for each in zip(shown, differences, _corrected(differences), strict=True)
        ]
    return found


def quality_reached(run: Run) -> list[Reach]:
    """Labels until shares of full-data quality, of each seed whose full-data quality is known."""
    found = []
    for strategy in run.strategies:
        for seed, curve in zip(run.seeds, run.quality[strategy], strict=True):
            if seed not in run.full_quality:
                continue
            for share in SHARES_OF_FULL:
                labels = labels_to_reach(run.budgets, curve, share * run.full_quality[seed])
                found.append(Reach(strategy, seed, quality_target(share), labels))
    return found


def classes_reached(run: Run) -> list[Reach]:
    """Labels until each class but background occurs in a labelled image."""
    found = []
    for strategy in run.strategies:
        for seed in run.seeds:
            curve = run.curve(strategy, seed)
            for index in run.foreground:
                first = next((float(run.asked(line)) for line in curve if line.known[index]), None)
                target = class_target(run.settings.classes[index])
                found.append(Reach(strategy, seed, target, first))
    return found


def quality_target(share: float) -> str:
    """The name of a target of ``quality_reached``."""
    return f"{100 * share:.0f} % of full-data quality"


def class_target(name: str) -> str:
    """The name of a target of ``classes_reached``."""
    return f"class {name} known"


def arm_weights(run: Run) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Each arm's weight after each round, for the adaptive strategies.

    Returns:
        By strategy and arm, [T] mean over the seeds; NaN in a round without weights.
    """
    found = {}
    for strategy in run.strategies:
        arms = list(
            dict.fromkeys(
                arm
                for seed in run.seeds
                for line in run.curve(strategy, seed)
                for arm in line.weights or ()
            )
        )
        if arms:
            found[strategy] = {arm: _mean_weight(run, strategy, arm) for arm in arms}
    return found


def _mean_weight(run: Run, strategy: str, arm: str) -> NDArray[np.float64]:
    weights = run.values(
        strategy, lambda line: None if line.weights is None else line.weights.get(arm, 0.0)
    )
    return mean_known(weights)


def heaviest(run: Run, strategy: str) -> Counter[str]:
    """In how many rounds, over all seeds, each arm alone had the most weight."""
    return Counter(
        line.heaviest
        for seed in run.seeds
        for line in run.curve(strategy, seed)
        if line.heaviest is not None
    )


def leaders(run: Run, strategy: str) -> Counter[str]:
    """In how many rounds, over all seeds, each arm saw the errors of the latest batch best."""
    return Counter(
        line.leader
        for seed in run.seeds
        for line in run.curve(strategy, seed)
        if line.leader is not None
    )


def penalties(run: Run) -> NDArray[np.float64] | None:
    """``penalty_matrix`` of a run's strategies after each round; None with a single seed."""
    if len(run.seeds) < 2:
        return None
    # At round 0 all strategies hold the same images.
    return penalty_matrix(np.stack([run.quality[name][:, 1:] for name in run.strategies]))
