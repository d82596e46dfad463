"""What a run shows, as figures and sentences: which strategy teaches faster, and how surely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.experiments.plots import iou_of, mean_known
from training.experiments.runs import BadRun, DistanceBins, Run
from training.experiments.statistics import (
    ALPHA,
    Difference,
    aubc,
    holm,
    labels_to_reach,
    paired_t,
    penalty_matrix,
    relative_gain,
)
from training.experiments.strategy import FULL, RANDOM

SHARES_OF_FULL = (0.95, 0.99)
"""Of full-data quality: how soon a strategy comes so near."""

ADAPTIVE = "committee"
"""The strategy that the hypotheses are of: what serves live by default."""

FOREGROUND = "foreground_random"

POOL_SHARE = 0.3
"""Of the pool: with so much of it a strategy should come near full-data quality."""

NEAR_BEST = 0.01
"""A point of AUBC: as near as an adaptive strategy should come to the best fixed measure."""

CLAIM_SHARE = 0.8
"""Strategies are compared where random has come so far: early enough for a difference to matter,
and not so late that nothing is left to find."""

NEAR_PX, FAR_PX = 2.0, 10.0
"""A boundary's neighbourhood, as ``acquisition.aggregate.BOUNDARY_PX`` has it, and what is clear
of it."""


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
        """What may be said of it against random; a star only for what survives the correction."""
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
        p_holm: corrected over all that the strategy is held against.
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


@dataclass(frozen=True)
class Distance:
    """Doubt by distance to a boundary over several networks.

    Attributes:
        edges_px: where the bins begin; the last is open.
        networks: how many are in it.
        pixels: [bins] their sum.
        wrong: [bins] mean share of wrong pixels; NaN in a bin that is empty for all.
        measures: [bins] mean doubt each, likewise.
        near_px: bins up to here count as near a boundary: those within ``NEAR_PX``, or the first
            where it is wider.
        far_px: bins from here on count as far from one: those beyond ``FAR_PX``; None without any.
        ratios: of each measure, doubt near a boundary over doubt far from one, all pixels alike;
            None where a side has no pixels, or the far doubt is 0.
    """

    edges_px: tuple[float, ...]
    networks: int
    pixels: NDArray[np.int64]
    wrong: NDArray[np.float64]
    measures: dict[str, NDArray[np.float64]]
    near_px: float
    far_px: float | None
    ratios: dict[str, float | None]


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
    """Holm's correction of a family's p; None where a single seed gave none."""
    corrected = iter(holm([d.p for d in differences if d.p is not None]))
    return [None if d.p is None else next(corrected) for d in differences]


def adaptive_strategies(run: Run) -> list[str]:
    """Those that the hypotheses are of: ``ADAPTIVE``, or without it all that have weights."""
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
    curves = {
        (strategy, index): run.values(strategy, iou_of(index))
        for strategy in run.strategies
        for index in run.foreground
    }
    found = []
    for strategy in run.strategies:
        shown = [
            index
            for index in run.foreground
            if np.isfinite(curves[strategy, index]).all()
            and np.isfinite(curves[RANDOM, index]).all()
        ]
        if strategy == RANDOM:
            continue
        differences = []
        for index in shown:
            first, second = (
                [aubc(run.budgets, curve) for curve in curves[name, index]]
                for name in (RANDOM, strategy)
            )
            differences.append(paired_t(first, second))
        found += [
            ClassGain(strategy, *each)
            for each in zip(shown, differences, _corrected(differences), strict=True)
        ]
    return found


def hypothesis_sentences(run: Run) -> list[str]:
    """What adaptive acquisition was hoped to do, and whether this run shows it."""
    strategies = adaptive_strategies(run)
    if not strategies:
        return [f"No hypothesis is tested: no strategy is called {ADAPTIVE} or adapts its weights."]
    held = {(each.strategy, each.other): each for each in aubc_against(run)}
    sentences = []
    for strategy in strategies:
        for other, words in ((RANDOM, "random"), (FOREGROUND, "foreground-aware random")):
            sentences.append(_better(strategy, words, held.get((strategy, other))))
        sentences.append(_near_best(run, strategy, held))
        sentences += [_share_of_full(run, strategy, share) for share in SHARES_OF_FULL]
    return sentences


def _better(strategy: str, words: str, against: Against | None) -> str:
    hypothesis = f"Hypothesis: {strategy} is better than {words}."
    if against is None:
        return f"{hypothesis} Not tested: it was not run."
    if against.p_holm is None:
        verdict = "one seed, nothing can be said"
    elif against.p_holm >= ALPHA:
        verdict = "not shown"
    elif against.difference.mean > 0:
        verdict = "shown"
    else:
        verdict = "refuted, it is significantly worse"
    return f"{hypothesis} {_points(against)}: {verdict}."


def _near_best(run: Run, strategy: str, held: dict[tuple[str, str], Against]) -> str:
    """The best is found on the same seeds, which favours it: what is shown is shown all the
    more."""
    hypothesis = f"Hypothesis: {strategy} is within one AUBC point of the best fixed measure."
    fixed = [
        held[strategy, other]
        for other in run.strategies
        if other != strategy and run.modes.get(other, "").startswith("fixed:")
    ]
    if not fixed:
        return f"{hypothesis} Not tested: no fixed measure was run."
    best = min(fixed, key=lambda against: against.difference.mean)
    low, high = best.difference.low, best.difference.high
    if low is None or high is None:
        verdict = "one seed, nothing can be said"
    elif low >= -NEAR_BEST:
        verdict = "shown"
    elif high < -NEAR_BEST:
        verdict = "refuted"
    else:
        verdict = "not decided, the interval holds both"
    return f"{hypothesis} Against {best.other}, {_points(best)}: {verdict}."


def _points(against: Against) -> str:
    d = against.difference
    detail = seed_words(d.pairs)
    if d.low is not None and d.high is not None:
        detail = f"95 % between {100 * d.low:+.1f} and {100 * d.high:+.1f}, {detail}"
    if against.p_holm is not None:
        detail += f", {p_words(against.p_holm)} after Holm"
    return f"AUBC {100 * d.mean:+.1f} points ({detail})"


def _share_of_full(run: Run, strategy: str, share: float) -> str:
    pool = f"{100 * POOL_SHARE:.0f} % of the pool"
    hypothesis = f"Hypothesis: {strategy} reaches {quality_target(share)} with at most {pool}."
    seeds = [seed for seed in run.seeds if seed in run.full_quality]
    if not seeds:
        return f'{hypothesis} Not tested: no learner got the whole pool (strategy "{FULL}").'
    allowed = POOL_SHARE * run.settings.pool
    if run.budgets[0] > allowed:
        return f"{hypothesis} Not tested: the first {run.budgets[0]:.0f} images are more than that."
    # A run that ends early may show it, but cannot refute it.
    ended = bool(run.budgets[-1] < allowed)
    spent = min(float(run.budgets[-1]), allowed)
    curves = run.quality[strategy][[run.seeds.index(seed) for seed in seeds]]
    gain = relative_gain(
        [run.full_quality[seed] for seed in seeds],
        [np.interp(spent, run.budgets, curve) for curve in curves],
    )
    detail = seed_words(gain.pairs)
    if gain.low is None or gain.high is None:
        verdict = "no interval, nothing can be said"
    else:
        detail = (
            f"95 % between {100 * (1 + gain.low):.1f} and {100 * (1 + gain.high):.1f}, {detail}"
        )
        if 1 + gain.low >= share:
            verdict = "shown"
        elif ended:
            verdict = "not decided, the run ended before"
        elif 1 + gain.high < share:
            verdict = "refuted"
        else:
            verdict = "not decided, the interval holds both"
    return (
        f"{hypothesis} With {spent:.0f} {run.label_unit} "
        f"({100 * spent / run.settings.pool:.0f} % of the pool) it holds "
        f"{100 * (1 + gain.mean):.1f} % of full-data quality ({detail}): {verdict}."
    )


def summary_sentences(run: Run) -> list[str]:
    """A sentence per strategy against random, in points of mean foreground IoU."""
    sentences = []
    by_name = {standing.strategy: standing for standing in standings(run)}
    for strategy in run.strategies:
        standing = by_name[strategy]
        difference = standing.difference
        if difference is None:
            sentences.append(f"{strategy}: AUBC {100 * standing.mean:.1f}, {standing.verdict}.")
            continue
        detail = seed_words(difference.pairs)
        if difference.low is not None and difference.high is not None:
            interval = f"95 % between {100 * difference.low:+.1f} and {100 * difference.high:+.1f}"
            detail = f"{interval}, {detail}"
        if standing.p_holm is not None:
            detail += f", {p_words(standing.p_holm)} after Holm"
        side = "over" if difference.mean >= 0 else "against"
        sentences.append(
            f"{strategy}: AUBC {100 * difference.mean:+.1f} points {side} random ({detail}): "
            f"{standing.verdict}."
        )
    return sentences


def claim_sentences(run: Run) -> list[str]:
    """How much more than random each strategy finds with the labels random needs for 80 %."""
    share = f"{100 * CLAIM_SHARE:.0f} %"
    if RANDOM not in run.strategies:
        return [f"Nothing is said of gains over {RANDOM}: it was not run."]
    if not run.full_quality:
        return [
            "Nothing is said of gains where random reaches "
            f'{share} of full-data quality: no learner got the whole pool (strategy "{FULL}").'
        ]
    full = float(np.mean(list(run.full_quality.values())))
    of = f"{share} of full-data quality ({CLAIM_SHARE * full:.3f} of {full:.3f} mean IoU)"
    budget = labels_to_reach(run.budgets, run.quality[RANDOM].mean(axis=0), CLAIM_SHARE * full)
    if budget is None:
        return [
            f"Random's mean curve does not reach {of} within {run.budgets[-1]:.0f} "
            f"{run.label_unit}: the gain there is not measured. More rounds would."
        ]
    if budget == run.budgets[0]:
        return [
            f"Random has {of} already with the first {run.settings.initial} images, which are the "
            "same for all strategies: there is no gain to measure. Fewer first images would show "
            "one."
        ]
    held = {
        strategy: np.array(
            [np.interp(budget, run.budgets, curve) for curve in run.quality[strategy]]
        )
        for strategy in run.strategies
    }
    sentences = [f"With {budget:.0f} {run.label_unit}, where random's mean curve reaches {of}:"]
    for strategy in run.strategies:
        if strategy == RANDOM:
            continue
        gain = relative_gain(held[RANDOM], held[strategy])
        word = "more" if gain.mean >= 0 else "less"
        sentence = f"{strategy} found {100 * abs(gain.mean):.1f} % {word} than random"
        if gain.low is None or gain.high is None:
            sentences.append(f"{sentence} ({seed_words(gain.pairs)}: no interval).")
            continue
        sentence += (
            f" (95 % between {100 * gain.low:+.1f} % and {100 * gain.high:+.1f} %, "
            f"{seed_words(gain.pairs)})"
        )
        unsure = gain.low <= 0 <= gain.high
        sentences.append(sentence + (": not told apart from random." if unsure else "."))
    return sentences


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
    """How a target of ``quality_reached`` is called."""
    return f"{100 * share:.0f} % of full-data quality"


def class_target(name: str) -> str:
    """How a target of ``classes_reached`` is called."""
    return f"class {name} known"


def arm_weights(run: Run) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Of adaptive strategies, each arm's weight after each round.

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
    """In how many rounds of all seeds each arm alone had the most weight."""
    return Counter(
        line.heaviest
        for seed in run.seeds
        for line in run.curve(strategy, seed)
        if line.heaviest is not None
    )


def leaders(run: Run, strategy: str) -> Counter[str]:
    """In how many rounds of all seeds each arm saw the errors of the latest batch best."""
    return Counter(
        line.leader
        for seed in run.seeds
        for line in run.curve(strategy, seed)
        if line.leader is not None
    )


def last_uncertainties(run: Run) -> list[tuple[str, int, int, DistanceBins]]:
    """Strategy, seed, round and doubt by distance of the last round that holds it."""
    found = []
    for strategy in run.strategies:
        for seed in run.seeds:
            held = [line for line in run.curve(strategy, seed) if line.uncertainty_by_distance]
            if held and held[-1].uncertainty_by_distance is not None:
                found.append((strategy, seed, held[-1].round, held[-1].uncertainty_by_distance))
    return found


def pooled_distance(bins: Sequence[DistanceBins]) -> Distance | None:
    """Several networks' doubt by distance as one; None if there is none.

    Raises:
        BadRun: they differ in their bins or their measures.
    """
    if not bins:
        return None
    first = bins[0]
    if any(d.edges_px != first.edges_px or {*d.measures} != {*first.measures} for d in bins):
        raise BadRun(
            "The rounds of a run must hold doubt by distance for the same edges and measures; "
            f"the first has {list(first.edges_px)} px and {', '.join(first.measures)}, another not."
        )
    pixels = np.array([d.pixels for d in bins], np.int64)  # [networks, bins]
    empty = pixels == 0
    wrong = _filled([d.wrong for d in bins], empty)
    measures = {name: _filled([d.measures[name] for d in bins], empty) for name in first.measures}
    edges = np.array([*first.edges_px, np.inf])
    # A probe's bins are as wide as its stride, and the first may reach beyond NEAR_PX.
    near = edges[1:] <= max(NEAR_PX, edges[1])
    far = (edges[:-1] >= FAR_PX) & ~near
    return Distance(
        first.edges_px,
        len(bins),
        pixels.sum(axis=0),
        mean_known(wrong),
        {name: mean_known(uncertainty) for name, uncertainty in measures.items()},
        float(edges[1:][near].max()),
        float(edges[:-1][far].min()) if far.any() else None,
        {name: _ratio(uncertainty, pixels, near, far) for name, uncertainty in measures.items()},
    )


def _filled(
    rows: Sequence[tuple[float | None, ...]], empty: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """[networks, bins], NaN in empty bins, whatever stands there."""
    return np.where(empty, np.nan, np.array(rows, np.float64))


def _ratio(
    uncertainty: NDArray[np.float64],
    pixels: NDArray[np.int64],
    near: NDArray[np.bool_],
    far: NDArray[np.bool_],
) -> float | None:
    total = np.nan_to_num(uncertainty) * pixels
    counts = pixels[:, near].sum(), pixels[:, far].sum()
    if 0 in counts or total[:, far].sum() == 0:
        return None
    return float((total[:, near].sum() / counts[0]) / (total[:, far].sum() / counts[1]))


def ratio_sentence(distance: Distance) -> str:
    """How much more entropy there is near a boundary, in words."""
    name = "predictive_entropy"
    if name not in distance.measures:
        return "Predictive entropy by distance is not in this run."
    ratio, near, far = distance.ratios[name], distance.near_px, distance.far_px
    if ratio is None or far is None:
        return (
            f"Entropy near a boundary and beyond {FAR_PX:g} px cannot be compared: there are no "
            "pixels or there is no doubt in the bins that lie there."
        )
    sentence = (
        f"Entropy within {near:g} px of a boundary is {ratio:.1f} times that beyond {far:g} px."
    )
    if (near, far) != (NEAR_PX, FAR_PX):
        sentence += (
            f" (The bins' ends nearest to {NEAR_PX:g} px and {FAR_PX:g} px are {near:g} px and "
            f"{far:g} px.)"
        )
    return sentence


def penalties(run: Run) -> NDArray[np.float64] | None:
    """``penalty_matrix`` of a run's strategies after each round; None with a single seed."""
    if len(run.seeds) < 2:
        return None
    # At round 0 all strategies hold the same images.
    return penalty_matrix(np.stack([run.quality[name][:, 1:] for name in run.strategies]))


def seed_words(count: int) -> str:
    """So many seeds."""
    return "1 seed" if count == 1 else f"{count} seeds"


def p_words(p: float) -> str:
    """ "p = .012" or "p < .001"."""
    shown = p_digits(p)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def p_digits(p: float) -> str:
    """Three digits without the idle 0, as journals write it."""
    if p < 0.001:
        return "< .001"
    return "1" if p >= 0.9995 else f"{p:.3f}"[1:]
