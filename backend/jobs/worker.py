"""Workers: a parent that keeps the clock, and RQ workers that fork a horse for each job.

The parents import neither torch nor any engine: a fork must start small, and a horse brings what
its job needs. Horses step back from the cores, since two must serve while they train.
"""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from types import FrameType
from typing import Any

from redis.exceptions import RedisError
from rq import Worker
from rq.serializers import JSONSerializer

from backend.errors import LedgerUnavailable
from backend.jobs.jobs import Clock, forget_workers, known_workers, open_queue
from backend.jobs.niceness import yield_to_serving
from backend.jobs.safe_job import OurJob
from backend.ledger import Ledger
from backend.ledger.heartbeat import Heartbeat, process_id
from backend.ledger.parts import LEASE_S
from backend.process_group import die_with_parent, is_running, pid_space
from backend.settings import Settings
from backend.workplace import Workplace

log = logging.getLogger(__name__)

TICK_S = 1.0

STARTING_S = 120.0
"""So long a parent renews the leases of its workers' parts: where others keep all cores busy, a
horse may not come to it while it imports torch. Afterwards one that is silent hangs."""

SILENT_S = 60.0
"""A parent in another container that has missed six heartbeats is dead; only the ledger tells."""

SHORT_LIFE_S = 10.0
"""A worker that ends sooner after its start will end so again: half-installed code, a full disk."""

LONGEST_PAUSE_S = 30.0
"""The longest before the next of such workers; half the 60 s within which all recovers."""

_NAME = re.compile(r"(.+)-(\d+)-(\d+)-\d+")  # as of worker_name


class CommitteeWorker(Worker):
    """An RQ worker that runs our jobs and nothing else, in horses that die with it."""

    job_class = OurJob
    # RQ's own minute would let a round wait that long for a Redis that is back.
    max_connection_wait_time = 5.0
    ledger: Ledger | None = None

    def main_work_horse(self, job: Any, queue: Any) -> None:
        # Its number as it was before the fork: after it, the parent may have gone already.
        die_with_parent(self.pid)
        yield_to_serving()
        super().main_work_horse(job, queue)

    def execute_job(self, job: Any, queue: Any) -> None:
        try:
            super().execute_job(job, queue)
        finally:
            # However the horse ended, nobody is at work any more on what it held.
            if self.ledger is not None:
                _release(self.ledger, {self.name})

    def maintain_heartbeats(self, job: Any, execution: Any) -> None:
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as error:
            # The horse needs the ledger alone; to end with Redis would end its work too.
            log.warning("worker %s works on without Redis: %s", self.name, error)


def run_single(settings: Settings, name: str) -> None:
    """One RQ worker, until its parent ends."""
    parent = _parent_of(name)
    die_with_parent(None if parent is None else parent[2])
    work = Workplace(settings)
    random.seed()
    queue = open_queue(work)
    worker = CommitteeWorker(
        [queue],
        name=name,
        connection=work.redis,
        serializer=JSONSerializer,
        # A dead worker's job is the ledger's to repeat; Redis needs a broom only.
        maintenance_interval=60,
    )
    worker.ledger = work.ledger
    worker.work(logging_level="WARNING")


def worker_name(host: str, space: int, parent_pid: int, number: int) -> str:
    """The name of a parent's worker, which holds its parts in the ledger.

    Args:
        space: the parent's ``pid_space``: containers may share host name and process numbers.
    """
    return f"{host}-{space}-{parent_pid}-{number}"


def pause_after(short_lives: int) -> float:
    """Seconds before the next worker starts, after so many in a row that ended at once."""
    return min(LONGEST_PAUSE_S, 2.0 ** min(short_lives, 10) - 1)


def _parent_of(name: str) -> tuple[str, int, int] | None:
    """(host, space, process number) of a worker's parent; None if the name is not of our making."""
    found = _NAME.fullmatch(name)
    return None if found is None else (found[1], int(found[2]), int(found[3]))


def _release(ledger: Ledger, names: Collection[str]) -> None:
    """What workers that died held waits again at once, and not only when its lease runs out."""
    try:
        ledger.parts.release(names, died=True)
    except LedgerUnavailable as error:
        log.warning("what %s held waits for its lease: %s", ", ".join(names), error)
    finally:
        ledger.close()  # a connection of SQLite must not be open when the next horse is forked


class WorkerParent:
    """Starts the RQ workers of this machine, keeps them running, and ticks the clock.

    Args:
        count: RQ workers side by side.
    """

    def __init__(self, settings: Settings, count: int) -> None:
        self._settings = settings
        self._count = count
        self._work = Workplace(settings)
        self._host = socket.gethostname()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._born_at: dict[str, float] = {}
        self._short_lives = 0
        self._next_birth_at = float("-inf")
        self._space = pid_space()
        self._started = 0
        self._buried_at = float("-inf")
        self._renewed_at = float("-inf")
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
                self._release_orphans()
                self._keep_children()
                clock.tick()
                self._renew_young_leases()
                heartbeat.beat()
                self._alive.touch()
                self._stop.wait(TICK_S)
        finally:
            self._shut_down(heartbeat)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _keep_children(self) -> None:
        now = time.monotonic()
        ended = {name for name, child in self._children.items() if child.poll() is not None}
        for name in ended:
            status = self._children.pop(name).returncode
            lived_s = now - self._born_at.pop(name)
            self._short_lives = self._short_lives + 1 if lived_s < SHORT_LIFE_S else 0
            pause_s = pause_after(self._short_lives)
            self._next_birth_at = now + pause_s
            log.warning(
                "worker %s ended with %s after %.0f s: another starts in %.0f s",
                *(name, status, lived_s, pause_s),
            )
        self._release_dead_workers(ended)
        if len(self._children) == self._count or now < self._next_birth_at:
            return
        if not self._redis_answers():
            return  # a worker without its Redis would end at once, and the next, and the next
        while len(self._children) < self._count:
            # A new name each time: the old one is still registered in Redis.
            name = worker_name(self._host, self._space, os.getpid(), self._started)
            self._started += 1
            self._born_at[name] = now
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", "backend", "worker", "--single", name],
                start_new_session=True,
            )

    def _renew_young_leases(self) -> None:
        """Keep what the workers took of late, whose deaths would have been seen."""
        if not self._children or time.monotonic() - self._renewed_at < LEASE_S / 6:
            return
        self._renewed_at = time.monotonic()
        try:
            self._work.ledger.parts.renew_young(set(self._children), STARTING_S)
        except LedgerUnavailable as error:
            log.warning("leases not renewed: %s", error)

    def _release_orphans(self) -> None:
        """At the start, and again for those whose parent had not been silent for long by then."""
        if time.monotonic() - self._buried_at < SILENT_S:
            return
        self._buried_at = time.monotonic()
        try:
            self._release_dead_workers(self._orphaned())
        except LedgerUnavailable as error:
            log.warning("what killed workers held waits for its lease: %s", error)

    def _orphaned(self) -> set[str]:
        """The workers of parents that were killed on this machine, none of them our own.

        Those of our own number too: a container that starts again may give the same ones. Where a
        container shares the machine's name, its processes cannot be seen from here.
        """
        names = self._work.ledger.parts.holders()
        try:
            names |= known_workers(open_queue(self._work))
        except RedisError as error:
            log.warning("RQ will forget its dead workers itself: %s", error)
        since = time.time() - SILENT_S
        heard = {each.id for each in self._work.ledger.processes.all() if each.seen_at > since}

        def is_dead(name: str) -> bool:
            parent = _parent_of(name)
            if parent is None or parent[0] != self._host:
                return False
            _, space, pid = parent
            if space == self._space:
                return pid == os.getpid() or not is_running(pid)
            return process_id("worker", self._host, space, pid) not in heard

        return {name for name in names - set(self._children) if is_dead(name)}

    def _release_dead_workers(self, names: Collection[str]) -> None:
        """Take from workers that died what they held, in the ledger and in Redis."""
        if not names:
            return
        _release(self._work.ledger, names)
        try:
            forget_workers(open_queue(self._work), names)
        except RedisError as error:
            log.warning("RQ will forget %s and their jobs itself: %s", ", ".join(names), error)

    def _redis_answers(self) -> bool:
        try:
            return bool(self._work.redis.ping())
        except RedisError as error:
            log.warning("no worker starts without Redis: %s", error)
            return False

    def _shut_down(self, heartbeat: Heartbeat) -> None:
        for child in self._children.values():
            # Its horse dies with it; what the horse had not finished is another's to repeat.
            child.kill()
        for child in self._children.values():
            child.wait()
        self._alive.unlink(missing_ok=True)
        try:
            self._work.ledger.parts.release(set(self._children), died=False)
            heartbeat.end()
        except LedgerUnavailable as error:
            log.warning("leaving without a word to the ledger: %s", error)
        self._work.close()
