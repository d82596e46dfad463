"""Why the queue is as it is: which measure is trusted, on what evidence, and why a task stands
where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backend.errors import BadRequest
from backend.insight.status import first_queue
from backend.ledger import Evidence, Place, Project, Publication
from backend.options import FALLBACK, FIXED, fixed_arm
from backend.rounds.audits import advice
from backend.workplace import Workplace

if TYPE_CHECKING:
    from acquisition.adaptive import Trust
    from backend.options import ProjectOptions

Json = dict[str, Any]

SHOWN_ARMS = 3
"""Arms whose percentile is told of a task: the weights fall off quickly after a few."""

DISAGREEMENT = ("variation_ratio", "mutual_information", "standard_deviation")
"""Measures of how far members disagree: 0 everywhere where there is but one."""

MODES: Mapping[str, str] = {
    "hedge": "every measure ranks the images, weighed by how well it saw what annotators corrected",
    "leader": "the measure that saw best what annotators corrected ranks the images alone",
    "random": "chance ranks the images",
}

WHYS: Mapping[str, str] = {
    "doubt": "The committee's doubt put it there, with some chance, and unlike those before it.",
    "class": "It stands there for a class that few of the labelled images show.",
    "chance": "Chance put it there: some places are always drawn evenly, so that the queue cannot "
    "do worse than chance for long.",
    "audit": "It is one of the audit set, which stands at places drawn by chance and is never "
    "trained on: it measures how good the committee is.",
    "diverse": "It is the image least like those before it, so that the first labels show what "
    "there is: there was no version yet.",
}


def explain(work: Workplace, studio_id: int, task_id: int | None = None) -> Json:
    """What decides a project's queue, as numbers.

    Args:
        studio_id: Label Studio's number of the project.
        task_id: also where this task stands.

    Raises:
        UnknownProject: it was never connected.
        BadRequest: it has no such task.
    """
    from backend.rounds.evidence import trust_in

    row = work.ledger.projects.of_studio(work.server, studio_id)
    evidence = work.ledger.evidence.all(row.id)
    trust = trust_in(evidence)
    serving = work.ledger.publications.serving(row.id)
    version = work.ledger.versions.promoted(row.id)
    options = work.options(row)
    wanted = options.members or work.settings.members
    found: Json = {
        "project": studio_id,
        "title": row.title,
        "mode": options.mode,
        "members": wanted if version is None else version.members,
        "version": None if version is None else version.number,
        "publication": None if serving is None else _publication(serving),
        "advice": None if version is None else advice(version.metrics),
        "first_queue": None if version is not None else first_queue(serving),
        "arms": len(trust.weights),
        "leader": _leader(trust, evidence, options),
        "measures": _measures(trust),
        "evidence": _by_round(evidence),
    }
    if task_id is not None:
        found["task"] = _task(work, row, serving, evidence, task_id)
    return found


def _publication(serving: Publication) -> Json:
    return {
        "name": serving.name,
        "version": serving.version,
        "length": serving.length,
        "mode": serving.mode,
        "weights": serving.weights,
    }


def _leader(trust: Trust, evidence: Sequence[Evidence], options: ProjectOptions) -> Json | None:
    """The arm of the largest reward in the last round that had errors; None before.

    ``weight`` is Hedge's, of all rounds, and so ``heaviest`` may be another arm;
    ``queue_weight`` is what the option ``mode`` makes of it.
    """
    from backend.rounds.evidence import steering
    from backend.rounds.ranking import weights_of

    if trust.leader is None:
        return None
    measure = trust.leader.partition("/")[0]
    rows = steering(evidence)
    told = [row for row in rows if row.rewards]
    last = max(row.round_id for row in told)
    of_last = [row for row in told if row.round_id == last]
    others = {arm: r for arm, r in trust.rewards.items() if arm.partition("/")[0] != measure}
    next_best = max(others, key=lambda arm: others[arm])
    heaviest = max(trust.weights, key=lambda arm: trust.weights[arm])
    return {
        "arm": trust.leader,
        "weight": trust.weights[trust.leader],
        "queue_weight": weights_of(options.mode, trust).get(trust.leader, 0.0),
        "heaviest": {"arm": heaviest, "weight": trust.weights[heaviest]},
        "round": last,
        "reward": trust.rewards[trust.leader],
        "auroc": _auroc(trust.pixel_rewards[measure]),
        "next_best": {"arm": next_best, "reward": others[next_best]},
        "images": len(of_last),
        "wrong_px": sum(row.wrong for row in of_last),
        "correlation": trust.correlations[trust.leader],
        "corrections": _compared([row.round_id for row in rows if row.round_id <= last]),
    }


def _compared(batches: Sequence[int]) -> int:
    """Corrections that the rank correlation looked back on, as ``adaptive.RECENT`` says."""
    from acquisition.adaptive import RECENT

    oldest = sorted(batches)[-RECENT:][0]
    return sum(batch >= oldest for batch in batches)


def _auroc(reward: float) -> float:
    return (reward + 1) / 2


def _measures(trust: Trust) -> list[Json]:
    """Every measure, the heaviest first; ``auroc`` None before it was judged."""
    from acquisition.uncertainty import MEASURES

    weights = dict.fromkeys(MEASURES, 0.0)
    for arm, weight in trust.weights.items():
        weights[arm.partition("/")[0]] += weight
    return [
        {
            "measure": name,
            "auroc": _auroc(trust.pixel_rewards[name]) if trust.pixel_rewards else None,
            "weight": weights[name],
        }
        for name in sorted(weights, key=lambda name: -weights[name])
    ]


def _by_round(evidence: Sequence[Evidence]) -> list[Json]:
    found = []
    for number in sorted({row.round_id for row in evidence}):
        rows = [row for row in evidence if row.round_id == number]
        found.append(
            {
                "round": number,
                "images": len(rows),
                "audits": sum(row.audit for row in rows),
                "versions": sorted({row.version for row in rows}),
                "wrong_px": sum(row.wrong for row in rows),
                # With too few wrong pixels an image tells nothing of where the doubt lay.
                "telling": sum(bool(row.rewards) and not row.audit for row in rows),
            }
        )
    return found


def _task(
    work: Workplace,
    row: Project,
    serving: Publication | None,
    evidence: Sequence[Evidence],
    task_id: int,
) -> Json:
    there = {task.id: task for task in work.studio.tasks(row.studio_id, ids=[task_id])}
    if task_id not in there:
        raise BadRequest(f"Project {row.studio_id} has no task {task_id}.")
    task = there[task_id]
    state = "labelled" if task.annotations else "skipped" if task.skipped else "unlabelled"
    found: Json = {"task": task_id, "state": state, "place": None, "absent": None}
    ranked = [] if serving is None else work.ledger.publications.ranking(serving.id)
    place = next((each for each in ranked if each.task_id == task_id), None)
    if serving is None:
        found["absent"] = "no queue serves yet"
    elif place is None:
        found["absent"] = _why_absent(work, serving, task_id, state)
    else:
        found["place"] = {
            "position": place.position + 1,
            "length": serving.length,
            "why": place.why,
            "doubt": place.uncertainty,
            "arms": _percentiles(serving, place),
        }
    judged = next((each for each in evidence if each.task_id == task_id), None)
    found["judged"] = None if judged is None else _judged(judged)
    return found


def _why_absent(work: Workplace, serving: Publication, task_id: int, state: str) -> str:
    if state != "unlabelled":
        return f"it has been {state}, and the queue holds what has not been"
    scored = {
        candidate
        for payload in work.ledger.parts.to_score(serving.round_id)
        for candidate, _ in payload["tasks"]
    }
    if task_id not in scored:
        return "it was no candidate: it came later, or chance left it out of those looked at"
    said = work.ledger.rounds.get(serving.round_id).problems
    refused = next((each for each in said if each.startswith(f"Task {task_id}: ")), None)
    if refused is not None:
        return f"its image could not be looked at ({refused})"
    return f"it was looked at, and {serving.length} others filled the queue (QUEUE_LENGTH)"


def _percentiles(serving: Publication, place: Place) -> list[Json]:
    """Where the task stands among all that were looked at, by the heaviest arms."""
    from backend.rounds.ranking import percentile_between

    weights, quantiles = serving.weights or {}, serving.arm_quantiles or {}
    heaviest = sorted(weights, key=lambda arm: -weights[arm])[:SHOWN_ARMS]
    return [
        {
            "arm": arm,
            "weight": weights[arm],
            "percentile": percentile_between(place.arms[arm], quantiles[arm]),
        }
        for arm in heaviest
    ]


def _judged(row: Evidence) -> Json:
    return {
        "round": row.round_id,
        "version": row.version,
        "error": row.error,
        "wrong_px": row.wrong,
        "judged_px": row.judged,
        "chosen_for": row.chosen_for,
        "audit": row.audit,
        "aurocs": {name: _auroc(reward) for name, reward in row.rewards.items()},
    }


def describe(found: Json) -> str:
    """The same for a person at a terminal."""
    lines = [f"Project {found['project']}, {found['title']!r}", "", _describe_mode(found)]
    lines += _describe_queue(found)
    lines += ["", _describe_leader(found)]
    if found["leader"] is not None:
        lines += ["", *_table(found["measures"])]
    if found["evidence"]:
        lines += ["", *(_describe_round(each) for each in found["evidence"])]
    if "task" in found:
        lines += ["", *_describe_task(found["task"], found["publication"])]
    return "\n".join(lines)


def _describe_mode(found: Json) -> str:
    mode = found["mode"]
    arm = fixed_arm(mode)
    what = f"{arm} ranks the images, whatever the evidence" if arm else MODES[mode]
    name = FIXED.rstrip(":") if arm else mode
    said = f"Mode {name}: {what}."
    if arm and found["members"] == 1 and arm.partition("/")[0] in DISAGREEMENT:
        said += (
            " But a committee of one disagrees with nobody: this measure is 0 on every image, so "
            "classes, likeness and chance alone order them. Choose predictive_entropy or "
            "least_confidence, or more members."
        )
    return said


def _describe_queue(found: Json) -> list[str]:
    serving = found["publication"]
    if found["version"] is None:
        said = found["first_queue"]
        if said is None:
            said = "no version yet, and no queue: Label Studio serves the images by chance"
        return [f"{said[0].upper()}{said[1:]}."]
    if serving is None:
        return [f"Version {found['version']} has published no queue yet."]
    lines = [f"{serving['name']} serves: {serving['length']} images ranked."]
    if serving["mode"] == FALLBACK:
        lines.append(f"Chance ranks them: {found['advice']}")
    elif serving["mode"] not in (None, found["mode"]):
        lines.append(f"It was made in mode {serving['mode']}; the next will be in the present one.")
    return lines


def _describe_leader(found: Json) -> str:
    leader = found["leader"]
    if leader is None:
        return (
            f"Nothing tells the measures apart yet, so all {found['arms']} arms (a measure by a "
            "way to make its map one number) weigh the same. Evidence comes with the images that "
            "are corrected once a version serves."
        )
    best, heaviest = leader["next_best"], leader["heaviest"]
    heeded = found["mode"] in ("hedge", "leader")
    said = ("" if heeded else "It is not heeded, but by the evidence ") + (
        f"{leader['arm']} leads round {leader['round']}: a wrong pixel was more doubtful than a "
        f"right one in {leader['auroc']:.0%} of pairs, judged on {_images(leader['images'])} with "
        f"{leader['wrong_px']:,} wrong pixels, and its rank agreed with the annotators' effort at "
        f"{_signed(leader['correlation'])} over the last {leader['corrections']} corrections. That "
        f"is a reward of {_signed(leader['reward'])}; the best of another measure, {best['arm']}, "
        f"has {_signed(best['reward'])}. Over all rounds "
    )
    weight = _short(leader["weight"])
    if heaviest["arm"] == leader["arm"]:
        said += f"it is the heaviest too, with weight {weight}."
    else:
        said += (
            f"its weight is {weight}, and {heaviest['arm']} is the heaviest with "
            f"{_short(heaviest['weight'])}."
        )
    if found["mode"] == "leader":
        said += " In this mode it ranks alone, with weight 1."
    return said


def _images(count: int) -> str:
    return f"{count} corrected image" + ("" if count == 1 else "s")


def _short(share: float) -> str:
    """.21"""
    return f"{share:.2f}".removeprefix("0")


def _signed(value: float) -> str:
    """+.31"""
    return f"{value:+.2f}".replace("0.", ".", 1)


def _table(measures: Sequence[Json]) -> list[str]:
    return [
        f"{'measure':20}  {'pairs right':>11}  {'weight of all rounds':>20}",
        *(
            f"{each['measure']:20}  {each['auroc']:>11.1%}  {_short(each['weight']):>20}"
            for each in measures
        ),
    ]


def _describe_round(each: Json) -> str:
    versions = " and ".join(str(number) for number in each["versions"])
    return (
        f"Round {each['round']}: {_images(each['images'])} judged by version {versions}, "
        f"{each['wrong_px']:,} wrong pixels; {each['telling']} had enough of them to tell"
        + (f" (audits, which steer nothing, apart: {each['audits']})." if each["audits"] else ".")
    )


def _describe_task(task: Json, publication: Json | None) -> list[str]:
    place = task["place"]
    if place is None:
        lines = [f"Task {task['task']} is not in the queue: {task['absent']}."]
    else:
        assert publication is not None  # a place is one in a publication
        lines = [
            f"Task {task['task']} stands at place {place['position']} of {place['length']} in "
            f"{publication['name']}. {WHYS[place['why']]}"
        ]
        if place["arms"]:
            lines.append(f"Its doubt, all arms together, is {_short(place['doubt'])} of 1.")
        lines += [
            f"  {each['arm']} (weight {_short(each['weight'])}): higher than in "
            f"{each['percentile']:.0%} of the images looked at"
            for each in place["arms"]
        ]
        if task["state"] != "unlabelled":
            lines.append(f"It has been {task['state']} since, so it is not served any more.")
    judged = task["judged"]
    if judged is not None:
        lines.append(_describe_judged(judged))
    return lines


def _describe_judged(judged: Json) -> str:
    said = (
        f"Judged in round {judged['round']} by version {judged['version']}: "
        f"{judged['wrong_px']:,} of {judged['judged_px']:,} pixels were corrected "
        f"({judged['error']:.1%})"
    )
    if judged["audit"]:
        return f"{said}; it is an audit, so this steers nothing."
    if not judged["aurocs"]:
        return f"{said}, too few to tell the measures apart."
    best = max(judged["aurocs"], key=lambda name: float(judged["aurocs"][name]))
    return (
        f"{said}; {best} saw them best: a wrong pixel was more doubtful than a right one in "
        f"{judged['aurocs'][best]:.0%} of pairs."
    )
