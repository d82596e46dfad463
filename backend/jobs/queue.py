"""Jobs into Redis, and dead workers out of it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from redis import Redis
from rq import Queue, Worker
from rq.exceptions import NoSuchJobError
from rq.serializers import JSONSerializer

from backend.jobs.safe_job import SafeJob
from backend.ledger import Part
from backend.ledger.shapes import Stage
from backend.redis_queue import (
    INTERACTIVE,
    OLD_QUEUE,
    QUEUES,
    REFINE,
    SCORE,
    TRAIN,
    TRAIN_GPU,
    redis_name,
    registered_workers,
)
from backend.workplace import Workplace

JOB_TIMEOUT_S = 6 * 3600
"""RQ ends a job after this; a stalled one loses its lease long before."""

QUEUE_OF_JOB = {"check": INTERACTIVE, "predict_rest": INTERACTIVE, "clean": REFINE, "track": REFINE}

QUEUE_OF_STAGE: Mapping[Stage, str] = {
    "collect": TRAIN,
    "judge": SCORE,
    "fit": TRAIN,
    "assemble": TRAIN,
    "choose": SCORE,
    "score": SCORE,
    "publish": SCORE,
}
"""A member that is trained goes to ``TRAIN_GPU`` where a worker listens there."""

AT_FRONT: frozenset[Stage] = frozenset({"collect", "assemble"})
"""One part of each round, between others' members; there are never more than projects."""

SAME_TURN: tuple[frozenset[Stage], ...] = (
    frozenset({"fit"}),
    AT_FRONT,
    frozenset(stage for stage, queue in QUEUE_OF_STAGE.items() if queue == SCORE),
)
"""Stages whose jobs do one another's parts: those of a queue, but what may train on a GPU."""

GPU_PATIENCE_S = 60.0
"""How long a member waits for a GPU before a CPU may train it as well: one that a CPU begins sooner
than it could have ended it by itself (FIT_SECONDS is 40) would often be ready later."""


def open_queue(work: Workplace, name: str) -> Queue:
    """One of ``QUEUES``."""
    return _queue(work.redis, redis_name(name))


def open_queues(work: Workplace) -> dict[str, Queue]:
    """All of ``QUEUES``, by name."""
    return {name: open_queue(work, name) for name in QUEUES}


def _queue(redis: Redis, name: str) -> Queue:
    return Queue(name, connection=redis, job_class=SafeJob, serializer=JSONSerializer)


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


def deliver_parts(work: Workplace) -> None:
    """Put every waiting part into Redis, once; again when Redis lost it."""
    waiting = work.ledger.parts.waiting(work.server)
    if not waiting:
        return
    queues = open_queues(work)
    # The ids of jobs are "part-<id>-<delivery>".
    queued = {
        name: {job_id.rpartition("-")[0] for job_id in queue.get_job_ids()}
        for name, queue in queues.items()
    }
    has_gpu = bool(registered_workers(work.redis, TRAIN_GPU))
    for part in waiting:
        holding = {name for name, parts in queued.items() if f"part-{part.id}" in parts}
        name = _queue_for(part, has_gpu=has_gpu, in_vain=TRAIN_GPU in holding)
        if holding and (name in holding or holding != {TRAIN_GPU}):
            continue
        job_id, at_front = f"part-{part.id}-{part.deliveries}", part.stage in AT_FRONT
        enqueue(queues[name], "run_part", (part.id,), job_id, at_front=at_front)
        work.ledger.parts.mark_delivered(part.id)


def _queue_for(part: Part, *, has_gpu: bool, in_vain: bool) -> str:
    """Where a part belongs now.

    Args:
        has_gpu: a worker listens on ``TRAIN_GPU``, or died there minutes ago.
        in_vain: the part waits there already.
    """
    if part.stage != "fit" or not has_gpu:
        return QUEUE_OF_STAGE[part.stage]
    waits_s = time.time() - (part.delivered_at or 0.0)
    return TRAIN if in_vain and waits_s > GPU_PATIENCE_S else TRAIN_GPU


def hand_on_old_jobs(work: Workplace) -> None:
    """Put what an earlier release left in its one queue where today's workers find it.

    Parts of rounds are delivered again from the ledger.
    """
    old = _queue(work.redis, OLD_QUEUE)
    while old.count:
        try:
            job_id = old.pop_job_id()
            job = None if job_id is None else old.fetch_job(job_id)
        except ValueError:  # an id that no job can have: a stranger's
            continue
        if job is None:
            continue
        name = QUEUE_OF_JOB.get(str(job.func_name).rpartition(".")[2])
        if name is None:
            job.delete()
        else:
            open_queue(work, name).enqueue_job(job)


def is_queued_or_running(queue: Queue, prefix: str) -> bool:
    """Whether a job whose id starts with ``prefix`` waits for a worker or has one."""
    known = (*queue.get_job_ids(), *queue.started_job_registry.get_job_ids(cleanup=False))
    return any(job_id.startswith(prefix) for job_id in known)


def remove_workers(redis: Redis, names: Collection[str]) -> None:
    """Take workers that were killed out of Redis, with the jobs that they had begun.

    RQ itself would call both alive for minutes more.
    """
    for name in names:
        worker = Worker.find_by_key(
            f"{Worker.redis_worker_namespace_prefix}{name}",
            connection=redis,
            serializer=JSONSerializer,
        )
        if worker is None:
            continue
        with redis.pipeline() as pipeline:
            for execution in worker.get_current_executions():
                try:
                    job = SafeJob.fetch(execution.job_id, redis, serializer=JSONSerializer)
                except NoSuchJobError:
                    continue
                execution.delete(job, pipeline)
                job.delete(pipeline=pipeline)
                # Only a worker that has one queue keeps what it takes there.
                intermediate = _queue(redis, job.origin).intermediate_queue_key
                pipeline.lrem(intermediate, 1, job.id)
            pipeline.execute()
        worker.register_death()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
