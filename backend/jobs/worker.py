"""One RQ worker: it forks a work horse for each job.

It imports neither torch nor any engine: a fork must start small, and a horse imports what its job
needs. Horses yield the cores, since the web must serve while they train.
"""

from __future__ import annotations

import logging
import random
import signal
from collections.abc import Collection, Sequence
from types import FrameType
from typing import Any

from redis.exceptions import RedisError
from rq import Worker
from rq.serializers import JSONSerializer

from backend.errors import LedgerUnavailable
from backend.jobs.names import parent_of
from backend.jobs.niceness import yield_to_web
from backend.jobs.queue import open_queue
from backend.jobs.safe_job import SafeJob
from backend.ledger import Ledger
from backend.logs import bound
from backend.process_group import die_with_parent
from backend.redis_queue import QUEUES
from backend.settings import Settings
from backend.workplace import Workplace

log = logging.getLogger(__name__)

REDIS_MAINTENANCE_S = 60
"""The ledger repeats a dead worker's job; in Redis it is only cleaned up."""


class CommitteeWorker(Worker):
    """An RQ worker that runs our jobs and nothing else, in horses that die with it."""

    job_class = SafeJob
    # RQ's own minute would let a round wait that long for a Redis that is back.
    max_connection_wait_time = 5.0
    ledger: Ledger | None = None
    job_nice = 0

    def main_work_horse(self, job: Any, queue: Any) -> None:
        # The worker's number from before the fork: by now it may have ended.
        die_with_parent(self.pid)
        yield_to_web(self.job_nice)
        super().main_work_horse(job, queue)

    def _install_signal_handlers(self) -> None:
        """Leave SIGTERM to the parent, which ends this process and gives back what it holds.

        A service manager may send it to all processes at once. RQ would end the horse then, as if
        what it did had killed it.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not SIG_IGN, which programs that a job starts would inherit.
            signal.signal(number, _pass_over)

    def setup_work_horse_signals(self) -> None:
        self._install_signal_handlers()

    def execute_job(self, job: Any, queue: Any) -> None:
        try:
            super().execute_job(job, queue)
        finally:
            # However the horse ended, it no longer works on what it held.
            if self.ledger is not None:
                release_parts(self.ledger, {self.name})

    def maintain_heartbeats(self, job: Any, execution: Any) -> None:
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as error:
            # The horse needs the ledger alone; ending with Redis would end its work too.
            log.warning("worker %s works on without Redis: %s", self.name, error)


def _pass_over(_number: int, _frame: FrameType | None) -> None:
    pass


def run_single(
    settings: Settings, name: str, queues: Sequence[str] = QUEUES, idle_s: int | None = None
) -> None:
    """Run one RQ worker until its parent ends.

    Args:
        queues: which it empties, in this order.
        idle_s: it ends by itself after so many seconds without a job. None: never.
    """
    parent = parent_of(name)
    die_with_parent(None if parent is None else parent.pid)
    work = Workplace(settings)
    random.seed()
    worker = CommitteeWorker(
        [open_queue(work, queue) for queue in queues],
        name=name,
        connection=work.redis,
        serializer=JSONSerializer,
        maintenance_interval=REDIS_MAINTENANCE_S,
    )
    worker.ledger = work.ledger
    worker.job_nice = settings.job_nice
    worker.work(logging_level="WARNING", max_idle_time=idle_s)


def release_parts(ledger: Ledger, names: Collection[str]) -> None:
    """Let the parts that dead workers held wait again at once, not when their leases run out."""
    try:
        for part in ledger.parts.release(names, died=True):
            with bound(round=part.round_id, part=part.id):
                log.warning(
                    "%s of round %d waits again: its worker ended, attempt %d",
                    *(part.stage, part.round_id, part.attempts),
                )
    except LedgerUnavailable as error:
        log.warning("what %s held waits for its lease: %s", ", ".join(names), error)
    finally:
        ledger.close()  # a connection of SQLite must not be open when the next horse is forked
