"""The parent of a host's workers, as a process of its own, with a real Valkey."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from redis import Redis

from backend.jobs.queue import enqueue, open_queue
from tests.backend.workplaces import GIVEN, open_workplace
from tests.limits import scaled
from tests.live.harness.servers import ROOT, ValkeyServer


def test_with_burst_workers_do_what_there_is_and_end(
    tmp_path: Path, valkey: ValkeyServer, redis: Redis
) -> None:
    given = {**GIVEN, "redis_url": valkey.url, "data_dir": tmp_path, "workers": 1}
    with open_workplace(tmp_path, redis_url=valkey.url) as work:
        enqueue(open_queue(work, "refine"), "clean", (1,), "clean-1")
        ended = subprocess.run(
            [sys.executable, "-m", "backend", "worker", "--queues", "refine", "--burst", "1"],
            cwd=ROOT,
            env={**os.environ, **{name.upper(): str(value) for name, value in given.items()}},
            capture_output=True,
            text=True,
            timeout=scaled(120),
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert open_queue(work, "refine").count == 0
        assert "ended: no job for 1 s" in ended.stderr
        assert not list((tmp_path / "run").iterdir())  # no sign of life is left
