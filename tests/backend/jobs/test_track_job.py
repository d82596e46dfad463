"""MLflow is told in a job of its own, after a training round and again every hour."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from backend.jobs import clean, run_part, track
from backend.jobs.queue import open_queue
from backend.ledger import Outcome
from backend.ledger.shapes import RoundKind
from backend.redis_queue import REFINE
from backend.rounds import stages
from backend.workplace import Workplace
from tests.backend.workplaces import SERVER, open_workplace
from tests.live.harness.servers import ValkeyServer


@pytest.fixture
def work(
    tmp_path: Path, valkey: ValkeyServer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workplace]:
    fields = {"redis_url": valkey.url, "mlflow_tracking_uri": "http://127.0.0.1:1"}
    with open_workplace(tmp_path, **fields) as opened:
        jobs = sys.modules["backend.jobs.jobs"]
        monkeypatch.setattr(jobs, "load_settings", lambda: opened.settings)
        monkeypatch.setattr(stages, "RUN", {"publish": lambda *_: Outcome()})
        monkeypatch.setattr(stages, "clear_up", lambda *_: None)
        yield opened


@pytest.mark.parametrize(("kind", "jobs"), [("train", ["track-1"]), ("rank", [])])
def test_a_training_round_that_ended_is_told_by_a_job_of_its_own(
    work: Workplace, kind: RoundKind, jobs: list[str]
) -> None:
    row = work.ledger.projects.ensure(SERVER, 7, 1)
    started = work.ledger.rounds.start(row.id, kind, "test", "publish")
    assert started is not None
    (part,) = work.ledger.parts.of_round(started.id)
    run_part(part.id)
    assert open_queue(work, REFINE).get_job_ids() == jobs


def test_the_job_and_the_hourly_cleaning_tell_it(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    jobs = sys.modules["backend.jobs.jobs"]
    monkeypatch.setattr(jobs, "track_versions", lambda _work, project: told.append(project.id))
    monkeypatch.setattr(jobs, "clean_project", lambda *_: None)
    row = work.ledger.projects.ensure(SERVER, 7, 1)
    track(row.id)
    clean(row.id)
    track(row.id + 1)  # of no project
    assert told == [row.id, row.id]
