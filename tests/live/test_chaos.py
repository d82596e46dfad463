"""kill -9 of everything while a round and an annotator are at work.

`make test` kills each kind of victim once. `make soak` kills each at every stage, and then at
random until CHAOS_S seconds are over. `-s` prints the figures.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backend.ledger import Round
from tests.limits import scaled, wait_until
from tests.live.harness.chaos import (
    EACH_VICTIM,
    IN_TURN,
    TRAINING,
    VICTIMS,
    Annotator,
    Chaos,
    start_chaos,
    stop_chaos,
)
from training.committee.registry import Registry

CHAOS_S = float(os.environ.get("CHAOS_S", "180"))
"""How long the soak kills, in seconds; killing each in turn comes first, however long it takes."""

AT_RANDOM_S = 25.0
"""Killing at random lasts at least this long."""

RECOVERY_LIMIT_S = 60.0
"""No limit on speed: a round that waits for RQ's maintenance, or for a person, waits for longer."""

FORGOTTEN_LIMIT_S = 180.0
"""RQ gives up the job of a killed worker after 90 s, at its next maintenance, 60 s apart."""

LABELLED = 6
SEED = 20260728

pytestmark = [pytest.mark.live, pytest.mark.timeout(CHAOS_S + 1200)]


@dataclass(frozen=True)
class Plan:
    """What is killed.

    Attributes:
        cells: (stage, victim), each once.
        lasts_s: random blows follow until the whole has lasted this long; None: no random blows.
        retrain_every: how many labels start a round.
        engine: that predicts; OpenVINO compiles for seconds in each process.
    """

    cells: frozenset[tuple[str, str]]
    lasts_s: float | None
    retrain_every: int
    engine: str


PLANS = (
    pytest.param(Plan(EACH_VICTIM, None, 1000, "torch"), id="each-victim"),
    pytest.param(Plan(IN_TURN, CHAOS_S, 8, "auto"), id="each-stage", marks=pytest.mark.soak),
)


@dataclass
class Outcome:
    """What was left when all was quiet again."""

    plan: Plan
    chaos: Chaos
    annotator: Annotator
    last: Round


@pytest.fixture(scope="module", params=PLANS)
def outcome(
    request: pytest.FixtureRequest,
    label_studio_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Outcome]:
    """The state after all blows and one last round over everything that was labelled."""
    chaos = start_chaos(
        tmp_path_factory.mktemp("chaos"),
        label_studio_template,
        images=36,
        seed=SEED,
        engine=request.param.engine,
        retrain_every=request.param.retrain_every,
    )
    yield _under(request.param, chaos)
    stop_chaos(chaos)


def _under(plan: Plan, chaos: Chaos) -> Outcome:
    ends_at = time.monotonic() + (plan.lasts_s or 0.0)
    learning = frozenset(cell for cell in plan.cells if cell[0] in TRAINING)
    chaos.in_turn(plan.cells - learning, when_idle=chaos.want_order)
    chaos.project.label(*chaos.project.few(LABELLED))
    annotator = Annotator(chaos, chaos.stack.label_studio.second, SEED)
    annotator.start()
    chaos.in_turn(learning, when_idle=chaos.press_start)
    if plan.lasts_s is not None:
        chaos.at_random(until=max(ends_at, time.monotonic() + AT_RANDOM_S))
    chaos.stack.wait(annotator.has_met_a_prediction, "the annotator to meet a pre-annotation")
    annotator.end()
    last = _last_round(chaos)
    print(f"\n{chaos.report(annotator)}")
    return Outcome(plan, chaos, annotator, last)


def _last_round(chaos: Chaos) -> Round:
    """A training round that began when all labels were there, and nothing is asked for since."""
    labelled_at = time.time()

    def ended() -> Round | None:
        row = chaos.stack.last_train(chaos.project)
        if row is None or row.started_at < labelled_at:
            chaos.press_start()
            return None
        quiet = chaos.at_work()[0] is None and not chaos.ledger.events.pending(chaos.project.row_id)
        return row if quiet else None

    return chaos.stack.wait(ended, "the last round to end, and all to be quiet")


def test_every_blow_of_the_plan_fell_on_what_was_at_work(outcome: Outcome) -> None:
    hits = outcome.chaos.hits()
    assert {cell for cell in outcome.plan.cells if not hits[cell]} == set()
    how = Counter(blow.how for blow in outcome.chaos.blows if blow.held)
    assert {"Valkey, empty afterwards", "Valkey, its jobs kept"} <= how.keys()
    assert {"the web's parent", "one of the web's processes"} <= how.keys()
    by_chance = [blow for blow in outcome.chaos.blows if blow.phase == "at random"]
    assert {blow.victim for blow in by_chance} <= set(VICTIMS)
    assert bool(by_chance) == (outcome.plan.lasts_s is not None)


def test_a_round_goes_on_within_a_minute_of_any_blow(outcome: Outcome) -> None:
    late = [blow for blow in outcome.chaos.blows if blow.recovered_s > scaled(RECOVERY_LIMIT_S)]
    assert late == []


def test_no_round_failed_of_it(outcome: Outcome) -> None:
    ended = [(row.id, row.state, row.error) for row in outcome.chaos.rounds()]
    assert [row for row in ended if row[1] not in ("succeeded", "cancelled")] == []


def test_nobody_s_open_task_was_refused(outcome: Outcome) -> None:
    assert outcome.annotator.refused == []
    assert outcome.annotator.submitted > 0
    assert outcome.annotator.with_prediction > 0


def test_every_annotation_is_in_the_last_manifest(outcome: Outcome) -> None:
    chaos = outcome.chaos
    held = {
        (task_id, stamp.annotation_id, stamp.updated_at)
        for task_id, stamps in chaos.stack.work.studio.stamps(chaos.project.id).items()
        for stamp in stamps
        if not stamp.skipped
    }
    used = {
        (entry["task"], annotation_id, updated_at)
        for entry in outcome.last.manifest
        for annotation_id, updated_at in entry["annotations"]
    }
    assert used == held
    assert len(held) >= outcome.annotator.submitted


def test_every_version_is_whole(outcome: Outcome) -> None:
    chaos = outcome.chaos
    slug = chaos.ledger.projects.get(chaos.project.row_id).slug
    registry = Registry(chaos.stack.settings.registry_path)
    versions = registry.versions(slug)
    assert versions
    for number in versions:
        folder = registry.version_path(slug, number)
        for name, checksum in registry.files(slug, number).items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum
    promoted = chaos.ledger.versions.promoted(chaos.project.row_id)
    assert promoted.number in versions


def test_one_publication_serves_and_label_studio_has_it_without_doubles(outcome: Outcome) -> None:
    chaos = outcome.chaos
    publications = chaos.ledger.publications.all(chaos.project.row_id)
    (serving,) = [row for row in publications if row.state == "serving"]
    assert chaos.stack.work.studio.project(chaos.project.id).model_version == serving.name
    ranked = chaos.project.ranking()
    assert len(ranked) == serving.length == serving.stored
    for task in chaos.stack.work.studio.tasks(chaos.project.id):
        rows = chaos.stack.work.studio.predictions(task.id)
        of_it = [row for row in rows if row["model_version"] == serving.name]
        assert len(of_it) == 1 if task.id in ranked else len(of_it) <= 1


def test_every_event_is_handled(outcome: Outcome) -> None:
    assert outcome.chaos.ledger.events.pending(outcome.chaos.project.row_id) == []


def test_no_job_and_no_process_is_left_without_a_parent(outcome: Outcome) -> None:
    chaos = outcome.chaos
    left = chaos.jobs_in_redis()
    wait_until(lambda: chaos.jobs_in_redis() == [], FORGOTTEN_LIMIT_S, f"{left} to be gone")
    assert chaos.orphans() == []
    assert chaos.stack.horses() == []


def test_the_order_that_is_served_is_the_ranking(outcome: Outcome) -> None:
    chaos = outcome.chaos
    labelled = chaos.stack.work.studio.stamps(chaos.project.id)
    left = [task_id for task_id in chaos.project.ranking() if task_id not in labelled]
    served = []
    for _ in left[:3]:
        task = outcome.annotator.open_next()
        assert task is not None
        served.append(task["id"])
        outcome.annotator.submit(task)
    assert served == left[:3]
    assert outcome.annotator.refused == []
