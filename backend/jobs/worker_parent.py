"""The parent of a machine's workers: it keeps them running and ticks the clock."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from redis.exceptions import RedisError

from backend.errors import LedgerUnavailable
from backend.jobs.clock import Clock
from backend.jobs.gpu import queues_here
from backend.jobs.names import parent_of, worker_name
from backend.jobs.queue import remove_workers
from backend.jobs.worker import release_parts
from backend.ledger.agreement import facts_of
from backend.ledger.heartbeat import Heartbeat, process_id
from backend.ledger.parts import LEASE_S
from backend.process_group import is_running, pid_space
from backend.redis_queue import INTERACTIVE, registered_workers
from backend.settings import Settings
from backend.workplace import Workplace

log = logging.getLogger(__name__)

TICK_S = 1.0

STARTING_S = 120.0
"""A parent renews the leases of its workers' parts for so long: where other programs keep all cores
busy, a horse may not come to it while it imports torch. Afterwards a silent one hangs."""

SILENT_S = 60.0
"""A parent in another container that missed six heartbeats is dead: only the ledger can tell."""

SHORT_LIFE_S = 10.0
"""A worker that ends sooner after its start will end so again: half-installed code, a full disk."""

LONGEST_PAUSE_S = 30.0
"""The longest wait before the next of such workers; half the 60 s within which all recovers."""


def pause_after(short_lives: int) -> float:
    """Seconds before the next worker starts, after so many in a row that ended at once."""
    return min(LONGEST_PAUSE_S, 2.0 ** min(short_lives, 10) - 1)


class WorkerParent:
    """Starts the RQ workers of this machine, keeps them running, and ticks the clock.

    Args:
        count: RQ workers side by side.
        queues: whose jobs they do, in this order. None: all there are, but those for a GPU where
            there is none.
        idle_s: an RQ worker without a job for so many seconds ends and is not replaced; the last
            one ends the parent. None: never.
    """

    def __init__(
        self,
        settings: Settings,
        count: int,
        queues: Sequence[str] | None = None,
        idle_s: int | None = None,
    ) -> None:
        self._idle_s = idle_s
        self._queues = tuple(queues or queues_here())
        self._wanted = [self._queues] * count
        if INTERACTIVE in self._queues and len(self._queues) > 1:
            # What somebody waits for begins at once, while all others train.
            self._wanted.append((INTERACTIVE,))
        self._work = Workplace(settings)
        self._host = socket.gethostname()
        self._space = pid_space()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._queues_of: dict[str, tuple[str, ...]] = {}
        self._started_at: dict[str, float] = {}
        self._started = 0
        self._short_lives = 0
        self._next_start_at = float("-inf")
        self._orphans_checked_at = float("-inf")
        self._renewed_at = float("-inf")
        self._stop = threading.Event()
        self._alive_file = Path(settings.data_dir) / "run" / f"worker-{os.getpid()}.alive"

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, or until all are idle; then everything started here ends
        within a second."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._work.ledger.check_schema()
        self._alive_file.parent.mkdir(parents=True, exist_ok=True)
        clock = Clock(self._work)
        count = self._wanted.count(self._queues)
        heartbeat = Heartbeat(
            *(self._work.ledger, "worker", f"{count} jobs side by side"),
            partial(facts_of, self._work.settings, "worker"),
        )
        log.info("%d workers for %s, clock ticking", count, ", ".join(self._queues))
        try:
            while self._wanted and not self._stop.is_set():
                self._release_orphans()
                self._keep_children()
                clock.tick()
                self._renew_young_leases()
                heartbeat.beat()
                self._alive_file.touch()
                self._stop.wait(TICK_S)
        finally:
            self._shut_down(heartbeat)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _keep_children(self) -> None:
        now = time.monotonic()
        ended = {name for name, child in self._children.items() if child.poll() is not None}
        for name in ended:
            self._note_end(name, now)
        self._release_dead_workers(ended)
        missing = Counter(self._wanted) - Counter(self._queues_of.values())
        if not missing or now < self._next_start_at:
            return
        if not self._redis_answers():
            return  # without its Redis a worker would end at once, and its successors too
        for queues in missing.elements():
            self._start_child(queues, now)

    def _note_end(self, name: str, now: float) -> None:
        status = self._children.pop(name).returncode
        queues, lived_s = self._queues_of.pop(name), now - self._started_at.pop(name)
        if self._idle_s is not None and status == 0:
            log.info("worker %s ended: no job for %d s", name, self._idle_s)
            self._wanted.remove(queues)
            return
        self._short_lives = self._short_lives + 1 if lived_s < SHORT_LIFE_S else 0
        pause_s = pause_after(self._short_lives)
        self._next_start_at = now + pause_s
        log.warning(
            "worker %s ended with %s after %.0f s: another starts in %.0f s",
            *(name, status, lived_s, pause_s),
        )

    def _start_child(self, queues: tuple[str, ...], now: float) -> None:
        # A new name each time: the old one is still registered in Redis.
        name = worker_name(self._host, self._space, os.getpid(), self._started)
        self._started += 1
        self._queues_of[name], self._started_at[name] = queues, now
        burst = () if self._idle_s is None else ("--burst", str(self._idle_s))
        self._children[name] = subprocess.Popen(
            [
                *(sys.executable, "-m", "backend", "worker"),
                *("--single", name, "--queues", ",".join(queues), *burst),
            ],
            process_group=0,  # not a session: niceness.py
        )

    def _renew_young_leases(self) -> None:
        """Renew what the workers took lately; their deaths would have been noticed."""
        if not self._children or time.monotonic() - self._renewed_at < LEASE_S / 6:
            return
        self._renewed_at = time.monotonic()
        try:
            self._work.ledger.parts.renew_young(set(self._children), STARTING_S)
        except LedgerUnavailable as error:
            log.warning("leases not renewed: %s", error)

    def _release_orphans(self) -> None:
        """At the start, and regularly: a parent may not have been silent for long at the start."""
        if time.monotonic() - self._orphans_checked_at < SILENT_S:
            return
        self._orphans_checked_at = time.monotonic()
        try:
            self._release_dead_workers(self._orphans())
        except LedgerUnavailable as error:
            log.warning("what killed workers held waits for its lease: %s", error)

    def _orphans(self) -> set[str]:
        """The workers of parents that were killed on this machine, none of them our own.

        Those of our own process number too: a restarted container may give the same ones. Where a
        container shares the machine's name, its processes cannot be seen from here.
        """
        names = self._work.ledger.parts.holders()
        try:
            names |= registered_workers(self._work.redis)
        except RedisError as error:
            log.warning("RQ will forget its dead workers itself: %s", error)
        since = time.time() - SILENT_S
        alive = {each.id for each in self._work.ledger.processes.all() if each.seen_at > since}
        return {name for name in names - set(self._children) if self._is_dead(name, alive)}

    def _is_dead(self, name: str, alive: Collection[str]) -> bool:
        """Whether a worker's parent ran here and has ended.

        Args:
            alive: ids of the processes that the ledger has heard of lately.
        """
        parent = parent_of(name)
        if parent is None or parent.host != self._host:
            return False
        if parent.space == self._space:
            return parent.pid == os.getpid() or not is_running(parent.pid)
        return process_id("worker", self._host, parent.space, parent.pid) not in alive

    def _release_dead_workers(self, names: Collection[str]) -> None:
        """Take from workers that died what they held, in the ledger and in Redis."""
        if not names:
            return
        release_parts(self._work.ledger, names)
        try:
            remove_workers(self._work.redis, names)
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
            # Its horse dies with it; another worker repeats what the horse had not finished.
            child.kill()
        for child in self._children.values():
            child.wait()
        self._alive_file.unlink(missing_ok=True)
        names = set(self._children)
        try:
            for part in self._work.ledger.parts.release(names, died=False):
                log.info("%s of round %d waits for another worker", part.stage, part.round_id)
        except LedgerUnavailable as error:
            log.warning("what %s held waits for its lease: %s", ", ".join(names), error)
        heartbeat.end()
        try:
            # Else RQ would call their jobs begun for minutes, and no check would be asked for.
            remove_workers(self._work.redis, names)
        except RedisError as error:
            log.warning("RQ will forget %s and their jobs itself: %s", ", ".join(names), error)
        self._work.close()
