"""Projects, their rounds and versions, and the processes that are alive."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.insight.read_model import Json, to_json
from backend.label_studio.region_counts import Counts, describe_counts, from_rows
from backend.ledger import Ledger, Part, ProcessRecord, Project, Publication, Round
from backend.ledger.shapes import AuditEstimate, Gain, GroupQuality, Metrics
from backend.rounds.audits import advice, describe_audit, training
from backend.rounds.elsewhere import describe_start
from backend.rounds.schedule import STAGES

SILENT_AFTER_S = 30.0
"""A process beats every ten seconds; three missed beats are a silence."""

BY_LIKENESS = "no version yet; each image of the queue is the one least like those before it"
BY_CHANCE = "no version yet; the queue is ordered by chance"

FIRST_PROGRESS = 0.02
"""Below this share of a stage its pace is no measure."""


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
    again_in_s: float | None
    error: str | None
    problems: Sequence[str]
    timings: Mapping[str, float]


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
    last_error: str | None


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


def status(ledger: Ledger, studio_id: int | None = None) -> Status:
    """Projects and processes.

    Args:
        studio_id: one project only, by Label Studio's number.
    """
    projects = [
        project_status(ledger, project)
        for project in ledger.projects.all()
        if studio_id in (None, project.studio_id)
    ]
    return Status(projects, [process_status(record) for record in ledger.processes.all()])


def project_status(ledger: Ledger, project: Project) -> ProjectStatus:
    serving = ledger.publications.serving(project.id)
    version = ledger.versions.promoted(project.id)
    return ProjectStatus(
        server=project.server,
        project=project.studio_id,
        title=project.title,
        connected=project.connected,
        paused=project.paused,
        round=round_status(ledger, project.id),
        version=None if version is None else version.number,
        quality=None if version is None else quality(version.metrics),
        audit=None if version is None else audit(version.metrics),
        training=None if version is None else training(version.metrics),
        elsewhere=None if version is None else describe_start(version.metrics),
        groups={} if version is None else version.metrics.get("groups", {}),
        advice=None if version is None else advice(version.metrics),
        publication=None if serving is None else serving.name,
        first_queue=None if version is not None else first_queue(serving),
        labelled=project.labelled,
        changed=project.changed,
        ranked_left=project.ranked_left,
        last_error=project.last_error,
    )


def unread_regions(ledger: Ledger, project_id: int) -> list[str]:
    """What the last training round did not understand of the labels, a sentence for each kind."""
    last = ledger.rounds.last(project_id, kind="train")
    if last is None:
        return []
    counts: Counts = Counter()
    for result in ledger.parts.results(last.id, "collect"):
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
    active = ledger.rounds.active(project_id)
    shown = active or ledger.rounds.last(project_id)
    if shown is None:
        return None
    parts = ledger.parts.of_round(shown.id, shown.stage)
    unread = unread_regions(ledger, project_id)
    return RoundStatus(
        id=shown.id,
        kind=shown.kind,
        reason=shown.reason,
        state=shown.state,
        stage=shown.stage if active else None,
        started=shown.started_at,
        progress=_progress(parts) if active else None,
        eta_s=eta_s(ledger, active, parts) if active else None,
        again_in_s=again_in_s(parts) if active else None,
        error=shown.error,
        problems=[*unread, *(said for said in shown.problems if said not in unread)],
        timings=shown.timings,
    )


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
    if progress > FIRST_PROGRESS:
        this_stage = elapsed * (1.0 - progress) / progress
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
