"""The queues of our jobs in Redis, and which workers are registered for them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis import Redis

INTERACTIVE, TRAIN, TRAIN_GPU = "interactive", "train", "train-gpu"
SCORE, REFINE = "score", "refine"

QUEUES = (INTERACTIVE, TRAIN, TRAIN_GPU, SCORE, REFINE)
"""The order in which a worker empties them."""

OLD_QUEUE = "committee"
"""Where releases up to 0.2 put all jobs; the clock hands on what it finds there."""


def redis_name(queue: str) -> str:
    """A queue's name in Redis, which others may share."""
    return f"committee-{queue}"


_ALL = (*map(redis_name, QUEUES), OLD_QUEUE)


def registered_workers(redis: Redis, queue: str | None = None) -> set[str]:
    """The names of the workers that Redis knows, dead ones that never signed off among them.

    Args:
        queue: only of those that take this one's jobs.
    """
    from rq import Queue, Worker

    prefix = Worker.redis_worker_namespace_prefix
    names: Collection[str] = _ALL if queue is None else (redis_name(queue),)
    return {
        key.removeprefix(prefix)
        for name in names
        for key in Worker.all_keys(queue=Queue(name, connection=redis))
    }
