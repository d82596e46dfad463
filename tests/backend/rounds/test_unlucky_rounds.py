"""Rounds that cannot succeed: each ends with its reason, and what serves goes on serving.

A part is done by the job's own function, on a real ledger, registry and Valkey; where its process
dies of it or has little memory, in one of its own, as a worker's horse.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis

from backend.errors import NotEnoughLabels, describe_error
from backend.insight.status import Status, project_status
from backend.insight.status_text import describe_status
from backend.jobs.jobs import run_part
from backend.jobs.parts import DEADLY_ATTEMPTS, UNEXPECTED_ATTEMPTS
from backend.ledger import Outcome, Part, Round
from backend.rounds.schedule import AFTER_FAILURE_S, RECONCILE_S, check_is_due
from backend.rounds.stages.collect import check_classes
from backend.workplace import Workplace
from tests.backend import rows
from tests.backend.workplaces import GIVEN, make_settings
from tests.live.harness.servers import ROOT, ValkeyServer
from tests.training.discs import CLASSES, disc_examples
from training.config import TrainConfig

CONFIG = TrainConfig(CLASSES, members=2, network="unet", crop_px=64, batch=4, steps=30)
NETWORKS = "tests.backend.unlucky_networks"
RUN = "import sys; from backend.jobs.jobs import run_part; run_part(int(sys.argv[1]))"


@dataclass
class OneProject:
    """A project with labels and a publication that serves, and a round that is about to fit."""

    work: Workplace
    settings: dict[str, str]
    project_id: int
    serving: str

    def start(self, network: str) -> Round:
        """A training round past its collecting, to be made with this network."""
        ledger = self.work.ledger
        started = ledger.rounds.start(self.project_id, "train", "asked for", "collect", {})
        assert started is not None
        manifest = [
            {"task": key, "stamp": "s", "annotations": [], "audit": False, "digest": key}
            for key in (example.key for example in disc_examples(6))
        ]
        config = replace(CONFIG, network=f"{NETWORKS}:{network}").to_json()
        self.finish(started, "fit", manifest=manifest, config=config)
        return ledger.rounds.get(started.id)

    def finish(self, round_: Round, next_stage: str, **values: Any) -> None:
        ledger = self.work.ledger
        part = ledger.parts.take(ledger.parts.of_round(round_.id)[-1].id, "a test")
        assert part is not None
        ledger.parts.finish(
            part,
            Outcome(next_payloads=[{"member": 0}, {"member": 1}], **values),
            next_stage=next_stage,
        )

    def environment(self, network: str) -> dict[str, str]:
        settings = {**self.settings, "network": f"{NETWORKS}:{network}"}
        return {name.upper(): value for name, value in settings.items()}

    def waiting(self, round_: Round) -> Part:
        parts = self.work.ledger.parts.of_round(round_.id)
        return next(part for part in parts if part.state == "waiting")

    def have_tried(self, round_: Round, attempts: int) -> None:
        """As if what waits had been taken so often already, in vain."""
        with self.work.ledger.database.write() as db:
            db.get_one(Part, self.waiting(round_).id).attempts = attempts

    def run(self, round_: Round, network: str, times: int = 1) -> None:
        """Do what waits, so many times and at once, in this process."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment(network).items():
                patch.setenv(name, value)
            for _ in range(times):
                part_id = self.waiting(round_).id
                with self.work.ledger.database.write() as db:
                    db.get_one(Part, part_id).not_before = 0.0
                run_part(part_id)

    def run_as_horse(self, round_: Round, network: str) -> int:
        """Do what waits, in a process of its own; its exit status."""
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(self.waiting(round_).id)],
            cwd=ROOT,
            env={**os.environ, **self.environment(network)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    def failed(self, round_: Round) -> str:
        """The reason that the round failed for, as ``status`` tells it."""
        row = self.work.ledger.projects.get(self.project_id)
        told = project_status(self.work.ledger, row)
        assert told.round is not None
        assert told.round.state == "failed"
        assert told.last_error == told.round.error
        assert told.publication == self.serving
        assert row.failures == 1
        assert row.not_before > self.work.ledger.rounds.get(round_.id).ended_at
        # Asked for, the next one does not wait.
        assert self.work.ledger.rounds.start(self.project_id, "train", "again", "collect", {})
        return str(told.round.error)


@pytest.fixture
def place(tmp_path: Path, redis: Redis, valkey: ValkeyServer) -> Iterator[OneProject]:
    given = {**GIVEN, "data_dir": str(tmp_path / "data"), "redis_url": valkey.url}
    given["label_studio_url"] = "http://127.0.0.1:1"
    work = Workplace(make_settings(**given))
    row = work.ledger.projects.ensure(work.server, 7, 1795468845, title="Urine")
    for example in disc_examples(6):
        work.registry.put_example(row.slug, example.key, example)
    yield OneProject(work, given, row.id, _serve(work, row.id))
    work.close()
    work.redis.close()


def _serve(work: Workplace, project_id: int) -> str:
    first = work.ledger.rounds.start(project_id, "rank", "a test's", "choose", {})
    assert first is not None
    made = work.ledger.publications.prepare(
        project_id, 1, first.id, arm="", quantiles=[0.5], places=[rows.place(5)]
    )
    work.ledger.publications.serve(made.id, 1)
    work.ledger.rounds.cancel(first.id, "over")
    return str(made.name)


def test_a_loss_that_is_no_number_fails_the_round_at_once(place: OneProject) -> None:
    round_ = place.start("not_a_number")
    place.run(round_, "not_a_number")
    assert place.failed(round_).startswith("fit: member 0's loss is nan at step 0 of 30")


def test_a_version_that_sees_no_number_never_serves(place: OneProject) -> None:
    round_ = place.start("blind_later")
    place.run(round_, "blind_later", times=3)
    stages = [part.stage for part in place.work.ledger.parts.of_round(round_.id)]
    assert stages == ["collect", "fit", "fit", "assemble"]
    assert "nothing serves yet: The new version is unfit" in place.failed(round_)


def test_a_network_that_raises_fails_the_round_in_its_own_words(place: OneProject) -> None:
    round_ = place.start("raising")
    place.run(round_, "raising")
    told = project_status(place.work.ledger, place.work.ledger.projects.get(place.project_id))
    assert told.last_error == "fit: RuntimeError: the laboratory's own mistake"
    assert told.publication == place.serving
    shown = describe_status(Status([told], []))
    assert "fit, 0%, interrupted, again in" in shown
    place.run(round_, "raising", times=UNEXPECTED_ATTEMPTS - 1)
    reason = place.failed(round_)
    assert reason == "fit, 3 times: RuntimeError: the laboratory's own mistake"


def test_a_network_that_cannot_be_made_fails_the_round_at_once(place: OneProject) -> None:
    round_ = place.start("not_there")
    place.run(round_, "not_there")
    assert "unlucky_networks:not_there cannot be imported" in place.failed(round_)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory so")
def test_want_of_memory_is_told_as_such(place: OneProject) -> None:
    round_ = place.start("hungry")
    place.have_tried(round_, UNEXPECTED_ATTEMPTS - 1)
    place.run_as_horse(round_, "hungry")
    reason = place.failed(round_)
    assert reason.startswith("fit, 3 times: There was not enough memory for a worker (")
    assert "max_side_px" in reason


def test_a_worker_that_is_killed_again_and_again_ends_the_round(place: OneProject) -> None:
    round_ = place.start("deadly")
    place.have_tried(round_, DEADLY_ATTEMPTS - 1)
    assert place.run_as_horse(round_, "deadly") == -signal.SIGKILL
    (held,) = [p for p in place.work.ledger.parts.of_round(round_.id, "fit") if p.state == "leased"]
    place.work.ledger.parts.release({held.holder}, died=True)
    place.run(round_, "deadly")
    assert "is there enough memory for a worker?" in place.failed(round_)


def test_want_of_memory_says_itself_in_many_ways() -> None:
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        OSError(12, "Cannot allocate memory"),
    ):
        assert describe_error(error).startswith("There was not enough memory for a worker (")
    assert describe_error(KeyError("task")) == "KeyError: 'task'"


class TestLabels:
    def test_that_show_one_class_teach_nothing(self) -> None:
        empty = np.zeros((4, 5), np.uint8)
        unknown = np.full((4, 5), 255, np.uint8)
        with pytest.raises(NotEnoughLabels, match="Nothing but background is labelled"):
            check_classes([unknown, empty, empty], CLASSES)
        with pytest.raises(NotEnoughLabels, match="Nothing but bright is labelled"):
            check_classes([np.where(empty == 0, 2, empty).astype(np.uint8)], CLASSES)

    def test_of_one_class_beside_background_are_enough_and_no_more_is_read(self) -> None:
        empty = np.zeros((4, 5), np.uint8)
        one = empty.copy()
        one[1, 2] = 1

        def masks() -> Iterator[Any]:
            yield empty
            yield one
            pytest.fail("two classes were seen already")

        check_classes(masks(), CLASSES)


NOW = 1_000_000.0


def due(checked_s_ago: float, event_s_ago: float, action: str = "START_TRAINING") -> bool:
    checked_at = NOW - checked_s_ago
    row = rows.project(check_asked_at=checked_at - 1, checked_at=checked_at)
    event = rows.event(NOW - event_s_ago, action)
    return check_is_due(row, [event], False, NOW)


class TestAfterACheckThatFailed:
    @pytest.mark.parametrize("action", ["START_TRAINING", "ANNOTATION_CREATED"])
    def test_the_next_comes_after_as_long_again(self, action: str) -> None:
        least, longest = AFTER_FAILURE_S
        assert not due(least - 1, least + 1, action)
        assert due(least + 1, least + 7, action)
        assert not due(14, 30, action)
        assert due(16, 30, action)
        assert not due(longest - 1, 4000, action)
        assert due(longest, 4000, action)

    def test_a_night_of_failures_is_some_hundred_questions(self) -> None:
        event_at, checked_at, asked = 0.0, 6.0, 1
        while checked_at < 8 * 3600:
            row = rows.project(check_asked_at=checked_at - 1, checked_at=checked_at)
            event = rows.event(event_at, "START_TRAINING")
            now = next(
                checked_at + step
                for step in range(600)
                if check_is_due(row, [event], False, checked_at + step)
            )
            checked_at, asked = now + 6, asked + 1
        assert asked < 8 * 3600 / AFTER_FAILURE_S[1]

    def test_an_event_that_came_since_waits_no_longer_than_ever(self) -> None:
        assert due(5, 1)
        assert not due(RECONCILE_S - 1, 1, "ANNOTATION_CREATED")
        assert due(30, 11, "ANNOTATION_CREATED")
