"""The clock: once a second, in a worker's parent, it turns the ledger's rows into jobs."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from redis.exceptions import RedisError
from rq import Queue

from backend.actions.purge import remove_strays
from backend.errors import BadRequest, LedgerUnavailable
from backend.jobs.queue import (
    deliver_parts,
    enqueue,
    hand_on_old_jobs,
    is_queued_or_running,
    open_queue,
)
from backend.ledger import START, Event, Project
from backend.ledger.events import PREDICT_REST
from backend.redis_queue import INTERACTIVE, REFINE
from backend.rounds.schedule import ASK_AGAIN_S, FORCING, check_is_due
from backend.workplace import Workplace

log = logging.getLogger(__name__)

CLEAN_EVERY_S = 3600.0
KEEP_EVENTS_S = 7 * 24 * 3600.0
KEEP_REST_S = 24 * 3600.0
"""Tasks that a /predict had no time for are tried for a day; by then whoever asked has moved on."""

FORGET_PROCESS_AFTER_S = 120.0
"""A process that is silent for this long is removed from the list."""


class Clock:
    """Turns the ledger's rows into jobs; any number may tick beside each other."""

    def __init__(self, work: Workplace) -> None:
        self._work = work
        self._cleaned_at = time.monotonic()
        self._rest_asked: dict[int, tuple[int, float]] = {}  # project: (event, when it was asked)

    def tick(self) -> None:
        """Read the ledger once. Where Redis or the ledger is away, the next tick tries again."""
        try:
            hand_on_old_jobs(self._work)
            deliver_parts(self._work)
            queue = open_queue(self._work, INTERACTIVE)
            for project in self._our_projects():
                self._ask_for_jobs(queue, project)
            if time.monotonic() - self._cleaned_at > CLEAN_EVERY_S:
                self._clean(open_queue(self._work, REFINE))
        except (RedisError, LedgerUnavailable) as error:
            log.warning("the clock missed a tick: %s", error)

    def _our_projects(self) -> list[Project]:
        """The connected projects of our Label Studio.

        The ledger may hold those of another server, under the same numbers.
        """
        return self._work.ledger.projects.all(connected_only=True, server=self._work.server)

    def _ask_for_jobs(self, queue: Queue, project: Project) -> None:
        ledger, project_id = self._work.ledger, project.id
        pending = ledger.events.pending_ends(project_id, all_of=PREDICT_REST)
        self._ask_for_rest(queue, project_id, [e for e in pending if e.action == PREDICT_REST])
        pending = [event for event in pending if event.action != PREDICT_REST]
        round_ = ledger.rounds.active(project_id)
        # A start round does not delay training.
        active = round_ is not None and round_.kind != START
        now = time.time()
        if not check_is_due(project, pending, active, now):
            return
        if is_queued_or_running(queue, f"check-{project_id}-"):
            return
        forced = any(event.action in FORCING for event in pending)
        enqueue(queue, "check", (project_id,), f"check-{project_id}-{int(now)}", at_front=forced)
        # Afterwards: if Redis takes no job now, the next tick asks again.
        ledger.projects.update(project_id, check_asked_at=now)

    def _ask_for_rest(self, queue: Queue, project_id: int, events: Sequence[Event]) -> None:
        """Ask for the tasks that /predict left.

        One job at a time, so that no project keeps the workers from others'; asked for again until
        its event is handled.
        """
        now = time.time()
        old = [event.id for event in events if now - event.received_at > KEEP_REST_S]
        self._work.ledger.events.handle(old)
        waiting = [event.id for event in events if event.id not in old]
        if not waiting or is_queued_or_running(queue, f"rest-{project_id}-"):
            return
        asked, asked_at = self._rest_asked.get(project_id, (0, 0.0))
        if asked == waiting[0] and time.monotonic() - asked_at < ASK_AGAIN_S:
            return
        job_id = f"rest-{project_id}-{waiting[0]}-{int(now)}"
        enqueue(queue, "predict_rest", (project_id, waiting[0]), job_id)
        self._rest_asked[project_id] = waiting[0], time.monotonic()

    def _clean(self, queue: Queue) -> None:
        self._cleaned_at = time.monotonic()
        self._work.ledger.events.drop_old(KEEP_EVENTS_S)
        self._work.ledger.processes.drop_silent(FORGET_PROCESS_AFTER_S)
        for project in self._our_projects():
            enqueue(queue, "clean", (project.id,), f"clean-{project.id}-{int(time.time())}")
        try:
            remove_strays(self._work.settings, self._work.ledger)
        except BadRequest as error:
            log.warning("what is kept here of purged projects goes later: %s", error)
