"""What a run shows, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.experiments.analysis import (
    ADAPTIVE,
    SHARES_OF_FULL,
    Against,
    adaptive_strategies,
    aubc_against,
    quality_target,
    standings,
)
from training.experiments.pooled_distance import FAR_PX, NEAR_PX, Distance
from training.experiments.runs import Run
from training.experiments.statistics import ALPHA, Difference, labels_to_reach, relative_gain
from training.experiments.strategy import FULL, RANDOM

FOREGROUND = "foreground_random"

POOL_SHARE = 0.3
"""Of the pool: with so many labels a strategy should come near full-data quality."""

NEAR_BEST = 0.01
"""A point of AUBC: as near as an adaptive strategy should come to the best fixed measure."""

CLAIM_SHARE = 0.8
"""Strategies are compared where random has reached this share of full-data quality: early enough
for a difference to matter, and not so late that nothing is left to gain."""


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
        side = "over" if difference.mean >= 0 else "against"
        sentences.append(
            f"{strategy}: AUBC {100 * difference.mean:+.1f} points {side} random "
            f"({_evidence(difference, standing.p_holm)}): {standing.verdict}."
        )
    return sentences


def hypothesis_sentences(run: Run) -> list[str]:
    """What adaptive acquisition was hoped to do, and whether this run shows it."""
    strategies = adaptive_strategies(run)
    if not strategies:
        return [f"No hypothesis is tested: no strategy is called {ADAPTIVE} or adapts its weights."]
    against = {(each.strategy, each.other): each for each in aubc_against(run)}
    sentences = []
    for strategy in strategies:
        for other, name in ((RANDOM, "random"), (FOREGROUND, "foreground-aware random")):
            sentences.append(_better(strategy, name, against.get((strategy, other))))
        sentences.append(_near_best(run, strategy, against))
        sentences += [_share_of_full(run, strategy, share) for share in SHARES_OF_FULL]
    return sentences


def _better(strategy: str, other: str, against: Against | None) -> str:
    hypothesis = f"Hypothesis: {strategy} is better than {other}."
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


def _near_best(run: Run, strategy: str, against: Mapping[tuple[str, str], Against]) -> str:
    """The best is found on the same seeds, which favours it, so "shown" is on the safe side."""
    hypothesis = f"Hypothesis: {strategy} is within one AUBC point of the best fixed measure."
    fixed = [
        against[strategy, other]
        for other in run.strategies
        if other != strategy and run.modes.get(other, "").startswith("fixed:")
    ]
    if not fixed:
        return f"{hypothesis} Not tested: no fixed measure was run."
    best = min(fixed, key=lambda each: each.difference.mean)
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
    difference = against.difference
    return f"AUBC {100 * difference.mean:+.1f} points ({_evidence(difference, against.p_holm)})"


def _share_of_full(run: Run, strategy: str, share: float) -> str:
    pool = f"{100 * POOL_SHARE:.0f} % of the pool"
    hypothesis = f"Hypothesis: {strategy} reaches {quality_target(share)} with at most {pool}."
    seeds = [seed for seed in run.seeds if seed in run.full_quality]
    if not seeds:
        return f'{hypothesis} Not tested: no learner got the whole pool (strategy "{FULL}").'
    allowed = POOL_SHARE * run.settings.pool
    if run.budgets[0] > allowed:
        return f"{hypothesis} Not tested: the first {run.budgets[0]:.0f} images are more than that."
    spent = min(float(run.budgets[-1]), allowed)
    curves = run.quality[strategy][[run.seeds.index(seed) for seed in seeds]]
    gain = relative_gain(
        [run.full_quality[seed] for seed in seeds],
        [np.interp(spent, run.budgets, curve) for curve in curves],
    )
    evidence = format_seeds(gain.pairs)
    if gain.low is None or gain.high is None:
        verdict = "no interval, nothing can be said"
    else:
        low, high = 1 + gain.low, 1 + gain.high
        evidence = f"95 % between {100 * low:.1f} and {100 * high:.1f}, {evidence}"
        # A run that ends early may show it, but cannot refute it.
        if low >= share:
            verdict = "shown"
        elif run.budgets[-1] < allowed:
            verdict = "not decided, the run ended before"
        elif high < share:
            verdict = "refuted"
        else:
            verdict = "not decided, the interval holds both"
    return (
        f"{hypothesis} With {spent:.0f} {run.label_unit} "
        f"({100 * spent / run.settings.pool:.0f} % of the pool) it holds "
        f"{100 * (1 + gain.mean):.1f} % of full-data quality ({evidence}): {verdict}."
    )


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
    target = f"{share} of full-data quality ({CLAIM_SHARE * full:.3f} of {full:.3f} mean IoU)"
    budget = labels_to_reach(run.budgets, run.quality[RANDOM].mean(axis=0), CLAIM_SHARE * full)
    if budget is None:
        return [
            f"Random's mean curve does not reach {target} within {run.budgets[-1]:.0f} "
            f"{run.label_unit}: the gain there is not measured. More rounds would."
        ]
    if budget == run.budgets[0]:
        return [
            f"Random has {target} already with the first {run.settings.initial} images, which are "
            "the same for all strategies: there is no gain to measure. Fewer first images would "
            "show one."
        ]
    head = f"With {budget:.0f} {run.label_unit}, where random's mean curve reaches {target}:"
    quality = {
        strategy: [float(np.interp(budget, run.budgets, curve)) for curve in run.quality[strategy]]
        for strategy in run.strategies
    }
    others = [strategy for strategy in run.strategies if strategy != RANDOM]
    return [head, *(_gain(name, quality[RANDOM], quality[name]) for name in others)]


def _gain(strategy: str, random: Sequence[float], own: Sequence[float]) -> str:
    gain = relative_gain(random, own)
    word = "more" if gain.mean >= 0 else "less"
    sentence = f"{strategy} found {100 * abs(gain.mean):.1f} % {word} than random"
    if gain.low is None or gain.high is None:
        return f"{sentence} ({format_seeds(gain.pairs)}: no interval)."
    sentence += (
        f" (95 % between {100 * gain.low:+.1f} % and {100 * gain.high:+.1f} %, "
        f"{format_seeds(gain.pairs)})"
    )
    unsure = gain.low <= 0 <= gain.high
    return sentence + (": not told apart from random." if unsure else ".")


def ratio_sentence(distance: Distance) -> str:
    """How much more entropy there is near a boundary."""
    name = "predictive_entropy"
    if name not in distance.measures:
        return "Predictive entropy by distance is not in this run."
    ratio, near, far = distance.ratios[name], distance.near_px, distance.far_px
    if ratio is None or far is None:
        return (
            f"Entropy near a boundary and beyond {FAR_PX:g} px cannot be compared: there are no "
            "pixels or there is no uncertainty in the bins that lie there."
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


def _evidence(difference: Difference, p_holm: float | None) -> str:
    """Interval in points, seeds and p, as far as there are such."""
    parts = [format_seeds(difference.pairs)]
    if difference.low is not None and difference.high is not None:
        ends = f"{100 * difference.low:+.1f} and {100 * difference.high:+.1f}"
        parts.insert(0, f"95 % between {ends}")
    if p_holm is not None:
        p = format_p(p_holm)
        parts.append(f"p {p if p.startswith('<') else f'= {p}'} after Holm")
    return ", ".join(parts)


def format_seeds(count: int) -> str:
    """ "1 seed", "4 seeds"."""
    return "1 seed" if count == 1 else f"{count} seeds"


def format_p(p: float) -> str:
    """Three digits without the leading 0, as journals write it: ".012", "< .001", "1"."""
    if p < 0.001:
        return "< .001"
    return "1" if p >= 0.9995 else f"{p:.3f}"[1:]
