"""The jobs that workers run. Each is an entry: it opens its own workplace and closes it.

Redis carries numbers only; what a job does is read from the ledger. A part may be delivered twice
or never: the lease makes the first harmless, the clock's next tick delivers again.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
from rq import get_current_job

from backend.errors import (
    BackendError,
    LedgerUnavailable,
    StudioRefused,
    StudioUnreachable,
    UnknownProject,
    describe_error,
)
from backend.jobs.cleaning import clean_project
from backend.jobs.parts import do_part
from backend.jobs.queue import QUEUE_OF_JOB, SAME_TURN, deliver_parts, enqueue, open_queue
from backend.label_studio.bulk import LARGEST_RESULT, StoredPrediction
from backend.ledger import Project
from backend.ledger.events import PREDICT_REST
from backend.logs import bind, bound
from backend.rounds.schedule import check_project
from backend.rounds.tracking import track_versions
from backend.settings import load_settings
from backend.workplace import Workplace
from training.committee.store.store import StoreUnavailable
from training.errors import TrainingError

log = logging.getLogger(__name__)


def check(project_id: int) -> None:
    """Compare Label Studio's annotations with the ledger, and start the round that is due."""
    with _workplace() as work:
        if _our_project(work, project_id) is None:
            return
        try:
            started = check_project(work, project_id)
        except BackendError as error:
            log.warning("check of project %d: %s", project_id, error)
            work.ledger.projects.update(project_id, last_error=str(error), checked_at=time.time())
            return
        except Exception as error:
            # The job boundary: whatever Label Studio answered, it is shown and tried again.
            log.exception("check of project %d failed", project_id)
            problem = f"The check of Label Studio failed: {describe_error(error)}"
            work.ledger.projects.update(project_id, last_error=problem, checked_at=time.time())
            return
        if started is not None:
            bind(round=started.id)
            log.info("round %d started: %s", started.id, started.reason)
            deliver_parts(work)


def run_part(part_id: int) -> None:
    """Do this part of a round, or one beside it whose project's turn it is, under its lease."""
    with _workplace() as work:
        part = work.ledger.parts.take_in_turn(part_id, _holder(), work.server, SAME_TURN)
        if part is not None:
            ended_well = do_part(work, part)
            deliver_parts(work)
            if ended_well and work.settings.mlflow_tracking_uri is not None:
                ended = work.ledger.rounds.get(part.round_id)
                if ended.kind == "train":
                    queue = open_queue(work, QUEUE_OF_JOB["track"])
                    enqueue(queue, "track", (ended.project_id,), f"track-{ended.id}")


def track(project_id: int) -> None:
    """Tell MLflow of the versions that it does not know yet."""
    with _workplace() as work:
        project = _our_project(work, project_id)
        if project is not None:
            track_versions(work, project)


def predict_rest(project_id: int, event_id: int) -> None:
    """Pre-annotate the tasks that a /predict had no time for; its event names them."""
    with _workplace() as work:
        project = _our_project(work, project_id)
        if project is None:
            return
        pending = work.ledger.events.pending(project_id)
        event = next((e for e in pending if e.id == event_id), None)
        if event is None or event.action != PREDICT_REST:
            return  # an earlier delivery of this job has done it
        try:
            _store_rest(work, project, event.ids)
        except (StudioUnreachable, StudioRefused, LedgerUnavailable, TrainingError) as error:
            log.warning("tasks that /predict left are tried again: %s", error)
            return
        except Exception:
            # The job boundary: these would fail again, and hold up those after them.
            log.exception("tasks that /predict left get no predictions: %s", event.ids)
        work.ledger.events.handle([event_id])


def clean(project_id: int) -> None:
    """Remove what ended rounds left, and what is older than is kept."""
    with _workplace() as work:
        project = _our_project(work, project_id)
        if project is None:
            return
        try:
            clean_project(work, project)
        except (BackendError, StoreUnavailable) as error:
            log.warning("project %d is cleaned up an hour later: %s", project_id, error)
        track_versions(work, project)  # those that it could not be told of when they were made


def _store_rest(work: Workplace, project: Project, task_ids: Sequence[int]) -> None:
    from backend.predict import predict_tasks

    publication = work.ledger.publications.serving(project.id)
    if publication is None:
        return
    # Listed, not opened: Label Studio would ask us for an opened task's prediction.
    tasks = list(work.studio.tasks(project.studio_id, ids=task_ids))
    answers = predict_tasks(work, project, publication, [(task.id, task.data) for task in tasks])
    rows = [
        StoredPrediction(task=task.id, **prediction)
        for task, predictions in zip(tasks, answers, strict=True)
        for prediction in predictions
        if _is_small_enough(task.id, prediction["result"])
        # Somebody may have opened it meanwhile, or an earlier delivery was not recorded.
        and not any(
            stored["model_version"] == publication.name
            for stored in work.studio.predictions(task.id)
        )
    ]
    if rows:
        work.studio.import_predictions(project.studio_id, rows)


def _is_small_enough(task_id: int, result: list[dict[str, Any]]) -> bool:
    """Whether one request can carry it: one that cannot would be tried for a day, and hold up the
    others."""
    size = len(orjson.dumps(result))
    if size > LARGEST_RESULT:
        log.warning("task %d gets no prediction: its regions are %.0f MB", task_id, size / 1e6)
    return size <= LARGEST_RESULT


def _our_project(work: Workplace, project_id: int) -> Project | None:
    """The project, if it is of our Label Studio; another server's numbers mean other projects."""
    bind(project=project_id)
    try:
        project = work.ledger.projects.get(project_id)
    except UnknownProject as error:
        log.warning("a job is passed over: %s", error)
        return None
    if project.server != work.server:
        log.warning("a job is passed over: project %d is of %s", project_id, project.server)
        return None
    return project


@contextmanager
def _workplace() -> Iterator[Workplace]:
    work = Workplace(load_settings())
    job = get_current_job()
    try:
        with bound(job="" if job is None else job.id):
            yield work
    finally:
        work.close()


def _holder() -> str:
    """The name under which this worker holds parts."""
    job = get_current_job()
    return f"{socket.gethostname()}-?" if job is None else str(job.worker_name)
