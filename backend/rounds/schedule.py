"""When a round starts, and what follows what.

Label Studio is the truth: events only say when to look. A check compares the annotations there
are now with what the last attempted round used, and starts a round when enough of them differ.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.errors import StudioRefused
from backend.fallback import damage_of, describe_damage, whole_version
from backend.label_studio.bulk import Project as StudioProject
from backend.label_studio.bulk import Stamp
from backend.label_studio.webhook_events import START_TRAINING
from backend.ledger import NO_VERSION, START, Event, Ledger, Project, Publication, Round, Version
from backend.ledger.events import PREDICT_REST
from backend.ledger.projects import AT_PREDICT
from backend.ledger.rounds import LONGEST_WAIT_S
from backend.ledger.shapes import RoundKind, Stage
from backend.rounds.annotated import Stamps, annotated_tasks
from backend.rounds.elsewhere import is_from_elsewhere, queues_served
from backend.rounds.queue_check import keep_queue
from backend.workplace import Workplace
from training.committee.store.store import StoreUnavailable

log = logging.getLogger(__name__)

QUIET_S = 10.0
"""A check waits this long after the last event, so that a burst of labels starts one round."""

PATIENCE_S = 60.0
"""... but never longer than this after the first."""

RECONCILE_S = 120.0
"""Label Studio never repeats a lost webhook: without any event, look this often."""

ASK_AGAIN_S = 20.0
"""A check that was asked for and never came is asked for again after this, if it waits nowhere."""

AFTER_FAILURE_S = (5.0, 60.0)
"""Least and longest wait after a check that failed, while events ask for one: doubling between
them, so that a Label Studio that struggles is not held under."""

CLOCK_SLACK_S = 60.0
"""A moment further ahead than this was noted before the clock was set back, and counts as past."""

CONNECTED = "CONNECTED"
"""Event: a project with labels was connected; they start a round at once, unless one has them."""

FORCING = frozenset({START_TRAINING, "RETRAIN"})
"""Events that start a training round at once, however few the labels."""

STAGES: Mapping[RoundKind, tuple[Stage, ...]] = {
    "train": ("collect", "judge", "fit", "assemble", "choose", "score", "publish"),
    "rank": ("choose", "score", "publish"),
    START: ("choose", "score", "publish"),
}
"""A training round makes a version; a ranking round lets the present one rank the pool anew; a
start round orders the images before there is one."""

FEWEST_TO_ORDER = 2
"""A single image is in order."""

START_AGAIN_S = 3600.0
"""A start round that failed, for want of weights say, or found no image that it could read would
most likely end so again."""

FEWEST_TASKS = 2
"""A training round needs labels on this many images that are not the audit's."""


def next_stage(kind: RoundKind, stage: Stage) -> Stage | None:
    """The stage that follows; None after the last."""
    stages = STAGES[kind]
    after = stages.index(stage) + 1
    return stages[after] if after < len(stages) else None


def check_is_due(project: Project, pending: Sequence[Event], active: bool, now: float) -> bool:
    """Whether Label Studio should be looked at now.

    Args:
        project: the ledger's row.
        pending: its unhandled events, oldest first.
        active: a round is under way; what came meanwhile is counted when it ends.
        now: unix seconds.
    """
    if active or not project.connected:
        return False
    asked, checked = _past(project.check_asked_at, now), _past(project.checked_at, now)
    if asked > checked and now - asked < ASK_AGAIN_S:
        return False
    # A check that succeeds handles the events before it, unless training backs off.
    if pending and (first := _past(pending[0].received_at, now)) < checked:
        least, longest = AFTER_FAILURE_S
        wait = min(max(checked - first, least), longest)
        if now - checked < wait:
            return False
    if any(event.action in FORCING or event.action == CONNECTED for event in pending):
        return True
    if project.paused:
        return False
    # While training backs off its events wait too. A start round does not, and needs no event.
    if pending and not _backs_off(project, now):
        first, last = (_past(pending[end].received_at, now) for end in (0, -1))
        return bool(now - last >= QUIET_S or now - first >= PATIENCE_S)
    return bool(now - max(asked, checked) >= RECONCILE_S)


def _past(at: float | None, now: float) -> float:
    """When something was noted; 0 if it never was, or by a clock that was set back since."""
    return 0.0 if at is None or at > now + CLOCK_SLACK_S else at


def _backs_off(project: Project, now: float) -> bool:
    """Whether a project's rounds wait because the last ones failed."""
    return bool(now < project.not_before <= now + LONGEST_WAIT_S + CLOCK_SLACK_S)


def stamp_digest(stamps: Sequence[Stamp]) -> str | None:
    """A task's label state: which annotations, of when; None if it has none but skips."""
    teaching = sorted((s.annotation_id, s.updated_at) for s in stamps if not s.skipped)
    if not teaching:
        return None
    return hashlib.sha256(repr(teaching).encode()).hexdigest()[:16]


def label_states(stamps: Stamps) -> dict[int, str]:
    """Task id -> digest, for every task with at least one annotation that is no skip."""
    states = {task_id: stamp_digest(task_stamps) for task_id, task_stamps in stamps.items()}
    return {task_id: digest for task_id, digest in states.items() if digest is not None}


def count_changes(states: Mapping[int, str], manifest: Sequence[Mapping[str, Any]]) -> int:
    """Tasks whose masks are new, edited or gone since the manifest was written."""
    before = {entry["task"]: entry["stamp"] for entry in manifest}
    return sum(before.get(task) != states.get(task) for task in before.keys() | states.keys())


def is_audit(slug: str, task_id: int, fraction: float) -> bool:
    """Whether a task belongs to the audit set, for good: never trained on, only measured by."""
    digest = hashlib.sha256(f"audit:{slug}:{task_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def check_project(work: Workplace, project_id: int) -> Round | None:
    """Look at Label Studio and start the round that is due; None if none is.

    Raises:
        StudioUnreachable, StudioRefused: as the client met them.
    """
    row = work.ledger.projects.get(project_id)
    active = work.ledger.rounds.active(project_id)
    if active is not None and active.kind != START:
        return None
    pending = [
        event for event in work.ledger.events.pending(project_id) if event.action != PREDICT_REST
    ]
    judged = work.ledger.evidence.task_ids(project_id)
    now = time.time()
    project = _find_project(work, row)
    if project is None:
        return None
    _sync_serving_publication(work, row, project)
    # A start round may be publishing just now; a paused project keeps what somebody chose.
    keeps = active is None and not row.paused
    gone = keep_queue(work, row, project) if keeps else 0
    stamps = annotated_tasks(work, row, project)
    states = label_states(stamps)
    options = work.options(row)
    # Here, and not only by the next training round: without enough labels there is none.
    if unlabelled := judged - states.keys():
        work.ledger.evidence.withdraw(project_id, unlabelled)
    seen = _Seen(
        row,
        project,
        actions=frozenset(event.action for event in pending),
        retrain_every=options.retrain_every or work.settings.retrain_every,
        changed=count_changes(states, work.ledger.rounds.last_manifest(project_id)),
        left=max(0, _ranked_left(work, project_id, stamps) - gone),
        touched=len(stamps),
        teaching=sum(not is_audit(row.slug, task, options.audit_fraction) for task in states),
    )
    work.ledger.projects.update(
        project_id,
        title=project.title,
        label_config=project.label_config,
        labelled=len(states),
        changed=seen.changed,
        ranked_left=seen.left,
        # Of those that were deleted, as many may come again.
        pool=min(row.pool, project.task_number),
        last_error=_standing_error(work, project_id),
        checked_at=now,
    )
    why = _why_train(seen)
    if why is not None:
        if active is not None:
            # The version that is about to be made ranks better. `clean` removes what it leaves:
            # the registry brings torch, and training would wait for that.
            work.ledger.rounds.cancel(active.id, "A training round became due.")
        started = work.ledger.rounds.start(project_id, "train", why, "collect", {})
    elif active is not None:
        started = None
    else:
        started = _start_ranking(work.ledger, seen)
    asked = seen.actions & (FORCING | {CONNECTED})
    if started is not None or asked or not _backs_off(row, now):
        work.ledger.events.handle([event.id for event in pending])
    return started


def _standing_error(work: Workplace, project_id: int) -> str | None:
    """What is still wrong though Label Studio has answered: a damaged version, an object store that
    is away, that the last round failed, or that opened tasks got no prediction. What a check before
    this one met is over.
    """
    ledger, row = work.ledger, work.ledger.projects.get(project_id)
    promoted = ledger.versions.promoted(project_id)
    try:
        if promoted is not None and (damage := damage_of(work, row, promoted.number)):
            instead = whole_version(work, row, promoted.number)
            return describe_damage(promoted.number, damage, instead)
    except StoreUnavailable as error:
        return str(error)
    # While training fails, a start round that succeeded since has mended nothing.
    last = ledger.rounds.last(project_id, state="failed" if row.failures else None)
    if last is not None and last.state == "failed":
        return last.error
    # Only the next /predict can tell whether this is over.
    return row.last_error if (row.last_error or "").startswith(AT_PREDICT) else None


def _find_project(work: Workplace, row: Project) -> StudioProject | None:
    """Label Studio's side of a project; None, and it is not connected any more, if that is gone."""
    number = row.studio_id
    try:
        project = work.studio.project(number)
    except StudioRefused as error:
        if error.studio_status != 404:
            raise
        work.studio.whoami()  # a proxy that has lost Label Studio says 404 to everything
        said = f"Label Studio has no project {number} any more."
    else:
        if project.created == row.created:
            return project
        said = (
            f"Project {number} was made anew in Label Studio since it was connected: "
            f"run `python -m backend connect --project {number}`."
        )
    if row.unconfirmed:  # only a /setup ever named it
        log.warning("project %d of a /setup is forgotten: %s", number, said)
        work.ledger.projects.forget(row.id)
    else:
        work.ledger.projects.update(row.id, connected=False, last_error=said)
    return None


@dataclass(frozen=True)
class _Seen:
    """What a check found.

    Attributes:
        row: the ledger's project.
        project: Label Studio's.
        actions: of the pending events.
        retrain_every: changed labels that start a round.
        changed: tasks whose labels differ from the last manifest's.
        left: ranked tasks that nobody has labelled or skipped yet.
        touched: tasks that are labelled or skipped.
        teaching: labelled tasks that are no audits.
    """

    row: Project
    project: StudioProject
    actions: frozenset[str]
    retrain_every: int
    changed: int
    left: int
    touched: int
    teaching: int

    def waits(self) -> bool:
        """Whether nothing may start by itself now but a start round, which waits only for a
        paused project: else training that keeps failing would leave it without any queue."""
        return bool(self.row.paused or _backs_off(self.row, time.time()))

    def more_tasks(self) -> int | None:
        """Tasks that came since the last ranking; None if none did."""
        more: int = self.project.task_number - self.row.pool
        return max(more, 0) if more > 0 or "TASKS_CREATED" in self.actions else None


def _why_train(seen: _Seen) -> str | None:
    """Why a training round starts now; None if none does."""
    enough = seen.teaching >= FEWEST_TASKS
    if seen.actions & FORCING or (CONNECTED in seen.actions and seen.changed and enough):
        reason = "asked for" if seen.actions & FORCING else "connected"
        return f"{reason}; {seen.changed} labels changed"
    if seen.waits() or seen.changed < seen.retrain_every or not enough:
        return None
    return f"{seen.changed} labels changed since the last round ({seen.retrain_every} start one)"


def _start_ranking(ledger: Ledger, seen: _Seen) -> Round | None:
    project_id = seen.row.id
    promoted = ledger.versions.promoted(project_id)
    if promoted is None:
        kind, why = START, None if seen.row.paused else _why_start(ledger, seen)
    else:
        kind, why = "rank", None if seen.waits() else _why_rank(ledger, seen, promoted)
    return None if why is None else ledger.rounds.start(project_id, kind, why, "choose", {})


def _why_start(ledger: Ledger, seen: _Seen) -> str | None:
    """Why the images should be put in order though there is no version; None if they are."""
    if seen.project.task_number - seen.touched < FEWEST_TO_ORDER:
        return None
    project_id, more = seen.row.id, seen.more_tasks()
    last = ledger.rounds.last(project_id, kind=START)
    if last is not None and _is_vain(ledger, last, seen):
        return None
    serving = ledger.publications.serving(project_id)
    if serving is None:
        return "no version yet"
    if serving.version != NO_VERSION:
        return None  # withdrawn since, and still better than none
    if more is not None:
        return f"no version yet; {more} more tasks"
    if _runs_out(seen, serving):
        return f"no version yet; only {seen.left} ordered tasks left"
    return None


def _is_vain(ledger: Ledger, last: Round, seen: _Seen) -> bool:
    """Whether a round would most likely end as the last one did: without a queue."""
    chosen = ledger.parts.results(last.id, "choose")
    if any(seen.project.task_number > result["pool"] for result in chosen):
        return False
    published = [result["published"] for result in ledger.parts.results(last.id, "publish")]
    barren = last.state == "failed" or (last.state == "succeeded" and published == [0])
    return barren and time.time() - _past(last.ended_at, time.time()) < START_AGAIN_S


def unread(ledger: Ledger, round_id: int) -> int:
    """How many images a round was to look at, if it could read none of them; else 0."""
    results = ledger.parts.results(round_id, "score")
    scored = sum(result["scored"] for result in results)
    return 0 if scored else sum(result["refused"] for result in results)


def _runs_out(seen: _Seen, serving: Publication) -> bool:
    """Whether so little is left of the queue that it should be made anew, of what it left out.

    Half of a short one is enough: else each label that is taken from a queue no longer than
    ``retrain_every`` would start a round.
    """
    fewest = min(seen.retrain_every, (serving.length + 1) // 2)
    return bool(seen.left < fewest and seen.row.left_out > 0)


def _why_rank(ledger: Ledger, seen: _Seen, promoted: Version) -> str | None:
    """Why the present version should rank the pool anew; None if nothing could come of it."""
    project_id, more = seen.row.id, seen.more_tasks()
    if more is not None:
        return f"{more} more tasks"
    serving, last = ledger.publications.serving(project_id), ledger.rounds.last(project_id)
    behind = serving is None or serving.version != promoted.number
    # A round that succeeded without publishing found nothing to rank, and would again ...
    if behind and last is not None and last.state == "failed":
        return f"version {promoted.number} is not published yet"
    # ... unless it could read none of the images, which may be over in an hour.
    if last is not None and unread(ledger, last.id) and not _is_vain(ledger, last, seen):
        return "no image could be read the last time"
    unlabelled = seen.project.task_number > seen.touched
    if serving is None and unlabelled and not (last is not None and _is_vain(ledger, last, seen)):
        return "Label Studio holds no ranked queue"
    if serving is not None and _runs_out(seen, serving):
        return f"only {seen.left} ranked tasks left"
    first = is_from_elsewhere(promoted) and queues_served(ledger, promoted) == 1
    if first and seen.row.left_out > 0 and not (last is not None and _is_vain(ledger, last, seen)):
        return "the version from elsewhere has ranked the first images only"
    return None


def _ranked_left(work: Workplace, project_id: int, stamps: Stamps) -> int:
    """Ranked tasks that nobody has labelled or skipped yet."""
    return sum(task not in stamps for task in work.ledger.publications.task_ids(project_id))


def _sync_serving_publication(work: Workplace, row: Project, project: StudioProject) -> None:
    """After a crash between the server's PATCH and our row, the server's word counts."""
    for publication in work.ledger.publications.all(row.id):
        if publication.name == project.model_version and publication.state == "prepared":
            log.info("publication %s serves already: recording it", publication.name)
            work.ledger.publications.serve(publication.id, publication.length)
