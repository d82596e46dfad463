"""The ledger on SQLite and on PostgreSQL: leases, fan-in, one round a project, publications."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import cast

import pytest
from sqlalchemy import func, select, text

from backend.data_dir import MOST_NAMES
from backend.errors import LeaseLost, LedgerUnavailable, UnknownProject
from backend.ledger import Evidence, Ledger, Outcome, Part, Project, Publication, Round, upgrade
from backend.ledger import parts as parts_module
from backend.ledger.entities import Base, StudioName
from backend.ledger.parts import LEASE_S, LONGEST_DELAY_S
from backend.ledger.rounds import LONGEST_WAIT_S
from tests.backend.ledger.old_ledger import make_old_ledger
from tests.backend.rows import evidence, place


def start(ledger: Ledger, project: Project, kind: str = "train") -> Round:
    stage = "collect" if kind == "train" else "choose"
    round_ = ledger.rounds.start(project.id, kind, "asked for", stage, {})
    assert round_ is not None
    return round_


def take(ledger: Ledger, holder: str = "host-1-0") -> Part:
    part = ledger.parts.take(ledger.parts.waiting()[0].id, holder)
    assert part is not None
    return part


def finish(
    ledger: Ledger, part: Part, stage: str | None, payloads: list[dict[str, int]] | None = None
) -> bool:
    return ledger.parts.finish(part, Outcome(next_payloads=payloads or [{}]), next_stage=stage)


def test_upgrade_is_safe_to_repeat(url: str) -> None:
    upgrade(url)
    upgrade(url)
    opened = Ledger(url)
    opened.check_schema()
    opened.close()


def test_a_ledger_that_was_never_made_is_refused_with_what_to_do(url: str) -> None:
    opened = Ledger(url)
    with pytest.raises(LedgerUnavailable, match="backend migrate"):
        opened.check_schema()
    opened.close()


def test_a_ledger_of_a_newer_release_is_refused(url: str) -> None:
    upgrade(url)
    opened = Ledger(url)
    with opened.database.write() as db:
        db.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerUnavailable, match="newer release"):
        opened.check_schema()
    with pytest.raises(LedgerUnavailable, match="newer release"):
        upgrade(url)
    opened.close()


def test_a_project_is_known_by_server_id_and_creation_time(
    ledger: Ledger, project: Project
) -> None:
    again = ledger.projects.ensure("http://studio", 7, 1795468845, title="Renamed")
    anew = ledger.projects.ensure("http://studio", 7, 1800000000)
    assert again.id == project.id
    assert again.title == "Renamed"
    assert anew.id != project.id
    assert ledger.projects.of_studio("http://studio", 7).id == anew.id


def test_an_unknown_project_names_the_command_that_connects_it(ledger: Ledger) -> None:
    with pytest.raises(UnknownProject, match="connect --project 8"):
        ledger.projects.of_studio("http://studio", 8)


def test_only_one_round_of_a_project_is_under_way(ledger: Ledger, project: Project) -> None:
    other = ledger.projects.ensure("http://studio", 8, 1)
    start(ledger, project)
    assert ledger.rounds.start(project.id, "rank", "again", "choose", {}) is None
    assert ledger.rounds.start(other.id, "train", "beside", "collect", {}) is not None


def test_twenty_threads_open_one_round(ledger: Ledger, made: str, project: Project) -> None:
    opened: list[Round | None] = []
    patient = Ledger(made, busy_s=10)

    def ask() -> None:
        opened.append(patient.rounds.start(project.id, "train", "race", "collect", {}))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    patient.close()
    assert sum(round_ is not None for round_ in opened) == 1


def test_of_many_processes_one_opens_the_round_one_takes_the_part_and_one_publication_serves(
    ledger: Ledger, made: str, project: Project
) -> None:
    # Each with a ledger of its own, as processes have: the database alone can keep them apart.
    ledgers = [Ledger(made, busy_s=30) for _ in range(6)]
    with ThreadPoolExecutor(len(ledgers)) as pool:

        def race(act: Callable[[Ledger], object]) -> list[object]:
            return [won for won in pool.map(act, ledgers) if won is not None]

        opened = race(lambda each: each.rounds.start(project.id, "rank", "race", "choose", {}))
        assert len(opened) == 1
        (part,) = ledger.parts.waiting()
        (taken,) = race(lambda each: each.parts.take(part.id, "host-1-0"))
        assert finish(ledger, cast(Part, taken), None)
        race(lambda each: each.events.add(project.id, "ANNOTATION_CREATED"))
        made_by_each = race(
            lambda each: each.publications.prepare(
                project.id, 1, part.round_id, arm="", quantiles=[], places=[place(1)]
            )
        )
        names = {cast(Publication, publication).name for publication in made_by_each}
        assert names == {f"committee-v1.{n}" for n in range(1, 7)}
        race(lambda each: each.publications.serve(each.publications.all(project.id)[0].id, 1))
    assert len(ledger.events.pending(project.id)) == 7  # and that of the round's end
    assert [row.state for row in ledger.publications.all(project.id)].count("serving") == 1
    for each in ledgers:
        each.close()


def test_version_numbers_are_never_given_twice(ledger: Ledger, project: Project) -> None:
    first = start(ledger, project)
    ledger.rounds.fail(first.id, "no labels")
    assert (first.version, start(ledger, project).version) == (1, 2)


def test_a_part_is_one_worker_s_alone(ledger: Ledger, project: Project) -> None:
    start(ledger, project)
    part = take(ledger)
    assert ledger.parts.take(part.id, "another") is None
    assert ledger.parts.waiting() == []


def test_the_last_part_of_a_stage_opens_the_next(ledger: Ledger, project: Project) -> None:
    round_ = start(ledger, project)
    assert finish(ledger, take(ledger), "fit", [{"member": 0}, {"member": 1}])
    assert not finish(ledger, take(ledger), "assemble")
    assert ledger.rounds.get(round_.id).stage == "fit"
    assert finish(ledger, take(ledger), "assemble")
    after = ledger.rounds.get(round_.id)
    assert after.stage == "assemble"
    assert set(after.timings) == {"collect", "fit"}
    assert [part.payload for part in ledger.parts.of_round(round_.id, "fit")] == [
        {"member": 0},
        {"member": 1},
    ]


def test_a_round_that_ends_is_counted_again(ledger: Ledger, project: Project) -> None:
    round_ = start(ledger, project)
    finish(ledger, take(ledger), None)
    assert ledger.rounds.get(round_.id).state == "succeeded"
    assert [e.action for e in ledger.events.pending(project.id)] == ["ROUND_ENDED"]
    assert ledger.rounds.active(project.id) is None


def test_an_expired_lease_goes_to_another_and_the_first_writes_nothing(
    ledger: Ledger, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "LEASE_S", -1.0)
    start(ledger, project)
    first = take(ledger, "silent")
    second = take(ledger, "other")
    assert second.attempts == 2
    with pytest.raises(LeaseLost):
        finish(ledger, first, "fit")
    assert not ledger.parts.renew(first, 0.5)
    assert finish(ledger, second, "fit")


def test_a_delivered_part_is_not_delivered_again_at_once(ledger: Ledger, project: Project) -> None:
    start(ledger, project)
    ledger.parts.mark_delivered(ledger.parts.waiting()[0].id)
    assert ledger.parts.waiting() == []


def test_a_part_that_redis_lost_is_delivered_again(
    ledger: Ledger, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(ledger, project)
    ledger.parts.mark_delivered(ledger.parts.waiting()[0].id)
    monkeypatch.setattr(parts_module, "DELIVER_AGAIN_S", -1.0)
    assert len(ledger.parts.waiting()) == 1


def test_what_a_stopped_parent_s_workers_held_waits_again_at_once(
    ledger: Ledger, project: Project
) -> None:
    start(ledger, project)
    ledger.parts.mark_delivered(ledger.parts.waiting()[0].id)
    take_id = ledger.parts.of_round(ledger.rounds.get(1).id)[0].id
    assert ledger.parts.take(take_id, "host-12-0") is not None
    assert ledger.parts.holders() == {"host-12-0"}
    ledger.parts.release({"host-1-0"}, died=False)
    assert ledger.parts.waiting() == []
    ledger.parts.release({"host-12-0"}, died=False)
    (part,) = ledger.parts.waiting()
    assert part.attempts == 0
    assert ledger.parts.holders() == set()


def test_what_a_killed_worker_held_waits_again_at_once_and_its_attempt_counts(
    ledger: Ledger, project: Project
) -> None:
    start(ledger, project)
    part = take(ledger, "host-12-0")
    ledger.parts.release({"host-12-0"}, died=True)
    (waiting,) = ledger.parts.waiting()
    assert (waiting.id, waiting.attempts) == (part.id, 1)
    with pytest.raises(LeaseLost):
        finish(ledger, part, "judge")


def test_a_parent_keeps_what_its_workers_took_of_late_and_nothing_else(
    ledger: Ledger, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "LEASE_S", -1.0)
    start(ledger, project)
    part = take(ledger, "host-12-0")
    monkeypatch.setattr(parts_module, "LEASE_S", 30.0)
    ledger.parts.renew_young({"host-13-0"}, 300)
    ledger.parts.renew_young({"host-12-0"}, -1.0)  # taken longer ago than that
    assert ledger.parts.of_round(part.round_id)[0].lease_until == part.lease_until
    ledger.parts.renew_young({"host-12-0"}, 300)
    assert ledger.parts.waiting() == []
    assert finish(ledger, part, "judge")


def test_a_retried_part_waits_its_time(ledger: Ledger, project: Project) -> None:
    start(ledger, project)
    part = take(ledger)
    ledger.parts.retry(part, delay_s=LONGEST_DELAY_S)
    assert ledger.parts.waiting() == []


def opened_parts(ledger: Ledger, project: Project, count: int) -> Round:
    """A ranking round with so many delivered parts to score."""
    round_ = start(ledger, project, "rank")
    part = ledger.parts.take(ledger.parts.of_round(round_.id)[0].id, "host-1-0")
    assert part is not None
    finish(ledger, part, "score", [{}] * count)
    for each in ledger.parts.of_round(round_.id, "score"):
        ledger.parts.mark_delivered(each.id)
    return round_


def test_a_project_with_few_parts_waits_for_no_more_than_one_of_another_with_many(
    ledger: Ledger, project: Project
) -> None:
    many = opened_parts(ledger, project, 40)
    other = ledger.projects.ensure("http://studio", 8, 1795468845, title="Blood")
    jobs = [part.id for part in ledger.parts.of_round(many.id, "score")]
    groups = [["fit"], ["choose", "score"]]

    def worked(job: int) -> int:
        part = ledger.parts.take_in_turn(job, "host-1-0", "http://studio", groups)
        assert part is not None
        finish(ledger, part, "publish")
        return part.round_id

    assert {worked(job) for job in jobs[:3]} == {many.id}
    few = opened_parts(ledger, other, 5)
    # In Redis the jobs of the other wait behind these.
    turns = [worked(job) for job in jobs[3:15]]
    assert turns == [many.id, few.id] * 5 + [many.id] * 2


def test_a_job_does_no_part_of_another_stage_server_or_time(
    ledger: Ledger, project: Project
) -> None:
    round_ = opened_parts(ledger, project, 2)
    job, other = (part.id for part in ledger.parts.of_round(round_.id, "score"))
    groups = [["choose"], ["score"]]
    done = ledger.parts.of_round(round_.id, "choose")[0].id
    assert ledger.parts.take_in_turn(done, "host-1-0", "http://studio", groups) is None
    assert ledger.parts.take_in_turn(job, "host-1-0", "http://elsewhere", groups) is None
    assert ledger.parts.take_in_turn(999, "host-1-0", "http://studio", groups) is None
    part = ledger.parts.take_in_turn(other, "host-1-0", "http://studio", groups)
    assert part is not None
    assert part.id == job
    ledger.parts.retry(part, delay_s=LONGEST_DELAY_S)
    part = ledger.parts.take_in_turn(job, "host-1-0", "http://studio", groups)
    assert part is not None
    assert part.id == other
    assert ledger.parts.take_in_turn(job, "host-1-0", "http://studio", groups) is None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The ledger's clock, ``ahead_s`` of the machine's."""
    clock = SimpleNamespace(ahead_s=0.0)
    clock.time = lambda: time.time() + clock.ahead_s
    monkeypatch.setattr(parts_module, "time", clock)
    return clock


def test_a_part_is_delivered_again_after_the_clock_was_set_back(
    ledger: Ledger, project: Project, clock: SimpleNamespace
) -> None:
    clock.ahead_s = 3600.0
    start(ledger, project)
    ledger.parts.mark_delivered(ledger.parts.waiting()[0].id)
    clock.ahead_s = 0.0
    assert len(ledger.parts.waiting()) == 1


def test_a_retried_part_does_not_wait_for_a_clock_that_was_set_back(
    ledger: Ledger, project: Project, clock: SimpleNamespace
) -> None:
    clock.ahead_s = 3600.0
    start(ledger, project)
    part = take(ledger)
    ledger.parts.retry(part, delay_s=LONGEST_DELAY_S)
    clock.ahead_s = 0.0
    assert len(ledger.parts.waiting()) == 1


def test_a_lease_from_before_the_clock_was_set_back_is_kept_by_who_renews_it_alone(
    ledger: Ledger, project: Project, clock: SimpleNamespace
) -> None:
    clock.ahead_s = 3600.0
    start(ledger, project)
    part = take(ledger)
    clock.ahead_s = 0.0
    ledger.parts.waiting()
    assert ledger.parts.renew(part, 0.5)  # it was not taken away
    clock.ahead_s = LEASE_S + 1
    assert len(ledger.parts.waiting()) == 1


def test_a_failed_round_says_why_and_backs_off(ledger: Ledger, project: Project) -> None:
    round_ = start(ledger, project)
    part = take(ledger)
    ledger.rounds.fail(round_.id, "every image is unreadable")
    row = ledger.projects.get(project.id)
    assert row.last_error == "every image is unreadable"
    assert row.failures == 1
    first_wait = row.not_before
    with pytest.raises(LeaseLost):
        finish(ledger, part, "fit")
    ledger.rounds.fail(start(ledger, project).id, "again")
    assert ledger.projects.get(project.id).not_before > first_wait


def test_a_project_that_has_failed_for_months_still_waits_an_hour(
    ledger: Ledger, project: Project
) -> None:
    ledger.projects.update(project.id, failures=5000)
    ledger.rounds.fail(start(ledger, project).id, "as ever")
    row = ledger.projects.get(project.id)
    assert row.failures == 5001
    assert row.not_before - time.time() == pytest.approx(LONGEST_WAIT_S, abs=60)


def publish(ledger: Ledger, project: Project, version: int, tasks: list[int]) -> Publication:
    round_ = start(ledger, project, "rank")
    publication = ledger.publications.prepare(
        project.id,
        version,
        round_.id,
        arm="predictive_entropy/image_mean",
        quantiles=[0.5, 0.1],
        places=[place(task, i, uncertainty=1.0 / (i + 1)) for i, task in enumerate(tasks)],
    )
    finish(ledger, take(ledger), None)
    return publication


def test_each_attempt_is_a_publication_of_its_own(ledger: Ledger, project: Project) -> None:
    first = publish(ledger, project, 3, [4, 2])
    second = publish(ledger, project, 3, [2])
    assert (first.name, second.name) == ("committee-v3.1", "committee-v3.2")
    assert ledger.publications.serving(project.id) is None


def test_one_publication_serves_and_the_former_is_superseded(
    ledger: Ledger, project: Project
) -> None:
    first, second = publish(ledger, project, 1, [4, 2]), publish(ledger, project, 1, [2])
    for publication in (first, second):
        ledger.publications.serve(publication.id, stored=2)
    serving = ledger.publications.serving(project.id)
    assert serving is not None
    assert serving.name == second.name
    states = {row.name: row.state for row in ledger.publications.all(project.id)}
    assert states == {first.name: "superseded", second.name: "serving"}
    assert [row.task_id for row in ledger.publications.ranking(first.id)] == [4, 2]


def test_old_rankings_are_forgotten(ledger: Ledger, project: Project) -> None:
    old = [publish(ledger, project, 1, [1, 2]) for _ in range(3)]
    for publication in old:
        ledger.publications.serve(publication.id, stored=2)
    ledger.publications.drop_rankings(project.id, keep=1)
    assert [len(ledger.publications.ranking(publication.id)) for publication in old] == [0, 0, 2]


def test_the_rankings_by_which_somebody_labelled_since_the_last_training_stay(
    ledger: Ledger, project: Project
) -> None:
    old = [serve(ledger, project) for _ in range(2)]
    training = start(ledger, project)
    part = take(ledger)
    ledger.parts.finish(
        part, Outcome(manifest=[{"task": 1, "stamp": "a", "digest": None}]), next_stage=None
    )
    assert ledger.rounds.get(training.id).state == "succeeded"
    since = [serve(ledger, project) for _ in range(6)]
    left = [*old, *since]
    # The second was superseded since, so that until then somebody labelled by it.
    ledger.publications.drop_rankings(project.id, keep=1, keep_unjudged=50)
    assert [len(ledger.publications.ranking(each.id)) for each in left] == [0, *[2] * 7]
    chosen = ledger.publications.chosen_for(project.id, {1: served_at(ledger, since[0])})
    assert chosen == {1: "uncertainty"}
    ledger.publications.drop_rankings(project.id, keep=1, keep_unjudged=3)
    assert [len(ledger.publications.ranking(each.id)) for each in left] == [0, 0, 0, 0, *[2] * 4]


def serve(ledger: Ledger, project: Project) -> Publication:
    publication = publish(ledger, project, 1, [1, 2])
    ledger.publications.serve(publication.id, stored=2)
    return publication


def served_at(ledger: Ledger, publication: Publication) -> float:
    (found,) = (p for p in ledger.publications.all(1) if p.id == publication.id)
    return float(found.served_at)


def test_attempts_that_failed_do_not_push_out_the_ranking_that_serves(
    ledger: Ledger, project: Project
) -> None:
    left = publish(ledger, project, 1, [1, 2])  # prepared by a round that died
    serving = publish(ledger, project, 1, [1, 2])
    ledger.publications.serve(serving.id, stored=2)
    failed = [publish(ledger, project, 1, [1, 2]) for _ in range(3)]
    for publication in failed:
        ledger.publications.set_state(publication.id, "failed")
    coming = publish(ledger, project, 1, [1, 2])
    ledger.publications.drop_rankings(project.id, keep=2)
    made = (left, serving, *failed, coming)
    assert [len(ledger.publications.ranking(each.id)) for each in made] == [0, 2, 0, 0, 0, 2]


def test_a_promoted_version_ranks_until_it_is_withdrawn(ledger: Ledger, project: Project) -> None:
    for number, state in ((1, "promoted"), (2, "promoted"), (3, "kept")):
        round_ = start(ledger, project)
        ledger.versions.record(
            project.id,
            number,
            round_.id,
            state=state,
            reason="",
            members=2,
            classes=("background", "cell"),
            metrics={},
        )
        ledger.rounds.fail(round_.id, "not the point here")
    assert ledger.versions.promoted(project.id).number == 2  # type: ignore[union-attr]
    ledger.versions.set_state(project.id, 2, "withdrawn", "rolled back")
    assert ledger.versions.promoted(project.id).number == 1  # type: ignore[union-attr]


def test_a_forgotten_project_leaves_no_row(ledger: Ledger, project: Project) -> None:
    publish(ledger, project, 1, [1, 2])
    judge(ledger, project, [evidence(1)])
    ledger.events.add(project.id, "ANNOTATION_CREATED", [1])
    ledger.projects.forget(project.id)
    with ledger.database.read() as db:
        for table in Base.metadata.sorted_tables:
            assert db.scalar(select(func.count()).select_from(table)) == 0


def test_a_publication_never_takes_a_name_that_is_taken(ledger: Ledger) -> None:
    project = ledger.projects.ensure("http://ls", 77, 5)
    opened = ledger.rounds.start(project.id, "train", "test", "collect", {})
    assert opened is not None
    made = ledger.publications.prepare(
        project.id,
        1,
        opened.id,
        arm="a/b",
        quantiles=[],
        places=[],
        taken={"committee-v1.1", "committee-v1.2", "committee-v2.3"},
    )
    assert (made.name, made.n) == ("committee-v1.3", 3)


def test_what_is_asked_of_many_rows_is_answered_alike(ledger: Ledger, project: Project) -> None:
    for action in ("A", "B", "A", "A", "B"):
        ledger.events.add(project.id, action)
    ends = ledger.events.pending_ends(project.id, all_of="B")
    assert [event.id for event in ends] == [1, 2, 4, 5]
    assert not ledger.events.are_enough(project.id)
    ledger.events.handle([1, 2])
    ledger.events.drop_old(-60.0)  # as if a minute had gone: the last of each action stays
    assert [event.id for event in ledger.events.pending(project.id)] == [4, 5]
    round_ = start(ledger, project)
    manifest = [{"task": 1, "stamp": "a", "digest": None}]
    ledger.parts.finish(take(ledger), Outcome(manifest=manifest, problems=["x"]), next_stage=None)
    serving = serve(ledger, project)
    ledger.rounds.forget_details(project.id, keep=0, keep_manifests=0, versions_kept=[])
    forgotten, kept = ledger.rounds.get(round_.id), serving.round_id
    assert (forgotten.manifest, forgotten.problems) == (None, [])
    assert ledger.parts.of_round(round_.id) == []
    assert len(ledger.parts.of_round(kept)) == 1
    assert ledger.rounds.newest_manifests(project.id, 5) == []
    assert [row.id for row in ledger.rounds.recent(project.id, 1, kind="rank")] == [kept]
    assert [row.task_id for row in ledger.publications.head(serving.id, 1)] == [1]
    ledger.projects.move("http://studio", "http://moved")
    assert ledger.projects.of_studio("http://moved", 7).id == project.id


def test_the_names_of_a_label_studio_are_kept_newest_first_and_go_with_it(ledger: Ledger) -> None:
    projects = ledger.projects
    for name in ("http://a", "http://b", "http://a", "http://" + "x" * 500):
        projects.note_name("http://studio", name)
    assert projects.names("http://studio") == ["http://b", "http://a"]
    assert projects.names("http://other") == []
    projects.note_name("http://moved", "http://a")
    projects.move("http://studio", "http://moved")
    assert projects.names("http://studio") == []
    assert projects.names("http://moved") == ["http://studio", "http://b", "http://a"]
    projects.move("http://elsewhere", "http://here")
    with ledger.database.read() as db:  # at any time the same, for a restore that is repeated
        assert db.get_one(StudioName, ("http://here", "http://elsewhere")).heard_at == 1.0
    for number in range(MOST_NAMES):
        projects.note_name("http://moved", f"http://{number}")
    assert len(projects.names("http://moved")) == MOST_NAMES


def test_a_process_tells_what_it_works_with_and_how_its_clock_goes(
    ledger: Ledger, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for facts in (None, {"code": "0.2.0"}):
        ledger.processes.beat("w", "worker", "", "host", 1, facts)
        (told,) = ledger.processes.all()
        assert told.facts == facts
        assert told.ahead_s == pytest.approx(0, abs=1)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now - 100)
    ledger.processes.beat("w", "worker", "", "host", 1)
    (told,) = ledger.processes.all()
    assert told.ahead_s == pytest.approx(0 if kind == "sqlite" else -100, abs=5)


def judge(
    ledger: Ledger, project: Project, judged: list[Evidence], withdrawn: tuple[int, ...] = ()
) -> None:
    start(ledger, project)
    part = take(ledger)
    ledger.parts.finish(part, Outcome(judged=judged, withdrawn=withdrawn), next_stage=None)


class TestEvidence:
    def test_a_part_writes_replaces_and_withdraws_it(
        self, ledger: Ledger, project: Project
    ) -> None:
        judge(ledger, project, [evidence(1), evidence(2), evidence(3)])
        judge(ledger, project, [evidence(2, error=0.4)], withdrawn=(3, 99))
        rows = ledger.evidence.all(project.id)
        assert [(row.task_id, row.error) for row in rows] == [(1, 0.1), (2, 0.4)]
        assert rows[0].scores == {"predictive_entropy/image_mean": 0.2}

    def test_it_comes_by_the_round_that_judged_first(
        self, ledger: Ledger, project: Project
    ) -> None:
        judge(ledger, project, [evidence(9)])
        judge(ledger, project, [evidence(5, 2)])
        judge(ledger, project, [evidence(7)])  # edited since: it keeps its round
        assert [row.task_id for row in ledger.evidence.all(project.id)] == [7, 9, 5]

    def test_a_lost_lease_writes_none_of_it(self, ledger: Ledger, project: Project) -> None:
        judge(ledger, project, [evidence(1)])
        round_ = start(ledger, project)
        part = take(ledger)
        ledger.rounds.fail(round_.id, "the worker was slow")
        with pytest.raises(LeaseLost):
            ledger.parts.finish(
                part, Outcome(judged=[evidence(2)], withdrawn=[1]), next_stage="fit"
            )
        assert [row.task_id for row in ledger.evidence.all(project.id)] == [1]

    def test_what_cannot_be_written_whole_leaves_the_part_undone(
        self, ledger: Ledger, project: Project
    ) -> None:
        judge(ledger, project, [evidence(1)])
        round_ = start(ledger, project)
        part = take(ledger)
        with pytest.raises(ValueError, match="at least one part"):
            ledger.parts.finish(
                part,
                Outcome(next_payloads=[], judged=[evidence(2)], withdrawn=[1]),
                next_stage="fit",
            )
        assert [row.task_id for row in ledger.evidence.all(project.id)] == [1]
        assert [row.state for row in ledger.parts.of_round(round_.id)] == ["leased"]

    def test_two_projects_keep_theirs_apart(self, ledger: Ledger, project: Project) -> None:
        other = ledger.projects.ensure("http://studio", 8, 1)
        judge(ledger, project, [evidence(1)])
        judge(ledger, other, [evidence(1, 2)])
        judge(ledger, other, [], withdrawn=(1,))
        assert len(ledger.evidence.all(project.id)) == 1
        assert ledger.evidence.all(other.id) == []

    def test_it_is_withdrawn_without_a_round(self, ledger: Ledger, project: Project) -> None:
        judge(ledger, project, [evidence(1), evidence(2)])
        ledger.evidence.withdraw(project.id, {2, 99})
        assert [row.task_id for row in ledger.evidence.all(project.id)] == [1]

    def test_a_task_was_asked_for_by_the_queue_that_served_when_it_was_labelled(
        self, ledger: Ledger, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = [1000.0]
        monkeypatch.setattr(parts_module.time, "time", lambda: clock[0])

        def serve(version: int, whys: dict[int, str], state: str | None = None) -> None:
            round_ = start(ledger, project, "rank")
            places = [place(task, task, why) for task, why in whys.items()]
            made = ledger.publications.prepare(
                project.id, version, round_.id, arm="", quantiles=[], places=places
            )
            finish(ledger, take(ledger), None)
            if state is None:
                ledger.publications.serve(made.id, len(places))
            else:
                ledger.publications.set_state(made.id, state)

        serve(1, {1: "uncertainty", 2: "chance", 3: "uncertainty", 4: "uncertainty"})
        clock[0] = 1100.0
        serve(1, {1: "class", 4: "chance"})
        serve(1, {2: "audit"}, state="failed")
        ledger.publications.set_state(ledger.publications.all(project.id)[0].id, "deleted")
        labelled_at = {1: 1200.0, 2: 1200.0, 4: 1099.0, 5: 1200.0}
        assert ledger.publications.chosen_for(project.id, labelled_at) == {
            1: "class",
            2: "chance",
            4: "uncertainty",  # what the later queue said of it nobody saw
        }
        assert ledger.publications.chosen_for(project.id, {1: 999.0}) == {}


class TestStartRounds:
    def test_one_that_fails_makes_no_training_wait(self, ledger: Ledger, project: Project) -> None:
        ledger.rounds.fail(start(ledger, project, "start").id, "no weights")
        row = ledger.projects.get(project.id)
        assert (row.last_error, row.failures, row.not_before) == ("no weights", 0, 0.0)
        start(ledger, project, "start")
        finish(ledger, take(ledger), None)
        assert ledger.projects.get(project.id).last_error is None

    def test_one_that_succeeds_hides_no_failed_training(
        self, ledger: Ledger, project: Project
    ) -> None:
        ledger.rounds.fail(start(ledger, project).id, "too few labels")
        before = ledger.projects.get(project.id)
        start(ledger, project, "start")
        finish(ledger, take(ledger), None)
        assert ledger.projects.get(project.id) == before

    def test_a_cancelled_one_makes_way_and_its_worker_writes_nothing(
        self, ledger: Ledger, project: Project
    ) -> None:
        round_ = start(ledger, project, "start")
        part = take(ledger)
        assert ledger.rounds.cancel(round_.id, "training is due")
        assert not ledger.rounds.cancel(round_.id, "again")
        assert start(ledger, project).kind == "train"
        assert not ledger.parts.renew(part, 0.5)
        with pytest.raises(LeaseLost):
            finish(ledger, part, "score")
        assert ledger.rounds.get(round_.id).state == "cancelled"


def test_a_ledger_of_the_first_schema_keeps_its_rows(url: str) -> None:
    make_old_ledger(
        url,
        "0001",
        """INSERT INTO ranking VALUES (6, 11, 0, 0.9, FALSE, '{"bald/image_mean": 0.9}');
        INSERT INTO ranking VALUES (6, 12, 1, 0.1, TRUE, '{"bald/image_mean": 0.1}');""",
    )
    upgrade(url)
    ledger = Ledger(url)
    ledger.check_schema()
    serving = ledger.publications.serving(1)
    assert serving is not None
    assert (serving.name, serving.arm, serving.quantiles) == (
        "committee-v1.1",
        "bald/image_mean",
        [0.9, 0.1],
    )
    assert (serving.mode, serving.weights, serving.arm_quantiles) == (None, None, None)
    ranked = [(row.task_id, row.why) for row in ledger.publications.ranking(6)]
    assert ranked == [(11, "uncertainty"), (12, "audit")]
    assert ledger.rounds.last_manifest(1) == [{"task": 3, "stamp": "aa"}]
    assert ledger.evidence.all(1) == []
    judge(ledger, ledger.projects.get(1), [evidence(3, 4)])
    assert [row.task_id for row in ledger.evidence.all(1)] == [3]
    ledger.close()


def test_what_0_1_0_called_doubt_is_called_uncertainty(url: str) -> None:
    make_old_ledger(
        url,
        "0002",
        """
        INSERT INTO ranking VALUES (6, 11, 0, 0.9, FALSE, '{"entropy/image_mean": 0.7}', 'doubt');
        INSERT INTO ranking VALUES (6, 12, 1, 0.1, FALSE, '{"entropy/image_mean": 0.1}', 'class');
        INSERT INTO evidence
          VALUES (1, 3, 4, 1, 'aa', '{}', '{}', 0.1, 10, 100, FALSE, 'doubt', 1),
          (1, 5, 4, 1, 'bb', '{}', '{}', 0.1, 10, 100, TRUE, 'audit', 1);
        """,
    )
    upgrade(url)
    ledger = Ledger(url)
    places = ledger.publications.ranking(6)
    assert [(place.task_id, place.position, place.uncertainty, place.why) for place in places] == [
        (11, 0, 0.9, "uncertainty"),
        (12, 1, 0.1, "class"),
    ]
    assert places[0].arms == {"entropy/image_mean": 0.7}
    assert [row.chosen_for for row in ledger.evidence.all(1)] == ["uncertainty", "audit"]
    ledger.close()


def test_what_has_gone_with_its_project_is_no_error(url: str) -> None:
    upgrade(url)
    ledger = Ledger(url)
    ledger.parts.mark_delivered(999)
    ledger.publications.set_state(999, "failed")
    assert not ledger.rounds.cancel(999, "gone")
    ledger.close()
