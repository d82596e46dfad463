"""The checks of the workers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from redis import Redis
from rq import Worker

from backend.insight.findings import workers
from backend.insight.findings.finding import Installation
from backend.insight.findings.workers import check_workers
from backend.jobs.queue import open_queue
from backend.workplace import Workplace
from tests.backend.insight.findings.fake_web import codes
from tests.backend.workplaces import open_workplace
from tests.live.harness.servers import ValkeyServer


def test_no_worker_at_all_is_an_error(work: Workplace):
    assert codes(check_workers(Installation(work))) == {"workers-silent": "error"}


def test_workers_that_fell_silent_are_an_error_and_tell_since_when(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
):
    work.ledger.processes.beat("worker-a", "worker", "2 jobs", "host", 1)
    now = time.time()
    monkeypatch.setattr(workers.time, "time", lambda: now + 100)
    (found,) = check_workers(Installation(work))
    assert (found.code, found.severity) == ("workers-silent", "error")
    assert "100 s ago" in found.what


def test_one_silent_worker_of_two_is_a_warning(work: Workplace, monkeypatch: pytest.MonkeyPatch):
    work.ledger.processes.beat("worker-a", "worker", "2 jobs", "host", 1)
    now = time.time()
    monkeypatch.setattr("backend.ledger.processes.time.time", lambda: now + 100)
    work.ledger.processes.beat("worker-b", "worker", "2 jobs", "host", 2)
    assert codes(check_workers(Installation(work))) == {"workers-silent": "warning"}


def test_queues_that_no_worker_takes_are_an_error(
    tmp_path: Path, valkey: ValkeyServer, redis: Redis
):
    with open_workplace(tmp_path, redis_url=valkey.url) as work:
        work.ledger.processes.beat("worker-a", "worker", "2 jobs", "host", 1)
        taken = [open_queue(work, name) for name in ("interactive", "score")]
        Worker(taken, name="a", connection=redis).register_birth()
        (_, found) = check_workers(Installation(work))
        assert (found.code, found.severity) == ("queue-without-worker", "error")
        assert "jobs of train, refine:" in found.what


def test_without_a_sound_ledger_nothing_is_said_of_workers(work: Workplace):
    assert list(check_workers(Installation(work, ledger_sound=False))) == []
