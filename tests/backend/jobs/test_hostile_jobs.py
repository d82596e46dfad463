"""Jobs that somebody else wrote into Redis, against a real Valkey and a real worker process."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.command import send_command
from rq.exceptions import NoSuchJobError
from rq.serializers import JSONSerializer

from backend.jobs.safe_job import ALLOWED, MAX_DATA_BYTES, SafeJob
from backend.ledger import Ledger, upgrade
from backend.redis_queue import INTERACTIVE, redis_name
from tests.backend.host import Host, body
from tests.limits import wait_until
from tests.live.harness.servers import ROOT, Process, ValkeyServer

NOW = "2026-01-01T00:00:00.000000Z"
WORKER = "lab-1-0"
QUEUE = redis_name(INTERACTIVE)


class Bait:
    """A module that any process here can import, and that leaves a mark when it is touched."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder, folder / "mark"
        folder.mkdir()
        (folder / "bait.py").write_text(
            f"from pathlib import Path\nMARK = Path({str(self.mark)!r})\nMARK.touch()\n"
            "def run(*args, **kwargs):\n    MARK.write_text('ran')\n"
        )

    @property
    def untouched(self) -> bool:
        return not self.mark.exists()


@pytest.fixture
def bait(tmp_path: Path) -> Bait:
    return Bait(tmp_path / "bait")


class Pickled:
    """What runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.mark}",))


def call(name: str, args: Any = (), kwargs: Any = None, instance: Any = None) -> bytes:
    return json.dumps([name, instance, args, kwargs or {}]).encode()


def put(redis: Redis, job_id: str, data: bytes, **fields: Any) -> None:
    """Write a job's hash as a stranger would, and queue it."""
    values = {"data": data, "origin": QUEUE, "created_at": NOW, "status": "queued", **fields}
    redis.hset(f"rq:job:{job_id}", mapping=values)
    redis.rpush(f"rq:queue:{QUEUE}", job_id)


HARMLESS = call("backend.jobs.check", [999])


def hostile(bait: Bait, redis: Redis, webhook: str) -> None:
    """Everything that we know RQ to act upon, each in a job of its own."""
    command = f"touch {bait.mark}"
    put(redis, "pickle", pickle.dumps(("backend.jobs.check", None, Pickled(bait.mark), {})))
    put(redis, "packed-pickle", zlib.compress(pickle.dumps(Pickled(bait.mark))))
    put(redis, "os-system", call("os.system", [command]))
    put(redis, "subprocess", call("subprocess.getoutput", [command]))
    put(redis, "builtin", call("eval", [f"__import__('os').system({command!r})"]))
    put(redis, "own-module", call("bait.run"))
    put(redis, "beside-ours", call("backend.jobs.os.system", [command]))
    put(redis, "not-a-job", call("backend.jobs.forget_workers", [1, [2]]))
    put(redis, "method", call("format", ["{0.__class__}"], instance="backend.jobs.check"))
    put(redis, "keywords", call("backend.jobs.check", [1], {"project_id": command}))
    put(redis, "text", call("backend.jobs.run_part", ["1; DROP TABLE parts"]))
    put(redis, "odd-status", HARMLESS, status="bogus")
    put(redis, "odd-timeout", HARMLESS, timeout="soon")
    put(redis, "odd-date", HARMLESS, enqueued_at=b"\xff\xfe")
    put(redis, "odd-field", HARMLESS, **{"\udcff".encode("utf-8", "surrogatepass").hex(): "x"})
    put(redis, "deep", b"[" * 60_000)
    put(redis, "large", b" " * (MAX_DATA_BYTES + 1))
    callbacks = {f"{when}_callback_name": "bait.run" for when in ("success", "failure", "stopped")}
    both = [{"url": webhook, "job_status": status} for status in ("finished", "failed")]
    extras = {
        **callbacks,
        "webhooks": json.dumps(both),
        "meta": pickle.dumps(Pickled(bait.mark)),
        "result": pickle.dumps(Pickled(bait.mark)),
        "exc_info": zlib.compress(b"Traceback"),
        "dependency_ids": json.dumps(["os-system"]),
        "retries_left": 5,
        "retry_intervals": "[0]",
        "repeats_left": 5,
        "repeat_intervals": "[0]",
        "group_id": "group",
        "rate_limit_key": "limit",
        "rate_limit_concurrency": 1,
    }
    put(redis, "calls-back", HARMLESS, **extras)
    put(redis, "fails-and-calls-back", call("backend.jobs.check", [1, 2, 3]), **extras)
    # Abandoned: RQ's housekeeping calls its failure callback in the worker itself, at its start.
    redis.hset(
        "rq:job:abandoned",
        mapping={"data": HARMLESS, "origin": QUEUE, "status": "started", "created_at": NOW}
        | callbacks,
    )
    redis.zadd(f"rq:wip:{QUEUE}", {"abandoned:1": 1})
    redis.zadd(f"rq:scheduled:{QUEUE}", {"os-system": 1})


def worker_process(valkey: ValkeyServer, data_dir: Path, bait: Bait) -> Process:
    data_dir.mkdir(exist_ok=True)
    upgrade(f"sqlite:///{data_dir / 'ledger.sqlite3'}")
    return Process(
        # Its parent is the launcher's shell here, so it gets a name that names no process.
        [sys.executable, "-m", "backend", "worker", "--single", "single"],
        data_dir / "worker.log",
        {
            "DATA_DIR": str(data_dir),
            "REDIS_URL": valkey.url,
            "LABEL_STUDIO_URL": "http://127.0.0.1:9",
            "LABEL_STUDIO_API_KEY": "0" * 40,
            "PYTHONPATH": str(bait.folder),
        },
        cwd=ROOT,
    )


def is_done(redis: Redis) -> bool:
    return not redis.llen(f"rq:queue:{QUEUE}") and not redis.exists("rq:job:last")


def test_plain_rq_takes_the_bait(
    valkey: ValkeyServer, redis: Redis, bait: Bait, tmp_path: Path
) -> None:
    """Else the next test would prove nothing."""
    hostile(bait, redis, "http://127.0.0.1:9/")
    plain = (
        "import sys; from redis import Redis; from rq import Worker;"
        "from rq.serializers import JSONSerializer;"
        f"Worker([{QUEUE!r}], connection=Redis.from_url(sys.argv[1]), serializer=JSONSerializer)"
        ".work(burst=True, max_jobs=1)"
    )
    subprocess.run(
        [sys.executable, "-c", plain, valkey.url],
        env={**os.environ, "PYTHONPATH": str(bait.folder)},
        cwd=tmp_path,
        check=False,
        capture_output=True,
    )
    assert bait.mark.read_text() == "ran"


def test_a_worker_runs_none_of_what_a_stranger_wrote(
    valkey: ValkeyServer, redis: Redis, bait: Bait, tmp_path: Path
) -> None:
    webhook = Host()
    webhook.pages["/"] = body()
    hostile(bait, redis, f"{webhook.url}/")
    put(redis, "last", call("backend.jobs.check", [999]), result_ttl=0)
    worker = worker_process(valkey, tmp_path / "data", bait)
    try:
        wait_until(lambda: is_done(redis), 200, f"the last job:\n{worker.tail()}")
        assert worker.alive(), worker.tail()
        log = worker.log.read_text()
    finally:
        worker.stop()
        webhook.close()
    assert bait.untouched
    assert webhook.seen == []
    assert "'os.system'" in log
    assert "not one of ours" in log


def test_commands_over_redis_do_nothing_to_a_worker(
    valkey: ValkeyServer, redis: Redis, bait: Bait, tmp_path: Path
) -> None:
    """Only its parent ends it."""
    worker = worker_process(valkey, tmp_path / "data", bait)
    try:
        wait_until(lambda: redis.exists("rq:worker:single"), 120, "the worker's registration")
        listens = "rq:pubsub:single"
        wait_until(lambda: dict(redis.pubsub_numsub(listens))[listens.encode()], 30, "its ear")
        for command in ("os.system", "stop-job", "stop-execution", "kill-horse"):
            send_command(redis, "single", command, job_id="os-system", execution_id="bait.run")
        send_command(redis, "single", "shutdown")
        put(redis, "afterwards", HARMLESS)
        wait_until(lambda: not redis.exists(f"rq:queue:{QUEUE}"), 120, "the next job")
        assert worker.popen.poll() is None
    finally:
        worker.stop()
    assert bait.untouched


def test_what_our_jobs_do_not_have_is_not_read(redis: Redis, bait: Bait) -> None:
    hostile(bait, redis, "http://127.0.0.1:9/")
    job = SafeJob.fetch("calls-back", connection=redis, serializer=JSONSerializer)
    assert (job.func_name, job.args) == ("backend.jobs.check", [999])
    assert job.success_callback is job.failure_callback is job.stopped_callback is None
    assert (job.webhooks, job.meta, job.dependency, job.group_id) == ([], {}, None, None)
    assert (job.retries_left, job.repeats_left, job.rate_limit_key) == (None, None, None)
    assert bait.untouched


def test_a_strangers_job_does_not_exist(redis: Redis, bait: Bait) -> None:
    hostile(bait, redis, "http://127.0.0.1:9/")
    ours = {"calls-back", "fails-and-calls-back", "odd-field", "abandoned"}
    strangers = {key.decode().removeprefix("rq:job:") for key in redis.keys("rq:job:*")} - ours
    assert len(strangers) > 12
    for job_id in strangers:
        with pytest.raises(NoSuchJobError):
            SafeJob.fetch(job_id, connection=redis, serializer=JSONSerializer)
    assert bait.untouched


def test_our_own_jobs_come_back_as_they_were(redis: Redis) -> None:
    queue = Queue(QUEUE, connection=redis, job_class=SafeJob, serializer=JSONSerializer)
    queue.enqueue_call(
        func="backend.jobs.predict_rest",
        args=(3, 2**62),
        job_id="rest-1",
        timeout=60,
        result_ttl=0,
        failure_ttl=60,
    )
    job = queue.fetch_job("rest-1")
    assert job is not None
    assert (job.args, job.timeout, job.result_ttl) == ([3, 2**62], 60, 0)
    assert time.time() - job.enqueued_at.timestamp() < 60


def test_the_names_that_are_allowed_are_functions_of_ours() -> None:
    for name in ALLOWED:
        module, _, function = name.rpartition(".")
        assert importlib.import_module(module).__dict__[function].__module__ == "backend.jobs.jobs"


def test_a_ledgers_worth_of_facts_survives_them(tmp_path: Path) -> None:
    """Arguments are numbers by now; and even text would only ever be a value to SQL."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    upgrade(url)
    ledger = Ledger(url)
    try:
        assert ledger.parts.take("1; DROP TABLE parts", "lab") is None  # type: ignore[arg-type]
        ledger.check_schema()
    finally:
        ledger.close()
