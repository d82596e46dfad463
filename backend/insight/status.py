"""Projects, their rounds and versions, and the processes that are alive."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.errors import BadOptions
from backend.insight.next_step import NextStep, RoundFacts, next_step
from backend.insight.read_model import Json, to_json
from backend.insight.round_time import TESTED_ROUNDS, time_left
from backend.label_studio.region_counts import Counts, describe_counts, from_rows
from backend.ledger import Action, Ledger, Part, ProcessRecord, Project, Publication
from backend.ledger.rounds import RoundSummary
from backend.ledger.shapes import AuditEstimate, Gain, GroupQuality, Metrics
from backend.options import parse_options
from backend.rounds.audits import advice, describe_audit, training
from backend.rounds.elsewhere import describe_start

SILENT_AFTER_S = 30.0
"""A process beats every ten seconds; three missed beats are a silence."""

SHOWN_ACTIONS = 10

BY_LIKENESS = "no version yet; each image of the queue is the one least like those before it"
BY_CHANCE = "no version yet; the queue is ordered by chance"


@dataclass(frozen=True)
class Quality:
    """What was measured of a version: out of fold where it could be, calibrated where it was done.

    Attributes:
        foreground_dice: 0 to 1, the mean over the classes but background.
        dice, iou: by class name; None for a class that nothing showed.
        ece, ece_uncalibrated: expected calibration error, 0 to 1.
        bf16_agreement: share of pixels to which bfloat16 gives the same class.
    """

    foreground_dice: float | None
    dice: Mapping[str, float | None] | None
    iou: Mapping[str, float | None] | None
    temperature: float | None
    ece: float | None
    ece_uncalibrated: float | None
    out_of_fold: bool | None
    bf16_agreement: float | None


@dataclass(frozen=True)
class AuditStatus:
    """A version's quality on the audit images, in numbers and in words."""

    audit: AuditEstimate | None
    audit_gain: Gain | None
    chance_gain: Gain | None
    words: str


@dataclass(frozen=True)
class RoundStatus:
    """A round under way, or the last one.

    Attributes:
        stage, progress, eta_s, again_in_s: of a round under way; None of one that has ended.
            ``progress`` is that of the stage, 0 to 1.
        eta_error: median share by which such estimates were off in the rounds before; None where
            there are too few of them.
        started: unix seconds.
        problems: the round's, after what the last training did not understand of the labels.
        timings: seconds of each stage that has ended.
    """

    id: int
    kind: str
    reason: str
    state: str
    stage: str | None
    started: float
    progress: float | None
    eta_s: float | None
    eta_error: float | None
    again_in_s: float | None
    error: str | None
    problems: Sequence[str]
    timings: Mapping[str, float]


@dataclass(frozen=True)
class ActionEntry:
    """What somebody did on the dashboard.

    Attributes:
        at: unix seconds.
        outcome: what came of it, or why it was refused; None if the web ended in between.
    """

    at: float
    who: str
    login: str
    what: str
    version: int | None
    outcome: str | None


@dataclass(frozen=True)
class ProjectStatus:
    """One project.

    Attributes:
        project: Label Studio's number.
        version: the version that ranks; None before the first.
        training: how long that version's members trained, and why.
        elsewhere: what it has to do with a version of another project, in words.
        groups: its quality by the option ``group_by``.
        first_queue: how the queue is ordered before the first version.
        labelled: tasks with a label; ``changed`` of them since the last round.
        ranked_left: ranked tasks that are not labelled yet.
        retrain_every: changed labels that start a round.
        next: what to do now.
        actions: the newest ``SHOWN_ACTIONS`` that people took on the dashboard.
    """

    server: str
    project: int
    title: str
    connected: bool
    paused: bool
    round: RoundStatus | None
    version: int | None
    quality: Quality | None
    audit: AuditStatus | None
    training: str | None
    elsewhere: str | None
    groups: Mapping[str, GroupQuality]
    advice: str | None
    publication: str | None
    first_queue: str | None
    labelled: int
    changed: int
    ranked_left: int
    retrain_every: int
    last_error: str | None
    next: NextStep
    actions: Sequence[ActionEntry]


@dataclass(frozen=True)
class ProcessStatus:
    """A web or worker process; ``health`` is "up" or says for how long it has been silent."""

    role: str
    address: str
    host: str
    pid: int
    started: float
    health: str


@dataclass(frozen=True)
class Status:
    """What is going on."""

    projects: Sequence[ProjectStatus]
    processes: Sequence[ProcessStatus]

    def to_json(self) -> Json:
        found: Json = to_json(self)
        return found


def status(ledger: Ledger, studio_id: int | None = None, *, retrain_every: int = 10) -> Status:
    """Projects and processes.

    Args:
        studio_id: one project only, by Label Studio's number.
        retrain_every: RETRAIN_EVERY, for projects without an option of their own.
    """
    processes = [process_status(record) for record in ledger.processes.all()]
    workers = alive_workers(processes)
    projects = [
        project_status(ledger, project, retrain_every=retrain_every, workers=workers)
        for project in ledger.projects.all()
        if studio_id in (None, project.studio_id)
    ]
    return Status(projects, processes)


def alive_workers(processes: Sequence[ProcessStatus]) -> int:
    return sum(each.role == "worker" and each.health == "up" for each in processes)


def project_status(
    ledger: Ledger, project: Project, *, retrain_every: int = 10, workers: int | None = None
) -> ProjectStatus:
    """What is going on in one project.

    Args:
        retrain_every: as for ``status``.
        workers: how many are alive; None where nobody has counted them.
    """
    serving = ledger.publications.serving(project.id)
    version = ledger.versions.promoted(project.id)
    shown = round_status(ledger, project.id)
    advised = None if version is None else advice(version.metrics)
    every = _own_retrain_every(project) or retrain_every
    facts = RoundFacts(shown.id, shown.kind, shown.stage, shown.eta_s) if shown else None
    return ProjectStatus(
        server=project.server,
        project=project.studio_id,
        title=project.title,
        connected=project.connected,
        paused=project.paused,
        round=shown,
        version=None if version is None else version.number,
        quality=None if version is None else quality(version.metrics),
        audit=None if version is None else audit(version.metrics),
        training=None if version is None else training(version.metrics),
        elsewhere=None if version is None else describe_start(version.metrics),
        groups={} if version is None else version.metrics.get("groups", {}),
        advice=advised,
        publication=None if serving is None else serving.name,
        first_queue=None if version is not None else first_queue(serving),
        labelled=project.labelled,
        changed=project.changed,
        ranked_left=project.ranked_left,
        retrain_every=every,
        last_error=project.last_error,
        actions=[action_entry(each) for each in ledger.actions.newest(project.id, SHOWN_ACTIONS)],
        next=next_step(project, facts, retrain_every=every, workers=workers, advice=advised),
    )


def _own_retrain_every(project: Project) -> int | None:
    try:
        return parse_options(project.extra_params).retrain_every
    except BadOptions:  # of another release; a round says what is wrong with them
        return None


def action_entry(row: Action) -> ActionEntry:
    return ActionEntry(row.at, row.who, row.login, row.what, row.version, row.outcome)


def unread_regions(ledger: Ledger, project_id: int) -> list[str]:
    """What the last training round did not understand of the labels, a sentence for each kind."""
    last = ledger.rounds.recent(project_id, 1, kind="train")
    if not last:
        return []
    counts: Counts = Counter()
    for result in ledger.parts.results(last[0].id, "collect"):
        counts += from_rows(result.get("regions", ()))
    return describe_counts(counts)


def first_queue(serving: Publication | None) -> str | None:
    """How the queue is ordered before the first version; None where none serves."""
    if serving is None:
        return None
    return BY_CHANCE if serving.mode == "random" else BY_LIKENESS


def quality(metrics: Metrics) -> Quality:
    return Quality(
        foreground_dice=metrics.get("foreground_dice"),
        dice=metrics.get("dice"),
        iou=metrics.get("iou"),
        temperature=metrics.get("temperature"),
        ece=metrics.get("ece"),
        ece_uncalibrated=metrics.get("ece_uncalibrated"),
        out_of_fold=metrics.get("out_of_fold"),
        bf16_agreement=metrics.get("bf16_agreement"),
    )


def audit(metrics: Metrics) -> AuditStatus:
    return AuditStatus(
        audit=metrics.get("audit"),
        audit_gain=metrics.get("audit_gain"),
        chance_gain=metrics.get("chance_gain"),
        words=describe_audit(metrics),
    )


def round_status(ledger: Ledger, project_id: int) -> RoundStatus | None:
    """The round under way, or the last one; None before the first."""
    rounds = ledger.rounds
    newest = rounds.recent(project_id, 1, state="active") or rounds.recent(project_id, 1)
    if not newest:
        return None
    shown = newest[0]
    active = shown.state == "active"
    parts = ledger.parts.of_round(shown.id, shown.stage)
    unread = unread_regions(ledger, project_id)
    left = _time_left(ledger, shown, parts) if active else (None, None)
    return RoundStatus(
        id=shown.id,
        kind=shown.kind,
        reason=shown.reason,
        state=shown.state,
        stage=shown.stage if active else None,
        started=shown.started_at,
        progress=_progress(parts) if active else None,
        eta_s=left[0],
        eta_error=left[1],
        again_in_s=again_in_s(parts) if active else None,
        error=shown.error,
        problems=[*unread, *(said for said in shown.problems if said not in unread)],
        timings=shown.timings,
    )


def _progress(parts: Sequence[Part]) -> float:
    return sum(part.progress for part in parts) / len(parts) if parts else 0.0


def _time_left(
    ledger: Ledger, active: RoundSummary, parts: Sequence[Part]
) -> tuple[float | None, float | None]:
    former = ledger.rounds.recent(
        active.project_id, TESTED_ROUNDS, kind=active.kind, state="succeeded"
    )
    elapsed = time.time() - active.stage_started_at
    before = [each.timings for each in former]
    return time_left(active.kind, active.stage, _progress(parts), elapsed, before)


def again_in_s(parts: Sequence[Part]) -> float | None:
    """Seconds until a part that failed is tried again; None where none waits for that."""
    waits = [
        part.not_before - time.time()
        for part in parts
        if part.state == "waiting" and part.attempts > 0
    ]
    return round(max(0.0, min(waits)), 1) if waits else None


def process_status(record: ProcessRecord) -> ProcessStatus:
    silent_s = time.time() - record.seen_at
    return ProcessStatus(
        role=record.role,
        address=record.address,
        host=record.host,
        pid=record.pid,
        started=record.started_at,
        health="up" if silent_s < SILENT_AFTER_S else f"silent for {silent_s:.0f} s",
    )
