"""What the audit set says of a version, and whether labels still pay: kept with its metrics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from backend.ledger import Version
from backend.ledger.shapes import AuditEstimate, Interval, Metrics
from backend.ledger.shapes import Gain as StoredGain
from backend.ledger.shapes import LongerTraining as StoredLonger
from training.fitting.budget import Budget

if TYPE_CHECKING:
    from training.examples import Example
    from training.quality.assessment import Assessment
    from training.quality.audit import Gain, Scored


def audit_metrics(
    assessment: Assessment,
    audits: Iterable[Example],
    chance: Collection[str],
    truths: Mapping[str, str],
    former: Sequence[Version],
) -> Metrics:
    """What a new version's metrics keep of its audit.

    Args:
        assessment: of the new version; an unfit one is not audited.
        audits: the labelled audit images.
        chance: keys of the images that chance asked for, audits apart.
        truths: key of every labelled image to what names its truth.
        former: rows of all versions before it, oldest first: each is a training round.

    Returns:
        ``audit`` (``AuditEstimate.to_json``, None without one), ``chance_scores``, what later
        versions need to be compared with them (``truths``, ``recipe`` and ``steps``), and
        ``audit_gain``, ``chance_gain`` and ``longer_training``, each None before it can be told.
    """
    from training.quality.audit import (
        estimate,
        gain_by_chance,
        gain_on_audits,
        longer_training,
        recipe_digest,
    )
    from training.quality.metrics import overlap

    config = assessment.config
    C = len(config.classes)
    found = None
    if not assessment.problems:
        overlaps = {
            each.key: overlap(each.mask, assessment.committee.predict(each.image).predicted, C)
            for each in audits
        }
        found = estimate(overlaps, config.classes, config.seed)
    # A lone member has trained on all of them, so its scores say nothing.
    told = config.members > 1
    metrics: Metrics = {
        "audit": None if found is None else cast(AuditEstimate, found.to_json()),
        "chance_scores": {
            key: score for key, score in assessment.scores.items() if told and key in chance
        },
        "examples": assessment.metrics["examples"],
        "recipe": recipe_digest(config),
        "steps": config.steps,
    }
    measured = {**metrics["chance_scores"], **({} if found is None else found.scores)}
    metrics["truths"] = {key: truths[key] for key in measured}
    history = [
        _scored(row.number, rounds, row.metrics)
        for rounds, row in enumerate(former)
        if row.state == "promoted" and row.classes == list(config.classes)
    ]
    scores: Metrics = {"out_of_fold": told, "scores": dict(assessment.scores)}
    history.append(_scored(0, len(former), {**scores, **metrics}))
    metrics["audit_gain"] = _gain(gain_on_audits(history, config.seed))
    metrics["chance_gain"] = _gain(gain_by_chance(history, config.seed))
    longer = longer_training(history)
    metrics["longer_training"] = None if longer is None else cast(StoredLonger, asdict(longer))
    return metrics


def _scored(number: int, rounds: int, metrics: Metrics) -> Scored:
    from training.quality.audit import Scored

    audit = metrics.get("audit")
    chance = metrics.get("chance_scores") or {}
    # An earlier release kept neither: what it measured is compared with nothing.
    truths, recipe = metrics.get("truths") or {}, metrics.get("recipe") or ""
    return Scored(
        number,
        rounds,
        metrics["examples"],
        {} if audit is None else audit["scores"],
        chance,
        metrics.get("scores", {}) if metrics.get("out_of_fold") else {},
        truths,
        recipe,
        metrics.get("steps", 0),
    )


def _gain(gain: Gain | None) -> StoredGain | None:
    if gain is None:
        return None
    found = gain.difference
    return StoredGain(
        labels=gain.labels,
        since=gain.since,
        pays=gain.pays,
        harms=gain.harms,
        mean=found.mean,
        low=found.low,
        high=found.high,
        p_worse=found.p_worse,
        pairs=found.pairs,
    )


def harms(metrics: Metrics) -> bool:
    """Whether the labels that were asked for made the version surely worse than it was."""
    gain = metrics.get("chance_gain")
    return gain is not None and bool(gain["harms"])


def describe_audit(metrics: Metrics) -> str:
    """``foreground Dice 0.712 (95 % between 0.655 and 0.769) on 34 images ...``; "" without."""
    audit = metrics.get("audit")
    if audit is None:
        return ""
    images = f"{audit['images']} image" + ("s" if audit["images"] != 1 else "")
    told = f"foreground Dice {_interval(audit['foreground_dice'])} on {images} drawn by chance"
    classes = [
        f"{name} {_interval(value)}"
        for name, value in list(audit["dice"].items())[1:]
        if value is not None
    ]
    return f"{told}; by class: {', '.join(classes)}" if classes else told


def _interval(value: Interval) -> str:
    if value["low"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} (95 % between {value['low']:.3f} and {value['high']:.3f})"


def advice(metrics: Metrics) -> str | None:
    """A sentence when labels do harm, training is too short or labels have stopped paying; None
    otherwise, and before it can be told.

    Labels are said to have stopped only where the training is long enough for them.
    """
    harm = metrics.get("chance_gain")
    if harm is not None and harms(metrics):
        return (
            f"the last {harm['labels']} labels made it worse: foreground Dice {_change(harm)} on "
            f"{harm['pairs']} images drawn by chance. Chance ranks the images until that has "
            "passed. Check whether the newest labels are right."
        )
    gain = metrics.get("audit_gain")
    stopped = None
    if gain is not None and not gain["pays"]:
        stopped = (
            f"the last {gain['labels']} changed foreground Dice by {_change(gain)} on "
            f"{gain['pairs']} audit images"
        )
    return _training_advice(metrics, stopped) or (stopped and f"more labels hardly pay: {stopped}.")


def _training_advice(metrics: Metrics, stopped: str | None) -> str | None:
    """A sentence where longer training would help.

    Args:
        stopped: what says that labels have stopped paying, if anything does.
    """
    stored, longer = metrics.get("budget"), metrics.get("longer_training")
    if stored is None:
        return None
    budget = Budget(**stored)
    if longer is not None:
        within = longer["steps"] <= budget.knee
        remedy = budget.remedy if within else f"steps={longer['steps']}"
        return (
            f"the training is the limit, not the labels: version {longer['version']}, of "
            f"{longer['steps']} steps a member instead of {budget.steps}, was better by "
            f"{longer['mean']:.3f} foreground Dice (standard error {longer['standard_error']:.3f}, "
            f"out of fold on {longer['pairs']} images). Set {remedy}."
        )
    if not budget.limits:
        return None
    short = f"a member trains for {budget.steps} steps, {budget.knee} would pay for"
    short += f" {budget.images} labelled images. Set {budget.remedy}."
    if stopped is None:
        return f"longer training would help: {short}"
    return f"the training is the limit, not the labels: {stopped}, and {short}"


def training(metrics: Metrics) -> str | None:
    """How long a version's members trained and why; None of a version of an earlier release."""
    stored = metrics.get("budget")
    return None if stored is None else Budget(**stored).describe()


def _change(gain: StoredGain) -> str:
    return f"{gain['mean']:+.3f} (95 % between {gain['low']:+.3f} and {gain['high']:+.3f})"
