"""Workers that are killed, and what they held: a real Valkey, real processes, no Label Studio."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rq import Queue
from rq.executions import Execution
from rq.serializers import JSONSerializer

from backend.jobs import clock as clock_module
from backend.jobs.clock import Clock
from backend.jobs.names import worker_name
from backend.jobs.queue import open_queue, remove_workers
from backend.jobs.worker import CommitteeWorker
from backend.jobs.worker_parent import WorkerParent, pause_after
from backend.ledger import Ledger, Project, upgrade
from backend.ledger.heartbeat import process_id
from backend.process_group import pid_space
from backend.redis_queue import INTERACTIVE, REFINE, TRAIN, registered_workers
from backend.rounds import schedule as rounds
from backend.settings import Settings, load_settings
from backend.workplace import Workplace
from tests.limits import scaled, wait_until
from tests.live.harness.servers import ROOT, Process, ValkeyServer, free_port, start_valkey

pytestmark = [pytest.mark.live, pytest.mark.timeout(200)]

START_LIMIT_S = 90.0
HOST = socket.gethostname()

# Settings of a process as a dictionary, and what starts one with them.
Given = dict[str, Any]
StartWorker = Callable[..., Process]


@pytest.fixture
def deaf_studio() -> Iterator[str]:
    """A Label Studio that takes a call and never answers: whoever asks it is at work for long."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def given(tmp_path: Path, valkey: ValkeyServer, deaf_studio: str) -> Given:
    return {
        "data_dir": tmp_path / "data",
        "redis_url": valkey.url,
        "label_studio_url": deaf_studio,
        "label_studio_api_key": "0" * 40,
    }


@pytest.fixture
def settings(given: Given) -> Settings:
    made = load_settings(_env_file=None, **given)
    upgrade(made.ledger_url)
    return made


@pytest.fixture
def work(settings: Settings) -> Iterator[Workplace]:
    opened = Workplace(settings)
    yield opened
    opened.close()
    opened.redis.close()


@pytest.fixture
def project(work: Workplace) -> Project:
    return work.ledger.projects.ensure(work.server, 7, 1795468845, title="Urine")


@pytest.fixture
def start_worker(given: Given, tmp_path: Path) -> Iterator[StartWorker]:
    """``start_worker(*arguments, **other settings)`` runs `python -m backend worker`."""
    started: list[Process] = []

    def start(*arguments: str, **others: object) -> Process:
        environment = {name.upper(): str(value) for name, value in {**given, **others}.items()}
        command = [sys.executable, "-m", "backend", "worker", *arguments]
        started.append(Process(command, tmp_path / "worker.log", environment, cwd=ROOT))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def ended_pid() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def start_round(ledger: Ledger, project: Project) -> int:
    """A round whose first part waits; the part's number."""
    round_ = ledger.rounds.start(project.id, "train", "asked for", "collect", {})
    assert round_ is not None
    number: int = ledger.parts.of_round(round_.id)[0].id
    return number


def held_until(
    ledger: Ledger, holders: Collection[str], condition: Callable[[], Any]
) -> Callable[[], Any]:
    """``condition``; while it is looked at, these workers' leases do not run out."""

    def looked() -> Any:
        ledger.parts.renew_young(holders, 3600)
        return condition()

    return looked


def attempts(ledger: Ledger, part_id: int) -> int:
    (part,) = ledger.parts.of_round(1)
    assert part.id == part_id
    number: int = part.attempts
    return number


def jobs_begun(queue: Queue) -> list[str]:
    begun: list[str] = queue.started_job_registry.get_job_ids(cleanup=False)
    return begun


def worker_of(queue: Queue, name: str) -> CommitteeWorker:
    return CommitteeWorker(
        [queue], name=name, connection=queue.connection, serializer=JSONSerializer
    )


def begin_as(queue: Queue, name: str) -> None:
    """A worker of that name takes the job at the head of the queue, and is heard of no more."""
    worker = worker_of(queue, name)
    worker.register_birth()
    found = worker.dequeue_job_and_maintain_ttl(timeout=5)
    assert found is not None
    job, _ = found
    execution: Execution = worker.prepare_execution(job)
    assert execution.worker_name == name


def test_a_restarted_parent_takes_back_what_its_killed_forerunner_held(
    work: Workplace, project: Project, start_worker: StartWorker
) -> None:
    part_id = start_round(work.ledger, project)
    queue, dead = open_queue(work, TRAIN), worker_name(HOST, pid_space(), ended_pid(), 3)
    Clock(work).tick()
    begin_as(queue, dead)
    assert work.ledger.parts.take(part_id, dead) is not None
    first = jobs_begun(queue)
    start_worker("--workers", "1")
    taken = held_until(work.ledger, {dead}, lambda: attempts(work.ledger, part_id) == 2)
    wait_until(taken, START_LIMIT_S, "the part to be taken")
    assert dead not in registered_workers(queue.connection)
    assert not set(first) & set(jobs_begun(queue))


def test_a_part_of_a_living_parent_on_this_or_any_other_machine_is_left_alone(
    work: Workplace, project: Project, start_worker: StartWorker
) -> None:
    part_id = start_round(work.ledger, project)
    elsewhere = worker_name("elsewhere", pid_space(), ended_pid(), 0)
    assert work.ledger.parts.take(part_id, elsewhere) is not None
    other = work.ledger.projects.ensure(work.server, 8, 1795468846)
    round_ = work.ledger.rounds.start(other.id, "train", "asked for", "collect", {})
    assert round_ is not None
    (theirs,) = work.ledger.parts.of_round(round_.id)
    living = worker_name(HOST, pid_space(), os.getpid(), 0)
    assert work.ledger.parts.take(theirs.id, living) is not None
    process = start_worker("--workers", "1")
    begun = held_until(
        work.ledger, {elsewhere, living}, lambda: psutil.Process(process.pid).children()
    )
    wait_until(begun, START_LIMIT_S, "the parent's first worker")
    assert work.ledger.parts.holders() == {elsewhere, living}
    assert attempts(work.ledger, part_id) == 1


def test_what_a_namesake_in_another_container_holds_is_its_own_while_it_is_heard_of(
    work: Workplace, settings: Settings, project: Project
) -> None:
    """Of containers that share the machine's name, both parents may well be its first process."""
    part_id = start_round(work.ledger, project)
    space, pid = pid_space() + 1, os.getpid()
    namesake = worker_name(HOST, space, pid, 0)
    assert work.ledger.parts.take(part_id, namesake) is not None
    work.ledger.processes.beat(process_id("worker", HOST, space, pid), "worker", "", HOST, pid)
    parent = WorkerParent(settings, 1)
    assert parent._orphans() == set()
    work.ledger.processes.remove(process_id("worker", HOST, space, pid))
    assert parent._orphans() == {namesake}
    parent._work.close()
    parent._work.redis.close()


@pytest.mark.parametrize("victim", ["horse", "worker"])
def test_what_a_killed_horse_or_worker_held_is_taken_again_at_once(
    work: Workplace, project: Project, start_worker: StartWorker, victim: str
) -> None:
    """Not when the lease runs out: RQ worker and parent see the death, and say so."""
    part_id = start_round(work.ledger, project)
    parent = start_worker("--workers", "1")

    def horse() -> psutil.Process | None:
        if attempts(work.ledger, part_id) == 0:
            return None
        single = psutil.Process(parent.pid).children()
        return next((h for worker in single for h in worker.children()), None)

    found = wait_until(horse, START_LIMIT_S, "a horse at work")
    assert found is not None
    holder = work.ledger.parts.holders()
    (found if victim == "horse" else psutil.Process(found.ppid())).kill()
    taken = held_until(work.ledger, holder, lambda: attempts(work.ledger, part_id) == 2)
    wait_until(taken, START_LIMIT_S, "the part to be taken")
    wait_until(lambda: not psutil.pid_exists(found.pid), START_LIMIT_S, "the horse to be gone")


def test_a_worker_that_is_told_to_end_gives_back_its_part_and_another_takes_it(
    work: Workplace, project: Project, start_worker: StartWorker
) -> None:
    """As in a rolling update, by a service manager that tells all processes at once."""
    part_id = start_round(work.ledger, project)
    leaving = start_worker("--workers", "1")
    held = wait_until(work.ledger.parts.holders, START_LIMIT_S, "a horse at work")
    staying = start_worker("--workers", "1")
    wait_until(
        lambda: len(psutil.Process(staying.pid).children()) == 2, START_LIMIT_S, "its successor"
    )
    for process in leaving.family():
        process.terminate()

    def taken_over() -> bool:
        now = work.ledger.parts.holders()
        return bool(now) and not now & held

    wait_until(held_until(work.ledger, held, taken_over), START_LIMIT_S, "the part to be taken")
    assert attempts(work.ledger, part_id) == 1  # what was given back counts as none
    assert leaving.popen.wait(scaled(START_LIMIT_S)) == 0
    assert not held & registered_workers(work.redis)
    assert len(jobs_begun(open_queue(work, TRAIN))) == 1


def test_a_check_begins_while_rounds_keep_all_other_workers_busy(
    work: Workplace, project: Project, start_worker: StartWorker
) -> None:
    other = work.ledger.projects.ensure(work.server, 8, 1795468846)
    for row in (project, other):
        start_round(work.ledger, row)
    start_worker("--workers", "2")
    wait_until(lambda: len(work.ledger.parts.holders()) == 2, START_LIMIT_S, "two busy workers")
    third = work.ledger.projects.ensure(work.server, 9, 1795468847)
    work.ledger.events.add(third.id, "RETRAIN")

    def begun() -> bool:
        jobs = jobs_begun(open_queue(work, INTERACTIVE))
        return any(job_id.startswith(f"check-{third.id}-") for job_id in jobs)

    held = work.ledger.parts.holders()
    wait_until(held_until(work.ledger, held, begun), START_LIMIT_S, "the check to begin")
    assert work.ledger.parts.holders() == held


SLOW_IMPORT = """
import sys
from backend.jobs import jobs, lease
from backend.settings import load_settings
from backend.workplace import Workplace
from tests.limits import wait_until

ledger = Workplace(load_settings()).ledger

class Slow:
    def find_spec(self, name, path, target=None):
        if name != "backend.rounds.stages":
            return None
        def renewed():
            return ledger.parts.of_round(1)[0].lease_until != taken
        taken = ledger.parts.of_round(1)[0].lease_until
        wait_until(renewed, 60, "the lease to be renewed")
        raise SystemExit(7)

sys.meta_path.insert(0, Slow())
lease.LEASE_S = 0.6  # renewed six times as often
jobs.run_part(1)
"""


def test_a_part_is_held_while_its_stage_is_being_imported(
    work: Workplace, project: Project, given: Given
) -> None:
    """Else a machine that takes longer over it than a lease lasts never gets any further."""
    start_round(work.ledger, project)
    environment = {**os.environ, **{name.upper(): str(value) for name, value in given.items()}}
    done = subprocess.run(
        [sys.executable, "-c", SLOW_IMPORT],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr


def test_a_library_that_is_missing_is_the_rounds_reason(
    work: Workplace, project: Project, given: Given
) -> None:
    part_id = start_round(work.ledger, project)
    without = f"""
import sys
sys.modules["backend.rounds.stages"] = None  # as if what it needs were not there
from backend.jobs.jobs import run_part
run_part({part_id})
"""
    environment = {**os.environ, **{name.upper(): str(value) for name, value in given.items()}}
    done = subprocess.run([sys.executable, "-c", without], cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0
    told = work.ledger.projects.get(project.id).last_error
    assert told.startswith("collect: ModuleNotFoundError: import of backend.rounds.stages halted")
    (part,) = work.ledger.parts.of_round(1)
    assert (part.state, part.attempts) == ("waiting", 1)
    assert part.not_before > part.started_at


def test_a_worker_whose_parent_has_ended_before_it_began_ends_at_once(
    settings: Settings, start_worker: StartWorker
) -> None:
    orphan = start_worker("--single", worker_name(HOST, pid_space(), ended_pid(), 0))
    assert orphan.popen.wait(scaled(START_LIMIT_S)) == 1


def test_no_worker_starts_without_redis_and_all_do_when_it_comes(
    settings: Settings, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Each would end at once, and its successor too: two cores busy with nothing."""
    port = free_port()
    process = start_worker("--workers", "2", redis_url=f"redis://127.0.0.1:{port}/0")
    wait_until(
        lambda: "no worker starts without Redis" in process.tail(), START_LIMIT_S, "its word"
    )
    assert psutil.Process(process.pid).children() == []
    late = start_valkey(tmp_path, port=port)
    try:
        wait_until(
            lambda: len(psutil.Process(process.pid).children()) == 3, START_LIMIT_S, "all workers"
        )
    finally:
        late.stop()


def test_workers_that_end_at_once_are_started_ever_more_seldom(
    start_worker: StartWorker, settings: Settings
) -> None:
    """Killed here; a library that is missing would end each as soon."""
    process = start_worker("--workers", "1")
    parent = psutil.Process(process.pid)
    pauses: list[int] = []

    def killed_again() -> bool:
        for child in parent.children():
            with suppress(psutil.NoSuchProcess):
                child.kill()
        pauses[:] = map(int, re.findall(r"another starts in (\d+) s", process.tail()))
        return len(pauses) >= 3

    wait_until(killed_again, START_LIMIT_S, "three workers to have ended")
    assert pauses[:3] == [1, 3, 7]


def test_the_pause_before_the_next_worker_grows_to_its_limit() -> None:
    assert [pause_after(lives) for lives in (0, 1, 2, 3, 5, 5000)] == [0, 1, 3, 7, 30, 30]


def test_a_worker_does_not_end_its_job_because_redis_is_away(
    work: Workplace, valkey: ValkeyServer
) -> None:
    queue = open_queue(work, REFINE)
    job = queue.enqueue_call("backend.jobs.clean", args=(1,), timeout=60)
    worker = worker_of(queue, "host-1-0")
    worker.register_birth()
    execution = worker.prepare_execution(job)
    worker.maintain_heartbeats(job, execution)
    valkey.stop()
    worker.maintain_heartbeats(job, execution)


def test_a_dead_worker_and_its_job_are_taken_out_of_redis(work: Workplace) -> None:
    queue = open_queue(work, REFINE)
    queue.enqueue_call("backend.jobs.clean", args=(1,), job_id="clean-1", timeout=60)
    begin_as(queue, "host-1-0")
    assert (registered_workers(queue.connection), jobs_begun(queue)) == ({"host-1-0"}, ["clean-1"])
    remove_workers(work.redis, {"host-1-0", "host-1-7"})
    assert (registered_workers(queue.connection), jobs_begun(queue)) == (set(), [])
    assert queue.intermediate_queue.get_job_ids() == []
    assert work.redis.keys("rq:job:*") == []


class TestTheClock:
    def test_a_check_that_waits_is_not_asked_for_twice_and_a_lost_one_is(
        self, work: Workplace, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rounds, "ASK_AGAIN_S", -1.0)
        queue, clock = open_queue(work, INTERACTIVE), Clock(work)
        work.ledger.events.add(project.id, "RETRAIN")
        for _ in range(3):
            clock.tick()
        assert len(queue.get_job_ids()) == 1
        begin_as(queue, "host-1-0")
        clock.tick()
        assert queue.get_job_ids() == []  # it is at work
        work.redis.flushall()
        clock.tick()
        assert len(queue.get_job_ids()) == 1

    def test_a_check_that_redis_did_not_take_is_asked_for_at_the_next_tick(
        self, work: Workplace, project: Project, settings: Settings, tmp_path: Path
    ) -> None:
        work.ledger.events.add(project.id, "RETRAIN")
        port = free_port()
        away = SimpleNamespace(redis_url=f"redis://127.0.0.1:{port}/0")
        without = Workplace(settings.model_copy(update=vars(away)))
        try:
            Clock(without).tick()
            assert work.ledger.projects.get(project.id).check_asked_at is None
            Clock(work).tick()
            assert len(open_queue(work, INTERACTIVE).get_job_ids()) == 1
        finally:
            without.close()

    def test_what_predict_left_is_asked_for_piece_by_piece_until_it_is_done(
        self, work: Workplace, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue, clock = open_queue(work, INTERACTIVE), Clock(work)
        first, second = (work.ledger.events.add(project.id, "PREDICT_REST", [n]) for n in (5, 6))

        def asked() -> list[list[int]]:
            found = [queue.fetch_job(job_id) for job_id in queue.get_job_ids()]
            return [job.args for job in found if job and job.func_name.endswith("predict_rest")]

        for _ in range(3):
            clock.tick()
        assert asked() == [[project.id, first]]
        work.redis.flushall()
        clock.tick()
        assert asked() == []  # it may have failed: not every second
        monkeypatch.setattr(clock_module, "ASK_AGAIN_S", -1.0)
        clock.tick()
        assert asked() == [[project.id, first]]
        work.redis.flushall()
        work.ledger.events.handle([first])
        clock.tick()
        assert asked() == [[project.id, second]]
        work.redis.flushall()
        monkeypatch.setattr(clock_module, "KEEP_REST_S", -1.0)
        clock.tick()
        assert asked() == []
        assert work.ledger.events.pending(project.id) == []
