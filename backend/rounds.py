"""When a round starts, and what follows what.

Label Studio is the truth: events only say when to look. A check compares the annotations there
are now with what the last attempted round used, and starts a round when enough of them differ.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from backend.errors import StudioRefused
from backend.ledger import Ledger, Row
from backend.options import ProjectOptions
from backend.studio import Project, Stamp
from backend.workplace import Workplace

log = logging.getLogger(__name__)

QUIET_S = 10.0
"""A check waits this long after the last event, so that a burst of labels starts one round."""

PATIENCE_S = 60.0
"""... but never longer than this after the first."""

RECONCILE_S = 120.0
"""Label Studio never repeats a lost webhook: without any event, look this often."""

ASK_AGAIN_S = 60.0
"""A check that was asked for and never came is asked for again after this."""

CONNECTED = "CONNECTED"
"""Event: a project with labels was connected; they start a round at once, unless one has them."""

FORCING = frozenset({"START_TRAINING", "RETRAIN"})
"""Events that start a training round at once, however few the labels."""

STAGES: Mapping[str, tuple[str, ...]] = {
    "train": ("collect", "fit", "assemble", "choose", "score", "publish"),
    "rank": ("choose", "score", "publish"),
}
"""A training round makes a version; a ranking round lets the present one rank the pool anew."""

Stamps = dict[int, tuple[Stamp, ...]]


def check_is_due(project: Row, pending: Sequence[Row], active: bool, now: float) -> bool:
    """Whether Label Studio should be looked at now.

    Args:
        project: the ledger's row.
        pending: its unhandled events, oldest first.
        active: a round is under way; what came meanwhile is counted when it ends.
        now: unix seconds.
    """
    if active or not project["connected"]:
        return False
    asked, checked = project["check_asked_at"] or 0.0, project["checked_at"] or 0.0
    if asked > checked and now - asked < ASK_AGAIN_S:
        return False
    if any(event["action"] in FORCING or event["action"] == CONNECTED for event in pending):
        return True
    if project["paused"] or now < project["not_before"]:
        return False
    if pending:
        first, last = pending[0]["received_at"], pending[-1]["received_at"]
        return bool(now - last >= QUIET_S or now - first >= PATIENCE_S)
    return bool(now - max(asked, checked) >= RECONCILE_S)


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


def check_project(work: Workplace, project_id: int) -> Row | None:
    """Look at Label Studio and start the round that is due; None if none is.

    Raises:
        StudioUnreachable, StudioRefused: as the client met them.
    """
    row = work.ledger.project(project_id)
    if work.ledger.active_round(project_id) is not None:
        return None
    pending = work.ledger.pending_events(project_id)
    now = time.time()
    try:
        project = work.studio.project(row["studio_id"])
    except StudioRefused as error:
        if error.studio_status != 404:
            raise
        work.ledger.update_project(
            project_id,
            connected=False,
            last_error=f"Label Studio has no project {row['studio_id']} any more.",
        )
        return None
    if project.created != row["created"]:
        work.ledger.update_project(
            project_id,
            connected=False,
            last_error=(
                f"Project {row['studio_id']} was made anew in Label Studio since it was "
                f"connected: run `python -m backend connect --project {row['studio_id']}`."
            ),
        )
        return None
    _heed_label_studio(work, row, project)
    stamps = work.studio.stamps(project.id)
    states = label_states(stamps)
    options = work.options(row)
    changed = count_changes(states, work.ledger.last_manifest(project_id))
    left = _ranked_left(work, project_id, stamps)
    work.ledger.update_project(
        project_id,
        title=project.title,
        label_config=project.label_config,
        labelled=len(states),
        changed=changed,
        ranked_left=left,
        checked_at=now,
    )
    started = _start_due(work, row, options, pending, changed, left, project)
    work.ledger.handle_events([event["id"] for event in pending])
    return started


def _start_due(
    work: Workplace,
    row: Row,
    options: ProjectOptions,
    pending: Sequence[Row],
    changed: int,
    left: int,
    project: Project,
) -> Row | None:
    ledger, project_id = work.ledger, row["id"]
    actions = {event["action"] for event in pending}
    if actions & FORCING or (CONNECTED in actions and changed):
        reason = "asked for" if actions & FORCING else "connected"
        return ledger.start_round(
            project_id, "train", f"{reason}; {changed} labels changed", "collect", {}
        )
    if row["paused"] or time.time() < row["not_before"]:
        return None
    retrain_every = options.retrain_every or work.settings.retrain_every
    if changed >= retrain_every:
        reason = f"{changed} labels changed since the last round ({retrain_every} start one)"
        return ledger.start_round(project_id, "train", reason, "collect", {})
    why = _why_rank(ledger, row, actions, retrain_every, left, project)
    return None if why is None else ledger.start_round(project_id, "rank", why, "choose", {})


def _why_rank(
    ledger: Ledger,
    row: Row,
    actions: Collection[str],
    retrain_every: int,
    left: int,
    project: Project,
) -> str | None:
    """Why the present version should rank the pool anew; None if nothing could come of it."""
    promoted = ledger.promoted_version(row["id"])
    if promoted is None:
        return None
    if project.task_number > row["pool"] or "TASKS_CREATED" in actions:
        return f"{max(project.task_number - row['pool'], 0)} more tasks"
    serving, last = ledger.serving(row["id"]), ledger.last_round(row["id"])
    behind = serving is None or serving["version"] != promoted["number"]
    # A round that succeeded without publishing found nothing to rank, and would again.
    if behind and last is not None and last["state"] == "failed":
        return f"version {promoted['number']} is not published yet"
    # As many as were published are all there can be, however few.
    fewest = min(retrain_every, 0 if serving is None else serving["length"])
    if left < fewest and row["left_out"] > 0:
        return f"only {left} ranked tasks left"
    return None


def _ranked_left(work: Workplace, project_id: int, stamps: Stamps) -> int:
    """Ranked tasks that nobody has labelled or skipped yet."""
    serving = work.ledger.serving(project_id)
    if serving is None:
        return 0
    return sum(row["task_id"] not in stamps for row in work.ledger.ranking(serving["id"]))


def _heed_label_studio(work: Workplace, row: Row, project: Project) -> None:
    """After a crash between the server's PATCH and our row, the server's word counts."""
    for publication in work.ledger.publications(row["id"]):
        if publication["name"] == project.model_version and publication["state"] == "prepared":
            log.info("publication %s serves already: recording it", publication["name"])
            work.ledger.serve_publication(publication["id"], publication["length"])
