"""The explanation for a person at a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backend.insight.explain import (
    Explanation,
    Judgement,
    Leader,
    MeasureWeight,
    RoundEvidence,
    ServingQueue,
    TaskExplanation,
)
from backend.options import FALLBACK, FIXED, fixed_arm

DISAGREEMENT = ("variation_ratio", "mutual_information", "standard_deviation")
"""Measures of how far members disagree: 0 everywhere where there is only one."""

MODES: Mapping[str, str] = {
    "hedge": "every measure ranks the images, weighed by how well it predicted what annotators "
    "corrected",
    "leader": "the measure that best predicted what annotators corrected ranks the images alone",
    "random": "chance ranks the images",
}

WHYS: Mapping[str, str] = {
    "uncertainty": "The committee's uncertainty put it there; some chance, and unlikeness to the "
    "images before it, count too.",
    "class": "It stands there for a class that few of the labelled images show.",
    "group": "It stands there for a group (the option group_by) of which no labelled image has "
    "taught the committee: one in five places that do not go to chance is such a group's.",
    "chance": "Chance put it there: some places are always drawn evenly, so that the queue cannot "
    "do worse than chance for long.",
    "audit": "It is one of the audit set, which stands at places drawn by chance and is never "
    "trained on: it measures how good the committee is.",
    "diverse": "It is the image least like those before it, so that the first labels show what "
    "there is: there was no version yet.",
    "blurred": "It is far less sharp than the others, so it is likely of no use and stands last.",
    "blank": "It is of one brightness nearly everywhere, as of a shut or a saturated camera, so it "
    "is likely of no use and stands last.",
}
"""By ``Place.why``, as the ledger keeps it."""


def describe_explanation(found: Explanation) -> str:
    """Some twenty lines."""
    mode, *queue, leader = describe_reasons(found)
    lines = [f"Project {found.project}, {found.title!r}", "", mode, *queue, "", leader]
    if found.leader is not None:
        lines += ["", *_table(found.measures)]
    if found.evidence:
        lines += ["", *(_describe_round(each) for each in found.evidence)]
    if found.task is not None:
        lines += ["", *_describe_task(found.task, found.publication)]
    return "\n".join(lines)


def describe_reasons(found: Explanation) -> list[str]:
    """What orders the queue, and on what evidence: some sentences."""
    return [_describe_mode(found), *_describe_queue(found), _describe_leader(found)]


def _describe_mode(found: Explanation) -> str:
    arm = fixed_arm(found.mode)
    if arm is None:
        return f"Mode {found.mode}: {MODES[found.mode]}."
    described = f"Mode {FIXED.rstrip(':')}: {arm} ranks the images, whatever the evidence."
    if found.members == 1 and arm.partition("/")[0] in DISAGREEMENT:
        described += (
            " But a committee of one disagrees with nobody: this measure is 0 on every image, so "
            "classes, likeness and chance alone order them. Choose predictive_entropy or "
            "least_confidence, or more members."
        )
    return described


def _describe_queue(found: Explanation) -> list[str]:
    serving = found.publication
    if found.version is None:
        first = found.first_queue or (
            "no version yet, and no queue: Label Studio serves the images by chance"
        )
        return [f"{first[0].upper()}{first[1:]}."]
    if serving is None:
        return [f"Version {found.version} has published no queue yet."]
    lines = [f"{serving.name} serves: {serving.length} images ranked."]
    if serving.mode == FALLBACK:
        lines.append(
            f"Chance ranks them: the labels that the queue had asked for made version "
            f"{serving.version} worse."
        )
    elif serving.mode not in (None, found.mode):
        lines.append(f"It was made in mode {serving.mode}; the next will be in the present one.")
    return lines


def _describe_leader(found: Explanation) -> str:
    leader = found.leader
    if leader is None:
        return (
            f"Nothing tells the measures apart yet, so all {found.arms} arms (a measure with a "
            "way to make its map one number) weigh the same. Evidence comes with the images that "
            "are corrected once a version serves."
        )
    counts = found.mode in ("hedge", "leader")
    described = "" if counts else "The mode does not use it, but by the evidence "
    described += f"{_describe_evidence(leader)} {_describe_weight(leader)}"
    if found.mode == "leader":
        described += " In this mode it ranks alone, with weight 1."
    return described


def _describe_evidence(leader: Leader) -> str:
    best = leader.next_best
    return (
        f"{leader.arm} leads round {leader.round}: a wrong pixel was more uncertain than a "
        f"right one in {leader.auroc:.0%} of pairs, judged on {_images(leader.images)} with "
        f"{leader.wrong_px:,} wrong pixels, and its rank agreed with the annotators' effort at "
        f"{_signed(leader.correlation)} over the last {leader.corrections} corrections. That "
        f"is a reward of {_signed(leader.reward)}; the best of another measure, {best.arm}, "
        f"has {_signed(best.reward)}."
    )


def _describe_weight(leader: Leader) -> str:
    weight, heaviest = _short(leader.weight), leader.heaviest
    if heaviest.arm == leader.arm:
        return f"Over all rounds it is the heaviest too, with weight {weight}."
    return (
        f"Over all rounds its weight is {weight}, and {heaviest.arm} is the heaviest with "
        f"{_short(heaviest.weight)}."
    )


def _images(count: int) -> str:
    return f"{count} corrected image" + ("" if count == 1 else "s")


def _short(share: float) -> str:
    """.21"""
    return f"{share:.2f}".removeprefix("0")


def _signed(value: float) -> str:
    """+.31"""
    return f"{value:+.2f}".replace("0.", ".", 1)


def _table(measures: Sequence[MeasureWeight]) -> list[str]:
    return [
        f"{'measure':20}  {'pairs right':>11}  {'weight of all rounds':>20}",
        *(
            f"{each.measure:20}  {each.auroc:>11.1%}  {_short(each.weight):>20}"
            for each in measures
        ),
    ]


def _describe_round(each: RoundEvidence) -> str:
    versions = " and ".join(str(number) for number in each.versions)
    audits = f" (audits, which steer nothing, apart: {each.audits})" if each.audits else ""
    return (
        f"Round {each.round}: {_images(each.images)} judged by version {versions}, "
        f"{each.wrong_px:,} wrong pixels; {each.telling} had enough of them to tell{audits}."
    )


def _describe_task(task: TaskExplanation, serving: ServingQueue | None) -> list[str]:
    place = task.place
    if place is None or serving is None:
        lines = [f"Task {task.task} is not in the queue: {task.absent}."]
    else:
        lines = [
            f"Task {task.task} stands at place {place.position} of {place.length} in "
            f"{serving.name}. {WHYS[place.why]}"
        ]
        if place.arms:
            uncertainty = _short(place.uncertainty)
            lines.append(f"Its uncertainty, all arms together, is {uncertainty} of 1.")
        lines += [
            f"  {each.arm} (weight {_short(each.weight)}): higher than in "
            f"{each.percentile:.0%} of the scored images"
            for each in place.arms
        ]
        if task.state != "unlabelled":
            lines.append(f"It has been {task.state} since, so it is not served any more.")
    if task.judged is not None:
        lines.append(_describe_judgement(task.judged))
    return lines


def _describe_judgement(judged: Judgement) -> str:
    described = (
        f"Judged in round {judged.round} by version {judged.version}: "
        f"{judged.wrong_px:,} of {judged.judged_px:,} pixels were corrected "
        f"({judged.error:.1%})"
    )
    if judged.audit:
        return f"{described}; it is an audit, so this steers nothing."
    if not judged.aurocs:
        return f"{described}, too few to tell the measures apart."
    best = max(judged.aurocs, key=lambda name: judged.aurocs[name])
    return (
        f"{described}; {best} predicted them best: a wrong pixel was more uncertain than a right "
        f"one in {judged.aurocs[best]:.0%} of pairs."
    )
