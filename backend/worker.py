"""Workers: a parent that keeps the clock, and RQ workers that fork a horse for each job.

The parents import neither torch nor any engine: a fork must start small, and a horse brings what
its job needs. Horses run niced, since two cores must serve while they train.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from rq import Worker
from rq.exceptions import InvalidJobOperation
from rq.serializers import JSONSerializer

from backend.errors import LedgerUnavailable
from backend.heartbeat import Heartbeat
from backend.jobs import ALLOWED, Clock, open_queue
from backend.lifeline import die_with_parent
from backend.settings import Settings
from backend.workplace import Workplace

log = logging.getLogger(__name__)

NICE = 10
"""Training and scoring yield to the web and to Label Studio."""

TICK_S = 1.0


class CommitteeWorker(Worker):
    """An RQ worker that runs our jobs and nothing else, in horses that die with it."""

    def main_work_horse(self, job: Any, queue: Any) -> None:
        die_with_parent(os.getppid())
        os.nice(NICE)
        super().main_work_horse(job, queue)

    def perform_job(self, job: Any, queue: Any, execution: Any) -> bool:
        if job.func_name not in ALLOWED:
            error = InvalidJobOperation(f"{job.func_name} is no job of this project; refused.")
            log.error("%s", error)
            self.handle_job_failure(job, queue, exc_string=str(error), execution=execution)
            return False
        return bool(super().perform_job(job, queue, execution))


def run_single(settings: Settings, name: str) -> None:
    """One RQ worker, until its parent ends."""
    die_with_parent()
    work = Workplace(settings)
    random.seed()
    queue = open_queue(work)
    CommitteeWorker(
        [queue],
        name=name,
        connection=work.redis,
        serializer=JSONSerializer,
        # A dead worker's job is the ledger's to repeat; Redis needs a broom only.
        maintenance_interval=60,
    ).work(logging_level="WARNING")


class WorkerParent:
    """Starts the RQ workers of this machine, keeps them running, and ticks the clock.

    Args:
        count: RQ workers side by side.
    """

    def __init__(self, settings: Settings, count: int) -> None:
        self._settings = settings
        self._count = count
        self._work = Workplace(settings)
        self._prefix = f"{socket.gethostname()}-{os.getpid()}-"
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0
        self._stop = threading.Event()
        self._alive = Path(settings.data_dir) / "run" / f"worker-{os.getpid()}.alive"

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then everything started here is gone within a second."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._work.ledger.check_schema()
        self._alive.parent.mkdir(parents=True, exist_ok=True)
        clock = Clock(self._work)
        heartbeat = Heartbeat(self._work.ledger, "worker", f"{self._count} jobs side by side")
        log.info("%d workers, clock ticking", self._count)
        try:
            while not self._stop.is_set():
                self._keep_children()
                clock.tick()
                heartbeat.beat()
                self._alive.touch()
                self._stop.wait(TICK_S)
        finally:
            self._shut_down(heartbeat)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _keep_children(self) -> None:
        for name, child in list(self._children.items()):
            if child.poll() is not None:
                log.warning("worker %s ended with %s: starting another", name, child.returncode)
                del self._children[name]
        while len(self._children) < self._count:
            # A new name each time: the old one is still registered in Redis.
            name = f"{self._prefix}{self._started}"
            self._started += 1
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", "backend", "worker", "--single", name],
                start_new_session=True,
            )

    def _shut_down(self, heartbeat: Heartbeat) -> None:
        for child in self._children.values():
            # Its horse dies with it; what the horse had not finished is another's to repeat.
            child.kill()
        for child in self._children.values():
            child.wait()
        self._alive.unlink(missing_ok=True)
        try:
            self._work.ledger.release_parts(self._prefix)
            heartbeat.end()
        except LedgerUnavailable as error:
            log.warning("leaving without a word to the ledger: %s", error)
        self._work.close()
