"""The clock and the jobs of a round in the test's own process, one job at a time.

torch is loaded here already, so a round takes a few seconds instead of half a minute, and nothing
happens that the test does not wait for. What only a worker process can show is tested in
test_workers.py, test_chaos.py and test_run.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from redis.exceptions import RedisError
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.worker import SimpleWorker

from backend.jobs import clock, parts
from backend.jobs.clock import Clock
from backend.jobs.queue import open_queues
from backend.jobs.safe_job import SafeJob
from backend.label_studio import client
from backend.ledger.agreement import facts_of
from backend.ledger.heartbeat import BEAT_S, Heartbeat
from backend.rounds import schedule
from backend.rounds.stages import collect
from backend.workplace import Workplace
from training.config import TrainConfig

SHORT_WAITS: tuple[tuple[Any, str, object], ...] = (
    (schedule, "QUIET_S", 0.3),
    (schedule, "PATIENCE_S", 2.0),
    (schedule, "AFTER_FAILURE_S", (0.2, 1.0)),
    (schedule, "ASK_AGAIN_S", 1.0),
    (clock, "ASK_AGAIN_S", 1.0),
    (parts, "LONGEST_DELAY_S", 0.2),
    (client, "RETRY_AFTER_S", (0.05,)),
    (collect, "TrainConfig", partial(TrainConfig, crop_px=64, batch=4)),
)
"""What people and servers are given time for, and a test would only wait out; and how much a step
of training sees: (module, name, value). The real ones are tested beside their modules.
"""


@contextmanager
def short_waits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in SHORT_WAITS:
            patch.setattr(module, name, value)
        yield


class _NoLimit(BaseDeathPenalty):
    """A job's time limit is an alarm, and pytest's own limit is the same alarm."""

    def setup_death_penalty(self) -> None: ...

    def cancel_death_penalty(self) -> None: ...


class _Worker(SimpleWorker):
    job_class = SafeJob
    death_penalty_class = _NoLimit


class LocalWorker:
    """Does what a worker's parent and its horses do, whenever ``turn`` is called.

    Args:
        work: of the test; its ledger gets this worker's heartbeats.
        environment: what a job reads its settings from.
    """

    def __init__(self, work: Workplace, environment: Mapping[str, str]) -> None:
        self._work = work
        self._environment = environment
        self._clock = Clock(work)
        gather = partial(facts_of, work.settings, "worker")
        self._heartbeat = Heartbeat(work.ledger, "worker", "the tests' own", gather)
        self._heartbeat.beat()
        self._worker = self._listen()
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="worker's heart", daemon=True)
        self._beating.start()

    def turn(self) -> bool:
        """One tick of the clock and one job; False if no job waits."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._environment.items():
                patch.setenv(name, value)
            self._clock.tick()
            try:
                if not self._work.redis.exists(self._worker.key):  # Redis was emptied
                    self._worker = self._listen()
                found = self._worker.dequeue_job_and_maintain_ttl(timeout=None)
            except RedisError:
                return False
            if found is None:
                return False
            self._worker.execute_job(*found)
            return True

    def stop(self) -> None:
        self._ended.set()
        self._beating.join()
        self._heartbeat.end()

    def _listen(self) -> _Worker:
        worker = _Worker(
            list(open_queues(self._work).values()),
            name=f"tests-{os.getpid()}",
            connection=self._work.redis,
            serializer=JSONSerializer,
        )
        worker.register_birth()
        return worker

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            self._heartbeat.beat()
            with suppress(RedisError):
                self._worker.heartbeat()
