"""What is going on, as a person and a program want to read it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from backend.ledger import Ledger, Part, ProcessRecord, Project, Publication, Round
from backend.rounds.audits import advice, describe_audit
from backend.rounds.schedule import STAGES

SILENT_AFTER_S = 30.0
"""A process beats every ten seconds; three missed beats are a silence."""

BY_LIKENESS = "no version yet; each image of the queue is the one least like those before it"
BY_CHANCE = "no version yet; the queue is ordered by chance"

Json = dict[str, Any]


def status(ledger: Ledger, studio_id: int | None = None) -> Json:
    """Projects and processes.

    Args:
        studio_id: one project only, by Label Studio's number.
    """
    return {
        "projects": [
            project_status(ledger, row)
            for row in ledger.projects.all()
            if studio_id in (None, row.studio_id)
        ],
        "processes": [process_status(row) for row in ledger.processes.all()],
    }


def project_status(ledger: Ledger, row: Project) -> Json:
    serving = ledger.publications.serving(row.id)
    version = ledger.versions.promoted(row.id)
    active = ledger.rounds.active(row.id)
    return {
        "server": row.server,
        "project": row.studio_id,
        "title": row.title,
        "connected": row.connected,
        "paused": row.paused,
        "round": round_status(ledger, row.id, active),
        "version": None if version is None else version.number,
        "quality": None if version is None else quality(version.metrics),
        "audit": None if version is None else audit(version.metrics),
        "advice": None if version is None else advice(version.metrics),
        "publication": None if serving is None else serving.name,
        "first_queue": None if version is not None else first_queue(serving),
        "labelled": row.labelled,
        "changed": row.changed,
        "ranked_left": row.ranked_left,
        "last_error": row.last_error,
    }


def first_queue(serving: Publication | None) -> str | None:
    """How the queue is ordered before the first version; None where none serves."""
    if serving is None:
        return None
    return BY_CHANCE if serving.mode == "random" else BY_LIKENESS


def quality(metrics: Mapping[str, Any]) -> Json:
    """What a version's metrics say of it: measured out of fold, calibrated where that was done."""
    names = ("foreground_dice", "dice", "iou", "temperature", "ece", "ece_uncalibrated")
    return {name: metrics.get(name) for name in (*names, "out_of_fold", "bf16_agreement")}


def audit(metrics: Mapping[str, Any]) -> Json:
    """What the audit images say of a version, in numbers and in words."""
    names = ("audit", "audit_gain", "chance_gain")
    return {name: metrics.get(name) for name in names} | {"words": describe_audit(metrics)}


def describe_quality(metrics: Mapping[str, Any]) -> str:
    """``foreground Dice 0.812, calibration error 0.012 (0.034 before)``; "" if not measured."""
    dice, ece, before = (
        metrics.get(name) for name in ("foreground_dice", "ece", "ece_uncalibrated")
    )
    said = []
    if dice is not None:
        where = "out-of-fold " if metrics.get("out_of_fold", True) else ""
        said.append(f"{where}foreground Dice {dice:.3f}")
    if ece is not None and before is not None:
        said.append(f"calibration error {ece:.3f} ({before:.3f} before)")
    return ", ".join(said)


def round_status(ledger: Ledger, project_id: int, active: Round | None) -> Json | None:
    """The round under way, or the last one; None before the first."""
    row = active or ledger.rounds.last(project_id)
    if row is None:
        return None
    parts = ledger.parts.of_round(row.id, row.stage)
    return {
        "id": row.id,
        "kind": row.kind,
        "reason": row.reason,
        "state": row.state,
        "stage": row.stage if active else None,
        "started": row.started_at,
        "progress": _progress(parts) if active else None,
        "eta_s": eta_s(ledger, active, parts) if active else None,
        "again_in_s": again_in_s(parts) if active else None,
        "error": row.error,
        "problems": row.problems,
        "timings": row.timings,
    }


def _progress(parts: Sequence[Part]) -> float:
    return sum(part.progress for part in parts) / len(parts) if parts else 0.0


def eta_s(ledger: Ledger, active: Round, parts: Sequence[Part]) -> float | None:
    """Seconds to the round's end, from its own pace and the last good round's stages.

    None where there is nothing to judge by: no number is made up.
    """
    progress = _progress(parts)
    elapsed = time.time() - active.stage_started_at
    former = ledger.rounds.last(active.project_id, kind=active.kind, state="succeeded")
    before: Mapping[str, float] = {} if former is None else former.timings
    if progress > 0.02:
        this_stage: float = elapsed * (1.0 - progress) / progress
    elif active.stage in before:
        this_stage = max(0.0, before[active.stage] - elapsed)
    else:
        return None
    stages = STAGES[active.kind]
    following = stages[stages.index(active.stage) + 1 :]
    if any(stage not in before for stage in following):
        return None
    return round(this_stage + sum(before[stage] for stage in following), 1)


def again_in_s(parts: Sequence[Part]) -> float | None:
    """Seconds until a part that failed is tried again; None where none waits for that."""
    waits = [
        part.not_before - time.time()
        for part in parts
        if part.state == "waiting" and part.attempts > 0
    ]
    return round(max(0.0, min(waits)), 1) if waits else None


def process_status(row: ProcessRecord) -> Json:
    silent_s = time.time() - row.seen_at
    return {
        "role": row.role,
        "address": row.address,
        "host": row.host,
        "pid": row.pid,
        "started": row.started_at,
        "health": "up" if silent_s < SILENT_AFTER_S else f"silent for {silent_s:.0f} s",
    }


def describe(found: Json) -> str:
    """The same, for a person at a terminal."""
    lines: list[str] = []
    for project in found["projects"]:
        lines += _describe_project(project)
    if not found["projects"]:
        lines.append("No project is connected: `python -m backend connect --project ID`.")
    lines.append("")
    for process in found["processes"]:
        where = f"{process['host']} pid {process['pid']}"
        lines.append(f"{process['role']:7} {process['health']:16} {process['address']}  ({where})")
    if not found["processes"]:
        lines.append("No web and no worker has said that it is alive: start them by `make run`.")
    return "\n".join(lines)


def _describe_project(project: Json) -> list[str]:
    state = "connected" if project["connected"] else "not connected"
    if project["paused"]:
        state += ", paused"
    lines = [
        f"Project {project['project']}, {project['title']!r} on {project['server']}: {state}",
        f"  version      {_describe_version(project)}",
        *_describe_audit(project),
        f"  serving      {project['publication'] or 'nothing yet'}",
        f"  labelled     {project['labelled']} tasks, {project['changed']} of them "
        "changed since the last round",
        f"  ranked left  {project['ranked_left']}",
    ]
    if project["round"] is not None:
        lines.append(f"  round        {_describe_round(project['round'])}")
        lines += [f"               {problem}" for problem in project["round"]["problems"][:5]]
        more = len(project["round"]["problems"]) - 5
        if more > 0:
            lines.append(f"               and {more} more (--json lists all)")
    if project["last_error"]:
        lines.append(f"  last error   {project['last_error']}")
    return lines


def _describe_audit(project: Json) -> list[str]:
    if project["audit"] is None:
        return []
    lines = []
    if project["audit"]["words"]:
        lines.append(f"  audit        {project['audit']['words']}")
    if project["advice"]:
        lines.append(f"  advice       {project['advice']}")
    return lines


def _describe_version(project: Json) -> str:
    if project["version"] is None:
        first = project["first_queue"]
        return first or "none yet"
    return ": ".join(filter(None, (str(project["version"]), describe_quality(project["quality"]))))


def _describe_round(found: Json) -> str:
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in found["timings"].items())
    if found["stage"] is None:
        outcome = found["state"] + (f": {found['error']}" if found["error"] else "")
        return f"{found['id']} ({found['kind']}) {outcome}" + (f" ({times})" if times else "")
    eta = "" if found["eta_s"] is None else f", about {found['eta_s']:.0f} s to go"
    if found["again_in_s"] is not None:
        eta = f", interrupted, again in {found['again_in_s']:.0f} s"
    return (
        f"{found['id']} ({found['kind']}): {found['stage']}, {found['progress']:.0%}{eta}; "
        f"started because {found['reason']}" + (f" ({times})" if times else "")
    )
