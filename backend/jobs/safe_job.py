"""A job as it comes out of Redis: one of our functions, numbers, a time limit, and nothing else.

Whoever can write to Redis can write jobs. RQ would import and call the callbacks that a job names,
some of them in the worker's own process and before any job runs, and would send the web requests
that it asks for. So fields that our jobs do not have are not read, and a job that is not ours does
not exist.
"""

from __future__ import annotations

import logging
from typing import Any

from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.utils import decode_redis_hash

log = logging.getLogger(__name__)

ALLOWED = frozenset(
    f"backend.jobs.{function}"
    for function in ("check", "run_part", "predict_rest", "clean", "track")
)
"""All that a worker runs, whatever stands in Redis."""

_READ = frozenset(
    {
        *("data", "origin", "description", "status", "worker_name", "timeout", "ttl"),
        *("created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat"),
        *("result_ttl", "failure_ttl", "enqueue_at_front"),
    }
)
"""The fields of our jobs. The others hold callbacks, webhooks, dependencies, retries, repeats."""

MAX_DATA_BYTES = 4096
"""Ours have some eighty; zlib makes at most 4 MiB of these."""


class SafeJob(Job):
    """An RQ job that is one of ours, or does not exist."""

    def restore(self, raw_data: dict[bytes | str, Any]) -> None:
        """Take over what Redis holds.

        Raises:
            NoSuchJobError: it is no job of ours; RQ then passes it over.
        """
        try:
            fields = decode_redis_hash(raw_data)
            if len(fields.get("data", b"")) > MAX_DATA_BYTES:
                raise ValueError(f"its data are longer than {MAX_DATA_BYTES} bytes")
            super().restore({name: value for name, value in fields.items() if name in _READ})
            _check(self)
        # Hostile bytes can make RQ raise anything, an AssertionError for one. It must not end the
        # worker, which would meet the same job again.
        except Exception as error:
            reason = str(error)[:200] or type(error).__name__
            log.error("job %.80r in Redis is not one of ours (%s): passed over", self.id, reason)
            raise NoSuchJobError(f"no job of ours: {reason}") from error


def _check(job: Job) -> None:
    if job.func_name not in ALLOWED or job.instance is not None:
        raise ValueError(f"it names {job.func_name!r}")
    if job.kwargs or not isinstance(job.args, list) or any(type(a) is not int for a in job.args):
        raise ValueError("its arguments are not numbers")
