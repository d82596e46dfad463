"""Which queue a job waits in, on a real Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from rq import Worker
from rq.serializers import JSONSerializer

from backend.jobs import queue as queue_module
from backend.jobs.queue import (
    QUEUE_OF_STAGE,
    SAME_TURN,
    deliver_parts,
    enqueue,
    hand_on_old_jobs,
    open_queue,
    open_queues,
)
from backend.ledger import Outcome
from backend.ledger import parts as parts_module
from backend.redis_queue import OLD_QUEUE, QUEUES
from backend.rounds.schedule import STAGES
from backend.workplace import Workplace
from tests.backend.workplaces import open_workplace
from tests.live.harness.servers import ValkeyServer


@pytest.fixture
def work(tmp_path: Path, valkey: ValkeyServer, redis: Redis) -> Iterator[Workplace]:
    with open_workplace(tmp_path, redis_url=valkey.url) as opened:
        yield opened


def waiting(work: Workplace) -> dict[str, list[str]]:
    """The ids of the jobs in each queue that has any."""
    found = {name: queue.get_job_ids() for name, queue in open_queues(work).items()}
    return {name: ids for name, ids in found.items() if ids}


def start_fit(work: Workplace, members: int = 2) -> None:
    """A training round whose members wait to be trained."""
    project = work.ledger.projects.ensure(work.server, 7, 1)
    round_ = work.ledger.rounds.start(project.id, "train", "asked for", "collect", {})
    assert round_ is not None
    part = work.ledger.parts.take(1, "lab-1-0")
    assert part is not None
    payloads = [{"member": member} for member in range(members)]
    work.ledger.parts.finish(part, Outcome(next_payloads=payloads), next_stage="fit")


def register_gpu_worker(work: Workplace) -> Worker:
    queues = [open_queue(work, "train-gpu")]
    worker = Worker(queues, name="gpu", connection=work.redis, serializer=JSONSerializer)
    worker.register_birth()
    return worker


def test_each_stage_has_a_queue_and_a_turn() -> None:
    stages = {stage for each in STAGES.values() for stage in each}
    assert set(QUEUE_OF_STAGE) == stages
    assert sorted(stage for group in SAME_TURN for stage in group) == sorted(stages)
    assert set(QUEUE_OF_STAGE.values()) < set(QUEUES)


def test_without_a_gpu_members_are_trained_by_any_worker_that_trains(work: Workplace) -> None:
    start_fit(work)
    for _ in range(2):
        deliver_parts(work)
    assert waiting(work) == {"train": ["part-2-0", "part-3-0"]}


def test_members_go_to_a_gpu_and_wait_for_it_only_so_long(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = register_gpu_worker(work)
    start_fit(work)
    monkeypatch.setattr(parts_module, "DELIVER_AGAIN_S", -1.0)
    for _ in range(2):
        deliver_parts(work)
    assert waiting(work) == {"train-gpu": ["part-2-0", "part-3-0"]}
    monkeypatch.setattr(queue_module, "GPU_PATIENCE_S", -1.0)
    for _ in range(2):
        deliver_parts(work)
    both = {"train": ["part-2-1", "part-3-1"], "train-gpu": ["part-2-0", "part-3-0"]}
    assert waiting(work) == both
    worker.register_death()
    deliver_parts(work)
    assert waiting(work) == both


def test_members_that_waited_for_a_gpu_that_is_gone_go_to_the_others(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = register_gpu_worker(work)
    start_fit(work)
    deliver_parts(work)
    worker.register_death()
    monkeypatch.setattr(parts_module, "DELIVER_AGAIN_S", -1.0)
    deliver_parts(work)
    assert waiting(work)["train"] == ["part-2-1", "part-3-1"]


def test_what_begins_a_round_goes_before_others_members(work: Workplace) -> None:
    start_fit(work)
    deliver_parts(work)
    other = work.ledger.projects.ensure(work.server, 8, 1)
    assert work.ledger.rounds.start(other.id, "train", "asked for", "collect", {}) is not None
    deliver_parts(work)
    assert waiting(work) == {"train": ["part-4-0", "part-2-0", "part-3-0"]}


def test_jobs_of_an_earlier_release_are_handed_on(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_fit(work, members=1)
    with monkeypatch.context() as patch:
        patch.setattr(queue_module, "redis_name", lambda _queue: OLD_QUEUE)
        old = open_queue(work, "train")
    for function, number in (("check", 7), ("run_part", 2), ("clean", 7), ("predict_rest", 7)):
        enqueue(old, function, (number,), f"{function}-{number}-1")
    work.redis.rpush(old.key, b"\xff")
    hand_on_old_jobs(work)
    deliver_parts(work)
    assert waiting(work) == {
        "interactive": ["check-7-1", "predict_rest-7-1"],
        "train": ["part-2-0"],
        "refine": ["clean-7-1"],
    }
    assert old.count == 0
    job = open_queue(work, "refine").fetch_job("clean-7-1")
    assert job is not None
    assert (job.func_name, job.args) == ("backend.jobs.clean", [7])
