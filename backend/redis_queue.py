"""The queue of our jobs in Redis, and which workers are registered for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis import Redis

QUEUE = "committee"


def registered_workers(redis: Redis) -> set[str]:
    """The names of the workers that Redis knows, dead ones that never signed off among them."""
    from rq import Queue, Worker

    prefix = Worker.redis_worker_namespace_prefix
    keys = Worker.all_keys(queue=Queue(QUEUE, connection=redis))
    return {key.removeprefix(prefix) for key in keys}
