"""What the audit set says of a version, and whether labels still pay: kept with its metrics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from backend.ledger import Version
from backend.ledger.shapes import AuditEstimate, Interval, Metrics
from backend.ledger.shapes import Gain as StoredGain

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
        former: rows of the promoted versions before it, oldest first.

    Returns:
        ``audit`` (``AuditEstimate.to_json``, None without one), ``chance_scores``, what later
        versions need to be compared with them (``truths`` and ``recipe``), and ``audit_gain``
        and ``chance_gain``, each None before it can be told.
    """
    from training.quality.audit import estimate, gain_by_chance, gain_on_audits, recipe_digest
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
    }
    measured = {**metrics["chance_scores"], **({} if found is None else found.scores)}
    metrics["truths"] = {key: truths[key] for key in measured}
    same = [row for row in former if row.classes == list(config.classes)]
    history = [_scored(row.number, row.metrics) for row in same]
    history.append(_scored(0, metrics))
    metrics["audit_gain"] = _gain(gain_on_audits(history, config.seed))
    metrics["chance_gain"] = _gain(gain_by_chance(history, config.seed))
    return metrics


def _scored(number: int, metrics: Metrics) -> Scored:
    from training.quality.audit import Scored

    audit = metrics.get("audit")
    chance = metrics.get("chance_scores") or {}
    # An earlier release kept neither: what it measured is compared with nothing.
    truths, recipe = metrics.get("truths") or {}, metrics.get("recipe") or ""
    return Scored(
        number,
        metrics["examples"],
        {} if audit is None else audit["scores"],
        chance,
        truths,
        recipe,
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
    """A sentence when labels have stopped paying, or do harm; None while they pay, and before it
    can be told."""
    harm = metrics.get("chance_gain")
    if harm is not None and harms(metrics):
        return (
            f"the last {harm['labels']} labels made it worse: foreground Dice {_change(harm)} on "
            f"{harm['pairs']} images drawn by chance. Chance ranks the images until that has "
            "passed. Check whether the newest labels are right."
        )
    gain = metrics.get("audit_gain")
    if gain is None or gain["pays"]:
        return None
    return (
        f"more labels hardly pay: the last {gain['labels']} changed foreground Dice by "
        f"{_change(gain)} on {gain['pairs']} audit images."
    )


def _change(gain: StoredGain) -> str:
    return f"{gain['mean']:+.3f} (95 % between {gain['low']:+.3f} and {gain['high']:+.3f})"
