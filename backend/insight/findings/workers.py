"""Checks that somebody will run the jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator

from redis.exceptions import RedisError

from backend.errors import BadSettings
from backend.insight.findings.finding import Finding, Installation, error, ok, warning
from backend.insight.status import SILENT_AFTER_S
from backend.redis_queue import QUEUES, TRAIN_GPU, registered_workers
from backend.workplace import Workplace


def check_workers(installation: Installation) -> Iterator[Finding]:
    """Whether workers are alive, by their reports to the ledger and their names in Redis."""
    if not installation.ledger_sound:
        return
    work = installation.work
    now = time.time()
    silent_s = [
        now - process.seen_at for process in work.ledger.processes.all() if process.role == "worker"
    ]
    alive = sum(silent < SILENT_AFTER_S for silent in silent_s)
    if not alive:
        last = f"; the last reported {min(silent_s):.0f} s ago" if silent_s else ""
        yield error(
            "workers-silent",
            f"No worker is alive{last}: nothing trains and nothing is ranked.",
            "Start `make run` or `python -m backend worker`.",
        )
        return
    if alive < len(silent_s):
        yield warning(
            "workers-silent",
            f"{len(silent_s) - alive} of {len(silent_s)} worker processes are silent.",
            "Read their log; an ended one leaves this list after two minutes to an hour.",
        )
    else:
        yield ok("workers", f"{alive} worker processes are alive.")
    yield from _elsewhere(work)


def _elsewhere(work: Workplace) -> Iterator[Finding]:
    """Workers that share our ledger but not our Redis never get what the web queues, nor do those
    that were told to take other queues."""
    try:
        listening = registered_workers(work.redis)
        # Without a GPU members are trained by those who take `train`.
        idle = [q for q in QUEUES if q != TRAIN_GPU and not registered_workers(work.redis, q)]
    except (RedisError, BadSettings):
        return  # check_redis reports it
    if not listening:
        yield warning(
            "workers-elsewhere",
            "Workers are alive by the ledger, but none is registered in our Redis.",
            "Give workers the same REDIS_URL as this command; just after a start, ask again.",
        )
    elif idle:
        yield error(
            "queue-without-worker",
            f"No worker takes jobs of {', '.join(idle)}: they wait for ever.",
            "Name them in --queues of a `python -m backend worker`, or leave that option out.",
        )
