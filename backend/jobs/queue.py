"""Jobs into Redis, and dead workers out of it."""

from __future__ import annotations

from collections.abc import Collection

from rq import Queue, Worker
from rq.serializers import JSONSerializer

from backend.jobs.safe_job import SafeJob
from backend.redis_queue import QUEUE
from backend.workplace import Workplace

JOB_TIMEOUT_S = 6 * 3600
"""RQ ends a job after this; a stalled one loses its lease long before."""


def open_queue(work: Workplace) -> Queue:
    return Queue(QUEUE, connection=work.redis, job_class=SafeJob, serializer=JSONSerializer)


def enqueue(
    queue: Queue, function: str, arguments: tuple[int, ...], job_id: str, *, at_front: bool = False
) -> None:
    """Put a job into Redis.

    Args:
        function: one of ``backend.jobs``.
        arguments: ledger ids; everything else is read from the ledger.
    """
    queue.enqueue_call(
        func=f"backend.jobs.{function}",
        args=arguments,
        job_id=job_id,
        timeout=JOB_TIMEOUT_S,
        # A finished or failed job keeps its id until it expires, and would hide the next.
        result_ttl=0,
        failure_ttl=60,
        at_front=at_front,
    )


def deliver_parts(work: Workplace, queue: Queue) -> None:
    """Put every waiting part into Redis, once; again when Redis lost it."""
    waiting = work.ledger.parts.waiting(work.server)
    if not waiting:
        return
    queued = set(queue.get_job_ids())
    for part in waiting:
        if any(job_id.startswith(f"part-{part.id}-") for job_id in queued):
            continue
        enqueue(queue, "run_part", (part.id,), f"part-{part.id}-{part.deliveries}")
        work.ledger.parts.mark_delivered(part.id)


def is_queued_or_running(queue: Queue, prefix: str) -> bool:
    """Whether a job whose id starts with ``prefix`` waits for a worker or has one."""
    known = (*queue.get_job_ids(), *queue.started_job_registry.get_job_ids(cleanup=False))
    return any(job_id.startswith(prefix) for job_id in known)


def remove_workers(queue: Queue, names: Collection[str]) -> None:
    """Take workers that were killed out of Redis, with the jobs that they had begun.

    RQ itself would call both alive for minutes more.
    """
    for name in names:
        worker = Worker.find_by_key(
            f"{Worker.redis_worker_namespace_prefix}{name}",
            connection=queue.connection,
            serializer=JSONSerializer,
        )
        if worker is None:
            continue
        with queue.connection.pipeline() as pipeline:
            for execution in worker.get_current_executions():
                job = queue.fetch_job(execution.job_id)
                if job is not None:
                    execution.delete(job, pipeline)
                    job.delete(pipeline=pipeline)
                    pipeline.lrem(queue.intermediate_queue_key, 1, job.id)
            pipeline.execute()
        worker.register_death()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
