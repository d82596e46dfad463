"""The jobs that workers run, and how they get to them.

Redis carries numbers only; what a job does is read from the ledger. A part may be delivered twice
or never: the lease keeps the first harmless, the clock's next tick mends the second.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError
from rq import Queue, Worker, get_current_job
from rq.serializers import JSONSerializer

from backend.errors import (
    BackendError,
    LeaseLost,
    LedgerUnavailable,
    StudioRefused,
    StudioUnreachable,
    UnknownProject,
)
from backend.jobs.safe_job import OurJob
from backend.ledger import START, Event, Ledger, Part, Project, Round
from backend.ledger.parts import LEASE_S, LONGEST_DELAY_S
from backend.ledger.shapes import RoundKind, Stage
from backend.rounds.retention import prune
from backend.rounds.schedule import ASK_AGAIN_S, FORCING, PREDICT_REST, check_is_due, check_project
from backend.settings import load_settings
from backend.workplace import Workplace
from training.errors import TrainingError

log = logging.getLogger(__name__)

QUEUE = "committee"

JOB_TIMEOUT_S = 6 * 3600
"""RQ ends a job after this; a stalled one loses its lease long before."""

TRANSIENT_ATTEMPTS = 16
"""A server that does not answer is asked again, 5 s to 30 s apart: some six minutes in all."""

PASSING = frozenset({401, 403, 429})
"""Refusals that a Label Studio which is being restored or set up gives for a while; to end a round
for one would throw away what it has trained."""

UNEXPECTED_ATTEMPTS = 3
"""An error that nobody foresaw may be a passing one; thrice the same is not."""

DEADLY_ATTEMPTS = 20
"""A part whose worker keeps dying (out of memory, say) must end some time."""

CLEAN_EVERY_S = 3600.0
KEEP_EVENTS_S = 7 * 24 * 3600.0
KEEP_REST_S = 24 * 3600.0
"""Tasks that a /predict had no time for are tried for a day; whoever asked has gone on by then."""

SILENT_S = 120.0
"""A process unseen for this long is taken off the list."""

LOCK_TTL_S = 24 * 3600
"""Label Studio keeps a served task for its annotator this long by default (TASK_LOCK_TTL)."""

QUIET_BEFORE_DELETE_S = 600.0
"""A big delete stalls Label Studio's SQLite: wait until nobody has labelled for this long."""


def open_queue(work: Workplace) -> Queue:
    return Queue(QUEUE, connection=work.redis, job_class=OurJob, serializer=JSONSerializer)


# What workers run. Each is an entry: it opens its own workplace and closes it.


def check(project_id: int) -> None:
    """Look at Label Studio and start the round that is due."""
    with _workplace() as work:
        if not _is_ours(work, project_id):
            return
        try:
            started = check_project(work, project_id)
        except BackendError as error:
            log.warning("check of project %d: %s", project_id, error)
            work.ledger.projects.update(project_id, last_error=str(error), checked_at=time.time())
            return
        except Exception as error:
            # The job boundary: whatever Label Studio answered, it is said and asked again.
            log.exception("check of project %d failed", project_id)
            what = f"The look at Label Studio failed: {describe(error)}"
            work.ledger.projects.update(project_id, last_error=what, checked_at=time.time())
            return
        if started is not None:
            log.info("round %d started: %s", started.id, started.reason)
            deliver(work, open_queue(work))


def run_part(part_id: int) -> None:
    """Do one part of a round, under its lease."""
    with _workplace() as work:
        part = work.ledger.parts.take(part_id, _holder(), work.server)
        if part is None:
            return
        round_ = work.ledger.rounds.get(part.round_id)
        if part.attempts > DEADLY_ATTEMPTS:
            work.ledger.rounds.fail(
                round_.id,
                f"The stage {part.stage} was interrupted {DEADLY_ATTEMPTS} times: "
                "is there enough memory for a worker?",
            )
            return
        _run_leased(work, round_, part)
        deliver(work, open_queue(work))


def _run_leased(work: Workplace, round_: Round, part: Part) -> None:
    ledger, stage = work.ledger, part.stage
    with Lease(ledger.url, part) as lease:
        try:
            # torch comes with the stages: only in the process that needs it, and under the lease,
            # which a busy machine's import of it can outlast.
            from backend.rounds.stages import RUN, clear_up

            outcome = RUN[stage](work, round_, part.payload, lease.tick)
            following = next_stage(round_.kind, stage)
            stage_ended = ledger.parts.finish(part, outcome, next_stage=following)
        except LeaseLost as error:
            log.warning("%s of round %d: %s", stage, round_.id, error)
            return
        except (StudioUnreachable, LedgerUnavailable) as error:
            _again(ledger, round_, part, str(error), TRANSIENT_ATTEMPTS)
            return
        except StudioRefused as error:
            if _may_pass(work, error):
                _again(ledger, round_, part, str(error), TRANSIENT_ATTEMPTS)
            else:
                ledger.rounds.fail(round_.id, f"{stage}: {error}")
            return
        except (BackendError, TrainingError) as error:
            log.warning("round %d failed in %s: %s", round_.id, stage, error)
            ledger.rounds.fail(round_.id, f"{stage}: {error}")
            return
        except Exception as error:
            # The job boundary: whatever it was, the round must end with a reason.
            log.exception("%s of round %d failed", stage, round_.id)
            _again(ledger, round_, part, describe(error), UNEXPECTED_ATTEMPTS)
            return
    if stage_ended and following is None:
        clear_up(work, round_)


def _may_pass(work: Workplace, error: StudioRefused) -> bool:
    """Whether Label Studio, or what stands before it, may answer otherwise in a while."""
    status = error.studio_status
    if status != 404:
        return not 400 <= status < 500 or status in PASSING
    try:
        work.studio.whoami()
    except (StudioRefused, StudioUnreachable):
        return True  # a proxy that has lost Label Studio says 404 to everything
    return False


def describe(error: Exception) -> str:
    """An error that nobody foresaw, as a sentence; want of memory says itself in many ways."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or "allocate memory" in said or "out of memory" in said:
        return (
            f"There was not enough memory for a worker ({said}): let fewer WORKERS run, or give "
            "the project fewer members or a smaller max_side_px."
        )
    return said


def next_stage(kind: RoundKind, stage: Stage) -> Stage | None:
    from backend.rounds.schedule import STAGES

    stages = STAGES[kind]
    after = stages.index(stage) + 1
    return stages[after] if after < len(stages) else None


def _again(ledger: Ledger, round_: Round, part: Part, what: str, most: int) -> None:
    if part.attempts >= most:
        ledger.rounds.fail(round_.id, f"{part.stage}, {most} times: {what}")
        return
    delay_s = min(LONGEST_DELAY_S, 5.0 * 2.0 ** (part.attempts - 1))
    log.warning("%s of round %d again in %.0f s: %s", part.stage, round_.id, delay_s, what)
    try:
        ledger.parts.retry(part, delay_s)
    except LeaseLost:
        return
    ledger.projects.update(round_.project_id, last_error=f"{part.stage}: {what}")


def predict_rest(project_id: int, event_id: int) -> None:
    """Pre-annotate the tasks that a /predict had no time for; its event says which."""
    with _workplace() as work:
        if not _is_ours(work, project_id):
            return
        pending = work.ledger.events.pending(project_id)
        event = next((e for e in pending if e.id == event_id), None)
        if event is None or event.action != PREDICT_REST:
            return  # done by a job that was given twice
        try:
            _store_rest(work, project_id, event.ids)
        except (StudioUnreachable, StudioRefused, LedgerUnavailable, TrainingError) as error:
            log.warning("tasks that /predict left are tried again: %s", error)
            return
        except Exception:
            # The job boundary: these would fail again, and hold up those after them.
            log.exception("tasks that /predict left get no predictions: %s", event.ids)
        work.ledger.events.handle([event_id])


def _store_rest(work: Workplace, project_id: int, task_ids: list[int]) -> None:
    from backend.web.model import predict_tasks

    row = work.ledger.projects.get(project_id)
    publication = work.ledger.publications.serving(project_id)
    if publication is None:
        return
    # Listed, not opened: Label Studio would ask us for an opened task's prediction.
    tasks = list(work.studio.tasks(row.studio_id, ids=task_ids))
    answers = predict_tasks(work, row, publication, [(task.id, task.data) for task in tasks])
    rows = [
        {"task": task.id, **prediction}
        for task, predictions in zip(tasks, answers, strict=True)
        for prediction in predictions
        # Somebody may have opened it meanwhile, or this was done before and not noted.
        if not any(
            held["model_version"] == publication.name for held in work.studio.predictions(task.id)
        )
    ]
    if rows:
        work.studio.import_predictions(row.studio_id, rows)


def clean(project_id: int) -> None:
    """Remove what ended rounds left, and what is older than is kept; and, in a quiet moment, delete
    our superseded predictions once nobody can hold them open."""
    with _workplace() as work:
        if not _is_ours(work, project_id):
            return
        try:
            _clean_project(work, project_id)
        except BackendError as error:
            log.warning("project %d is cleaned up an hour later: %s", project_id, error)


def _clean_project(work: Workplace, project_id: int) -> None:
    ledger, row = work.ledger, work.ledger.projects.get(project_id)
    # Of a round that was cancelled or failed; its worker may have written on for a while.
    work.registry.prune_rounds(row.slug, lambda round_id: _has_ended(ledger, row, round_id))
    if ledger.rounds.active(project_id) is not None:
        return
    prune(work, row)
    last = ledger.events.last_at(project_id) or 0.0
    if time.time() - last <= QUIET_BEFORE_DELETE_S:
        return
    held = work.studio.model_versions(row.studio_id)
    serves = work.studio.project(row.studio_id).model_version
    for publication in ledger.publications.all(project_id):
        if publication.state == "prepared" and publication.name != serves:
            # Its round ended before it served; from now on it is as good as superseded.
            ledger.publications.set_state(publication.id, "failed")
            continue
        gone = publication.superseded_at
        if publication.state not in ("superseded", "failed") or gone is None:
            continue
        if time.time() - gone < LOCK_TTL_S:
            continue
        if publication.name in held:
            work.studio.delete_model_version(row.studio_id, publication.name)
        ledger.publications.set_state(publication.id, "deleted")


def _is_ours(work: Workplace, project_id: int) -> bool:
    """Whether a project is of our Label Studio; another's numbers mean other projects there."""
    try:
        server = work.ledger.projects.get(project_id).server
    except UnknownProject as error:
        log.warning("a job is passed over: %s", error)
        return False
    if server != work.server:
        log.warning("a job is passed over: project %d is of %s", project_id, server)
    return bool(server == work.server)


def _has_ended(ledger: Ledger, project: Project, round_id: int) -> bool:
    active = ledger.rounds.active(project.id)
    return active is None or active.id != round_id


@contextmanager
def _workplace() -> Iterator[Workplace]:
    work = Workplace(load_settings())
    try:
        yield work
    finally:
        work.close()


def known_workers(queue: Queue) -> set[str]:
    """The names of the workers that Redis knows, dead ones that nobody told it of among them."""
    prefix = Worker.redis_worker_namespace_prefix
    return {key.removeprefix(prefix) for key in Worker.all_keys(queue=queue)}


def forget_workers(queue: Queue, names: Collection[str]) -> None:
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


def _holder() -> str:
    job = get_current_job()
    return f"{socket.gethostname()}-?" if job is None else str(job.worker_name)


class Lease:
    """Keeps a part ours while its stage runs; ``tick`` says how far it is.

    Raises from ``tick`` when the lease went to another worker, so that the stage stops there.
    """

    def __init__(self, ledger_url: str, part: Part) -> None:
        self._ledger = Ledger(ledger_url)
        self._part = part
        self._progress = 0.0
        self._held_until = part.lease_until or 0.0
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._ledger.close()

    def tick(self, progress: float) -> None:
        """Note the stage's progress, 0 to 1.

        Raises:
            LeaseLost: another worker has the part.
        """
        self._progress = progress
        if self._lost.is_set():
            raise LeaseLost(f"Part {self._part.id} was given to another worker.")

    def _keep(self) -> None:
        while not self._ended.wait(LEASE_S / 6):
            try:
                held = self._ledger.parts.renew(self._part, self._progress)
            except LedgerUnavailable as error:
                log.warning("lease of part %d not renewed: %s", self._part.id, error)
                held = time.time() < self._held_until
            else:
                self._held_until = time.time() + LEASE_S
            if not held:
                self._lost.set()
                return


# The clock: what a worker's parent does every second.


def deliver(work: Workplace, queue: Queue) -> None:
    """Put every waiting part into Redis, once; again when Redis lost it."""
    waiting = work.ledger.parts.waiting(work.server)
    if not waiting:
        return
    queued = set(queue.get_job_ids())
    for part in waiting:
        if any(job_id.startswith(f"part-{part.id}-") for job_id in queued):
            continue
        _enqueue(queue, "run_part", (part.id,), f"part-{part.id}-{part.deliveries}")
        work.ledger.parts.mark_delivered(part.id)


def _is_known(queue: Queue, beginning: str) -> bool:
    """Whether a job whose name begins so waits for a worker or has one."""
    known = (*queue.get_job_ids(), *queue.started_job_registry.get_job_ids(cleanup=False))
    return any(job_id.startswith(beginning) for job_id in known)


def _enqueue(
    queue: Queue, function: str, args: tuple[Any, ...], job_id: str, *, at_front: bool = False
) -> None:
    queue.enqueue_call(
        func=f"backend.jobs.{function}",
        args=args,
        job_id=job_id,
        timeout=JOB_TIMEOUT_S,
        # A finished or failed job keeps its id until it expires, and would hide the next.
        result_ttl=0,
        failure_ttl=60,
        at_front=at_front,
    )


def _our_projects(work: Workplace) -> list[Project]:
    """The connected ones of our Label Studio: the ledger may hold those of another, under the same
    numbers."""
    return work.ledger.projects.all(connected_only=True, server=work.server)


class Clock:
    """Turns the ledger's rows into jobs; any number may tick beside each other."""

    def __init__(self, work: Workplace) -> None:
        self._work = work
        self._cleaned_at = time.monotonic()
        self._rest_asked: dict[int, tuple[int, float]] = {}  # of a project: which event, and when

    def tick(self) -> None:
        """One look at the ledger. A Redis or ledger that is away is logged and met again."""
        try:
            queue = open_queue(self._work)
            deliver(self._work, queue)
            for project in _our_projects(self._work):
                self._serve_project(queue, project)
            if time.monotonic() - self._cleaned_at > CLEAN_EVERY_S:
                self._clean(queue)
        except (RedisError, LedgerUnavailable) as error:
            log.warning("the clock missed a tick: %s", error)

    def _serve_project(self, queue: Queue, project: Project) -> None:
        ledger, project_id = self._work.ledger, project.id
        pending = ledger.events.pending_ends(project_id, all_of=PREDICT_REST)
        self._serve_rest(queue, project_id, [e for e in pending if e.action == PREDICT_REST])
        pending = [event for event in pending if event.action != PREDICT_REST]
        round_ = ledger.rounds.active(project_id)
        # A start round holds no training up.
        active = round_ is not None and round_.kind != START
        now = time.time()
        if check_is_due(project, pending, active, now) and not _is_known(
            queue, f"check-{project_id}-"
        ):
            forced = any(event.action in FORCING for event in pending)
            _enqueue(
                queue, "check", (project_id,), f"check-{project_id}-{int(now)}", at_front=forced
            )
            # Afterwards: a Redis that takes no job now is asked at the next tick.
            ledger.projects.update(project_id, check_asked_at=now)

    def _serve_rest(self, queue: Queue, project_id: int, events: list[Event]) -> None:
        """The tasks that /predict left: one job at a time, for which a round's part waits at most;
        asked for again until its event is handled."""
        now = time.time()
        old = [event.id for event in events if now - event.received_at > KEEP_REST_S]
        self._work.ledger.events.handle(old)
        waiting = [event.id for event in events if event.id not in old]
        if not waiting or _is_known(queue, f"rest-{project_id}-"):
            return
        asked, at = self._rest_asked.get(project_id, (0, 0.0))
        if asked == waiting[0] and time.monotonic() - at < ASK_AGAIN_S:
            return
        job_id = f"rest-{project_id}-{waiting[0]}-{int(now)}"
        _enqueue(queue, "predict_rest", (project_id, waiting[0]), job_id)
        self._rest_asked[project_id] = waiting[0], time.monotonic()

    def _clean(self, queue: Queue) -> None:
        self._cleaned_at = time.monotonic()
        self._work.ledger.events.drop_old(KEEP_EVENTS_S)
        self._work.ledger.processes.drop_silent(SILENT_S)
        for project in _our_projects(self._work):
            _enqueue(queue, "clean", (project.id,), f"clean-{project.id}-{int(time.time())}")
