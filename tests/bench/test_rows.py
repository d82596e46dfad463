"""Every row of `make bench` runs: the rows without servers here, the others in tests/live."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench import harness, large_pool, rows_pool, rows_workers
from tests.live.harness.local_worker import LocalWorker


@contextmanager
def worker_in_this_process(
    at: rows_workers.Site, _queue: str, _count: int
) -> Iterator[Callable[[], object]]:
    worker = LocalWorker(at.work, at.environment)
    try:
        yield worker.turn
    finally:
        worker.stop()
        at.work.redis.flushall()


@pytest.mark.filterwarnings("ignore:`structlog.threadlocal` is deprecated")  # baal's import
def test_each_row_without_servers_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.load_rows()
    rows = [one for one in harness.choose([]) if not one.live]
    monkeypatch.setattr(harness, "SAMPLE_S", 0.0)  # one call a sample
    monkeypatch.setattr(harness, "probe_s", lambda: 1.0)  # how quiet the machine is, is not asked
    monkeypatch.setattr(rows_workers, "workers", worker_in_this_process)
    monkeypatch.setattr(rows_pool, "apart", lambda *given: list(large_pool.measure(*given)))
    harness.run(rows, tmp_path / "bench.json", small=True)
    entries = json.loads((tmp_path / "bench.json").read_text())
    assert [one["name"] for one in entries] == [one.name for one in rows]
    assert [one for one in entries if "error" in one] == []
