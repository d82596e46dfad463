"""The ledger on a real SQLite file: leases, fan-in, one round a project, publications."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic import command
from alembic.config import Config

from backend.errors import LeaseLost, LedgerUnavailable, UnknownProject
from backend.ledger import ledger as ledger_module
from backend.ledger.ledger import (
    LEASE_S,
    LONGEST_DELAY_S,
    LONGEST_WAIT_S,
    Ledger,
    Row,
    make_engine,
    upgrade,
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    upgrade(url)
    opened = Ledger(url, busy_s=0.2)
    yield opened
    opened.close()


@pytest.fixture
def project(ledger: Ledger) -> Row:
    return ledger.ensure_project("http://studio", 7, 1795468845, title="Urine")


def start(ledger: Ledger, project: Row, kind: str = "train") -> Row:
    stage = "collect" if kind == "train" else "choose"
    round_ = ledger.start_round(project["id"], kind, "asked for", stage, {})
    assert round_ is not None
    return round_


def take(ledger: Ledger, holder: str = "host-1-0") -> Row:
    part = ledger.take_part(ledger.waiting_parts()[0]["id"], holder)
    assert part is not None
    return part


def finish(
    ledger: Ledger, part: Row, stage: str | None, payloads: list[dict[str, int]] | None = None
) -> bool:
    return ledger.finish_part(
        part["id"], part["token"], {}, next_stage=stage, next_payloads=payloads or [{}]
    )


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


def test_a_ledger_of_a_newer_release_is_refused(url: str, tmp_path: Path) -> None:
    upgrade(url)
    with sqlite3.connect(tmp_path / "ledger.sqlite3") as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    db.close()
    opened = Ledger(url)
    with pytest.raises(LedgerUnavailable, match="newer release"):
        opened.check_schema()
    with pytest.raises(LedgerUnavailable, match="newer release"):
        upgrade(url)
    opened.close()


def test_a_locked_ledger_says_so_in_a_sentence(
    ledger: Ledger, project: Row, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="locked"):
        ledger.add_event(project["id"], "ANNOTATION_CREATED", [1])
    other.execute("ROLLBACK")
    other.close()
    ledger.add_event(project["id"], "ANNOTATION_CREATED", [1])


def test_a_project_is_known_by_server_id_and_creation_time(ledger: Ledger, project: Row) -> None:
    again = ledger.ensure_project("http://studio", 7, 1795468845, title="Renamed")
    anew = ledger.ensure_project("http://studio", 7, 1800000000)
    assert again["id"] == project["id"]
    assert again["title"] == "Renamed"
    assert anew["id"] != project["id"]
    assert ledger.project_of_studio("http://studio", 7)["id"] == anew["id"]


def test_an_unknown_project_names_the_command_that_connects_it(ledger: Ledger) -> None:
    with pytest.raises(UnknownProject, match="connect --project 8"):
        ledger.project_of_studio("http://studio", 8)


def test_only_one_round_of_a_project_is_under_way(ledger: Ledger, project: Row) -> None:
    other = ledger.ensure_project("http://studio", 8, 1)
    start(ledger, project)
    assert ledger.start_round(project["id"], "rank", "again", "choose", {}) is None
    assert ledger.start_round(other["id"], "train", "beside", "collect", {}) is not None


def test_twenty_threads_open_one_round(ledger: Ledger, url: str, project: Row) -> None:
    opened: list[Row | None] = []
    patient = Ledger(url, busy_s=10)

    def ask() -> None:
        opened.append(patient.start_round(project["id"], "train", "race", "collect", {}))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    patient.close()
    assert sum(round_ is not None for round_ in opened) == 1


def test_version_numbers_are_never_given_twice(ledger: Ledger, project: Row) -> None:
    first = start(ledger, project)
    ledger.fail_round(first["id"], "no labels")
    assert (first["version"], start(ledger, project)["version"]) == (1, 2)


def test_a_part_is_one_worker_s_alone(ledger: Ledger, project: Row) -> None:
    start(ledger, project)
    part = take(ledger)
    assert ledger.take_part(part["id"], "another") is None
    assert ledger.waiting_parts() == []


def test_the_last_part_of_a_stage_opens_the_next(ledger: Ledger, project: Row) -> None:
    round_ = start(ledger, project)
    assert finish(ledger, take(ledger), "fit", [{"member": 0}, {"member": 1}])
    assert not finish(ledger, take(ledger), "assemble")
    assert ledger.round(round_["id"])["stage"] == "fit"
    assert finish(ledger, take(ledger), "assemble")
    after = ledger.round(round_["id"])
    assert after["stage"] == "assemble"
    assert set(after["timings"]) == {"collect", "fit"}
    assert [part["payload"] for part in ledger.parts(round_["id"], "fit")] == [
        {"member": 0},
        {"member": 1},
    ]


def test_a_round_that_ends_is_counted_again(ledger: Ledger, project: Row) -> None:
    round_ = start(ledger, project)
    finish(ledger, take(ledger), None)
    assert ledger.round(round_["id"])["state"] == "succeeded"
    assert [e["action"] for e in ledger.pending_events(project["id"])] == ["ROUND_ENDED"]
    assert ledger.active_round(project["id"]) is None


def test_an_expired_lease_goes_to_another_and_the_first_writes_nothing(
    ledger: Ledger, project: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "LEASE_S", -1.0)
    start(ledger, project)
    first = take(ledger, "silent")
    second = take(ledger, "other")
    assert second["attempts"] == 2
    with pytest.raises(LeaseLost):
        finish(ledger, first, "fit")
    assert not ledger.renew_part(first["id"], first["token"], 0.5)
    assert finish(ledger, second, "fit")


def test_a_delivered_part_is_not_delivered_again_at_once(ledger: Ledger, project: Row) -> None:
    start(ledger, project)
    ledger.mark_delivered(ledger.waiting_parts()[0]["id"])
    assert ledger.waiting_parts() == []


def test_a_part_that_redis_lost_is_delivered_again(
    ledger: Ledger, project: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(ledger, project)
    ledger.mark_delivered(ledger.waiting_parts()[0]["id"])
    monkeypatch.setattr(ledger_module, "DELIVER_AGAIN_S", -1.0)
    assert len(ledger.waiting_parts()) == 1


def test_what_a_stopped_parent_s_workers_held_waits_again_at_once(
    ledger: Ledger, project: Row
) -> None:
    start(ledger, project)
    ledger.mark_delivered(ledger.waiting_parts()[0]["id"])
    take_id = ledger.parts(ledger.round(1)["id"])[0]["id"]
    assert ledger.take_part(take_id, "host-12-0") is not None
    assert ledger.holders() == {"host-12-0"}
    ledger.release_parts({"host-1-0"}, died=False)
    assert ledger.waiting_parts() == []
    ledger.release_parts({"host-12-0"}, died=False)
    (part,) = ledger.waiting_parts()
    assert part["attempts"] == 0
    assert ledger.holders() == set()


def test_what_a_killed_worker_held_waits_again_at_once_and_its_attempt_counts(
    ledger: Ledger, project: Row
) -> None:
    start(ledger, project)
    part = take(ledger, "host-12-0")
    ledger.release_parts({"host-12-0"}, died=True)
    (waiting,) = ledger.waiting_parts()
    assert (waiting["id"], waiting["attempts"]) == (part["id"], 1)
    with pytest.raises(LeaseLost):
        finish(ledger, part, "judge")


def test_a_parent_keeps_what_its_workers_took_of_late_and_nothing_else(
    ledger: Ledger, project: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "LEASE_S", -1.0)
    start(ledger, project)
    part = take(ledger, "host-12-0")
    monkeypatch.setattr(ledger_module, "LEASE_S", 30.0)
    ledger.renew_young_parts({"host-13-0"}, 300)
    ledger.renew_young_parts({"host-12-0"}, -1.0)  # taken longer ago than that
    assert ledger.parts(part["round_id"])[0]["lease_until"] == part["lease_until"]
    ledger.renew_young_parts({"host-12-0"}, 300)
    assert ledger.waiting_parts() == []
    assert finish(ledger, part, "judge")


def test_a_retried_part_waits_its_time(ledger: Ledger, project: Row) -> None:
    start(ledger, project)
    part = take(ledger)
    ledger.retry_part(part["id"], part["token"], delay_s=LONGEST_DELAY_S)
    assert ledger.waiting_parts() == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The ledger's clock, ``ahead_s`` of the machine's."""
    clock = SimpleNamespace(ahead_s=0.0)
    clock.time = lambda: time.time() + clock.ahead_s
    monkeypatch.setattr(ledger_module, "time", clock)
    return clock


def test_a_part_is_delivered_again_after_the_clock_was_set_back(
    ledger: Ledger, project: Row, clock: SimpleNamespace
) -> None:
    clock.ahead_s = 3600.0
    start(ledger, project)
    ledger.mark_delivered(ledger.waiting_parts()[0]["id"])
    clock.ahead_s = 0.0
    assert len(ledger.waiting_parts()) == 1


def test_a_retried_part_does_not_wait_for_a_clock_that_was_set_back(
    ledger: Ledger, project: Row, clock: SimpleNamespace
) -> None:
    clock.ahead_s = 3600.0
    start(ledger, project)
    part = take(ledger)
    ledger.retry_part(part["id"], part["token"], delay_s=LONGEST_DELAY_S)
    clock.ahead_s = 0.0
    assert len(ledger.waiting_parts()) == 1


def test_a_lease_from_before_the_clock_was_set_back_is_kept_by_who_renews_it_alone(
    ledger: Ledger, project: Row, clock: SimpleNamespace
) -> None:
    clock.ahead_s = 3600.0
    start(ledger, project)
    part = take(ledger)
    clock.ahead_s = 0.0
    ledger.waiting_parts()
    assert ledger.renew_part(part["id"], part["token"], 0.5)  # it was not taken away
    clock.ahead_s = LEASE_S + 1
    assert len(ledger.waiting_parts()) == 1


def test_a_failed_round_says_why_and_backs_off(ledger: Ledger, project: Row) -> None:
    round_ = start(ledger, project)
    part = take(ledger)
    ledger.fail_round(round_["id"], "every image is unreadable")
    row = ledger.project(project["id"])
    assert row["last_error"] == "every image is unreadable"
    assert row["failures"] == 1
    first_wait = row["not_before"]
    with pytest.raises(LeaseLost):
        finish(ledger, part, "fit")
    ledger.fail_round(start(ledger, project)["id"], "again")
    assert ledger.project(project["id"])["not_before"] > first_wait


def test_a_project_that_has_failed_for_months_still_waits_an_hour(
    ledger: Ledger, project: Row
) -> None:
    ledger.update_project(project["id"], failures=5000)
    ledger.fail_round(start(ledger, project)["id"], "as ever")
    row = ledger.project(project["id"])
    assert row["failures"] == 5001
    assert row["not_before"] - time.time() == pytest.approx(LONGEST_WAIT_S, abs=60)


def publish(ledger: Ledger, project: Row, version: int, tasks: list[int]) -> Row:
    round_ = start(ledger, project, "rank")
    publication = ledger.prepare_publication(
        project["id"],
        version,
        round_["id"],
        arm="predictive_entropy/image_mean",
        quantiles=[0.5, 0.1],
        rows=[
            {"task_id": task, "position": i, "doubt": 1.0 / (i + 1), "audit": False, "arms": {}}
            for i, task in enumerate(tasks)
        ],
    )
    finish(ledger, take(ledger), None)
    return publication


def test_each_attempt_is_a_publication_of_its_own(ledger: Ledger, project: Row) -> None:
    first = publish(ledger, project, 3, [4, 2])
    second = publish(ledger, project, 3, [2])
    assert (first["name"], second["name"]) == ("committee-v3.1", "committee-v3.2")
    assert ledger.serving(project["id"]) is None


def test_one_publication_serves_and_the_former_is_superseded(ledger: Ledger, project: Row) -> None:
    first, second = publish(ledger, project, 1, [4, 2]), publish(ledger, project, 1, [2])
    for publication in (first, second):
        ledger.serve_publication(publication["id"], stored=2)
    serving = ledger.serving(project["id"])
    assert serving is not None
    assert serving["name"] == second["name"]
    states = {row["name"]: row["state"] for row in ledger.publications(project["id"])}
    assert states == {first["name"]: "superseded", second["name"]: "serving"}
    assert [row["task_id"] for row in ledger.ranking(first["id"])] == [4, 2]


def test_old_rankings_are_forgotten(ledger: Ledger, project: Row) -> None:
    old = [publish(ledger, project, 1, [1, 2]) for _ in range(3)]
    for publication in old:
        ledger.serve_publication(publication["id"], stored=2)
    ledger.drop_rankings(project["id"], keep=1)
    assert [len(ledger.ranking(publication["id"])) for publication in old] == [0, 0, 2]


def test_the_rankings_by_which_somebody_labelled_since_the_last_training_stay(
    ledger: Ledger, project: Row
) -> None:
    old = [serve(ledger, project) for _ in range(2)]
    training = start(ledger, project)
    part = take(ledger)
    ledger.finish_part(
        part["id"],
        part["token"],
        {},
        next_stage=None,
        next_payloads=[],
        round_values={"manifest": [{"task": 1, "stamp": "a", "digest": None}]},
    )
    assert ledger.round(training["id"])["state"] == "succeeded"
    since = [serve(ledger, project) for _ in range(6)]
    left = [*old, *since]
    # The second was superseded since, so that until then somebody labelled by it.
    ledger.drop_rankings(project["id"], keep=1, keep_unjudged=50)
    assert [len(ledger.ranking(each["id"])) for each in left] == [0, *[2] * 7]
    chosen = ledger.chosen_for(project["id"], {1: served_at(ledger, since[0])})
    assert chosen == {1: "doubt"}
    ledger.drop_rankings(project["id"], keep=1, keep_unjudged=3)
    assert [len(ledger.ranking(each["id"])) for each in left] == [0, 0, 0, 0, *[2] * 4]


def serve(ledger: Ledger, project: Row) -> Row:
    publication = publish(ledger, project, 1, [1, 2])
    ledger.serve_publication(publication["id"], stored=2)
    return publication


def served_at(ledger: Ledger, publication: Row) -> float:
    (found,) = (p for p in ledger.publications(1) if p["id"] == publication["id"])
    return float(found["served_at"])


def test_attempts_that_failed_do_not_push_out_the_ranking_that_serves(
    ledger: Ledger, project: Row
) -> None:
    left = publish(ledger, project, 1, [1, 2])  # prepared by a round that died
    serving = publish(ledger, project, 1, [1, 2])
    ledger.serve_publication(serving["id"], stored=2)
    failed = [publish(ledger, project, 1, [1, 2]) for _ in range(3)]
    for publication in failed:
        ledger.set_publication_state(publication["id"], "failed")
    coming = publish(ledger, project, 1, [1, 2])
    ledger.drop_rankings(project["id"], keep=2)
    made = (left, serving, *failed, coming)
    assert [len(ledger.ranking(each["id"])) for each in made] == [0, 2, 0, 0, 0, 2]


def test_a_promoted_version_ranks_until_it_is_withdrawn(ledger: Ledger, project: Row) -> None:
    for number, state in ((1, "promoted"), (2, "promoted"), (3, "kept")):
        round_ = start(ledger, project)
        ledger.record_version(
            project["id"],
            number,
            round_["id"],
            state=state,
            reason="",
            members=2,
            classes=("background", "cell"),
            metrics={},
        )
        ledger.fail_round(round_["id"], "not the point here")
    assert ledger.promoted_version(project["id"])["number"] == 2  # type: ignore[index]
    ledger.set_version_state(project["id"], 2, "withdrawn", "rolled back")
    assert ledger.promoted_version(project["id"])["number"] == 1  # type: ignore[index]


def test_a_forgotten_project_leaves_no_row(ledger: Ledger, project: Row, tmp_path: Path) -> None:
    publish(ledger, project, 1, [1, 2])
    judge(ledger, project, [evidence(1)])
    ledger.add_event(project["id"], "ANNOTATION_CREATED", [1])
    ledger.forget_project(project["id"])
    tables = ("projects", "events", "rounds", "parts", "publications", "ranking", "evidence")
    with sqlite3.connect(tmp_path / "ledger.sqlite3") as db:
        for table in tables:
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # noqa: S608
    db.close()


def test_a_file_that_is_no_database_is_named_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").write_text("not a database, whatever its name says" * 100)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    with pytest.raises(LedgerUnavailable, match="no database that SQLite can read"):
        ledger.projects()
    ledger.close()


def test_a_publication_never_takes_a_name_that_is_taken(ledger: Ledger) -> None:
    project = ledger.ensure_project("http://ls", 77, 5)
    opened = ledger.start_round(project["id"], "train", "test", "collect", {})
    assert opened is not None
    made = ledger.prepare_publication(
        project["id"],
        1,
        opened["id"],
        arm="a/b",
        quantiles=[],
        rows=[],
        taken={"committee-v1.1", "committee-v1.2", "committee-v2.3"},
    )
    assert (made["name"], made["n"]) == ("committee-v1.3", 3)


def evidence(task_id: int, round_id: int = 1, **values: Any) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "round_id": round_id,
        "version": 1,
        "stamp": "a" * 16,
        "rewards": {"predictive_entropy": 0.5},
        "scores": {"predictive_entropy/image_mean": 0.2},
        "error": 0.1,
        "wrong": 100,
        "judged": 1000,
        "audit": False,
        "chosen_for": "doubt",
        **values,
    }


def judge(
    ledger: Ledger, project: Row, judged: list[dict[str, Any]], withdrawn: tuple[int, ...] = ()
) -> None:
    start(ledger, project)
    part = take(ledger)
    ledger.finish_part(
        part["id"],
        part["token"],
        {},
        next_stage=None,
        next_payloads=[],
        judged=judged,
        withdrawn=withdrawn,
    )


class TestEvidence:
    def test_a_part_writes_replaces_and_withdraws_it(self, ledger: Ledger, project: Row) -> None:
        judge(ledger, project, [evidence(1), evidence(2), evidence(3)])
        judge(ledger, project, [evidence(2, error=0.4)], withdrawn=(3, 99))
        rows = ledger.evidence(project["id"])
        assert [(row["task_id"], row["error"]) for row in rows] == [(1, 0.1), (2, 0.4)]
        assert rows[0]["scores"] == {"predictive_entropy/image_mean": 0.2}

    def test_it_comes_by_the_round_that_judged_first(self, ledger: Ledger, project: Row) -> None:
        judge(ledger, project, [evidence(9)])
        judge(ledger, project, [evidence(5, 2)])
        judge(ledger, project, [evidence(7)])  # edited since: it keeps its round
        assert [row["task_id"] for row in ledger.evidence(project["id"])] == [7, 9, 5]

    def test_a_lost_lease_writes_none_of_it(self, ledger: Ledger, project: Row) -> None:
        judge(ledger, project, [evidence(1)])
        round_ = start(ledger, project)
        part = take(ledger)
        ledger.fail_round(round_["id"], "the worker was slow")
        with pytest.raises(LeaseLost):
            ledger.finish_part(
                part["id"],
                part["token"],
                {},
                next_stage="fit",
                next_payloads=[{}],
                judged=[evidence(2)],
                withdrawn=[1],
            )
        assert [row["task_id"] for row in ledger.evidence(project["id"])] == [1]

    def test_what_cannot_be_written_whole_leaves_the_part_undone(
        self, ledger: Ledger, project: Row
    ) -> None:
        judge(ledger, project, [evidence(1)])
        round_ = start(ledger, project)
        part = take(ledger)
        with pytest.raises(ValueError, match="at least one part"):
            ledger.finish_part(
                part["id"],
                part["token"],
                {},
                next_stage="fit",
                next_payloads=[],
                judged=[evidence(2)],
                withdrawn=[1],
            )
        assert [row["task_id"] for row in ledger.evidence(project["id"])] == [1]
        assert [row["state"] for row in ledger.parts(round_["id"])] == ["leased"]

    def test_two_projects_keep_theirs_apart(self, ledger: Ledger, project: Row) -> None:
        other = ledger.ensure_project("http://studio", 8, 1)
        judge(ledger, project, [evidence(1)])
        judge(ledger, other, [evidence(1, 2)])
        judge(ledger, other, [], withdrawn=(1,))
        assert len(ledger.evidence(project["id"])) == 1
        assert ledger.evidence(other["id"]) == []

    def test_it_is_withdrawn_without_a_round(self, ledger: Ledger, project: Row) -> None:
        judge(ledger, project, [evidence(1), evidence(2)])
        ledger.withdraw_evidence(project["id"], {2, 99})
        assert [row["task_id"] for row in ledger.evidence(project["id"])] == [1]

    def test_a_task_was_asked_for_by_the_queue_that_served_when_it_was_labelled(
        self, ledger: Ledger, project: Row, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = [1000.0]
        monkeypatch.setattr(ledger_module.time, "time", lambda: clock[0])

        def serve(version: int, whys: dict[int, str], state: str | None = None) -> None:
            round_ = start(ledger, project, "rank")
            rows = [
                {"task_id": t, "position": t, "doubt": 0.5, "audit": False, "arms": {}, "why": why}
                for t, why in whys.items()
            ]
            made = ledger.prepare_publication(
                project["id"], version, round_["id"], arm="", quantiles=[], rows=rows
            )
            finish(ledger, take(ledger), None)
            if state is None:
                ledger.serve_publication(made["id"], len(rows))
            else:
                ledger.set_publication_state(made["id"], state)

        serve(1, {1: "doubt", 2: "chance", 3: "doubt", 4: "doubt"})
        clock[0] = 1100.0
        serve(1, {1: "class", 4: "chance"})
        serve(1, {2: "audit"}, state="failed")
        ledger.set_publication_state(ledger.publications(project["id"])[0]["id"], "deleted")
        labelled_at = {1: 1200.0, 2: 1200.0, 4: 1099.0, 5: 1200.0}
        assert ledger.chosen_for(project["id"], labelled_at) == {
            1: "class",
            2: "chance",
            4: "doubt",  # what the later queue said of it nobody saw
        }
        assert ledger.chosen_for(project["id"], {1: 999.0}) == {}


class TestStartRounds:
    def test_one_that_fails_makes_no_training_wait(self, ledger: Ledger, project: Row) -> None:
        ledger.fail_round(start(ledger, project, "start")["id"], "no weights")
        row = ledger.project(project["id"])
        assert (row["last_error"], row["failures"], row["not_before"]) == ("no weights", 0, 0.0)
        start(ledger, project, "start")
        finish(ledger, take(ledger), None)
        assert ledger.project(project["id"])["last_error"] is None

    def test_one_that_succeeds_hides_no_failed_training(self, ledger: Ledger, project: Row) -> None:
        ledger.fail_round(start(ledger, project)["id"], "too few labels")
        before = ledger.project(project["id"])
        start(ledger, project, "start")
        finish(ledger, take(ledger), None)
        assert ledger.project(project["id"]) == before

    def test_a_cancelled_one_makes_way_and_its_worker_writes_nothing(
        self, ledger: Ledger, project: Row
    ) -> None:
        round_ = start(ledger, project, "start")
        part = take(ledger)
        assert ledger.cancel_round(round_["id"], "training is due")
        assert not ledger.cancel_round(round_["id"], "again")
        assert start(ledger, project)["kind"] == "train"
        assert not ledger.renew_part(part["id"], part["token"], 0.5)
        with pytest.raises(LeaseLost):
            finish(ledger, part, "score")
        assert ledger.round(round_["id"])["state"] == "cancelled"


def test_a_ledger_of_the_first_schema_keeps_its_rows(url: str, tmp_path: Path) -> None:
    config = Config()
    config.set_main_option(
        "script_location", str(Path(ledger_module.__file__).parent / "migrations")
    )
    engine = make_engine(url, busy_s=1)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.commit()
    engine.dispose()
    with sqlite3.connect(tmp_path / "ledger.sqlite3") as db:
        db.executescript("""
            INSERT INTO projects VALUES (1, 'http://studio', 7, 5, 'slug', 'Urine', '<View/>', '{}',
              NULL, 1, 0, NULL, 0, 0.0, NULL, NULL, 3, 2, 0, 9, 0);
            INSERT INTO rounds VALUES (4, 1, 'train', 'asked for', 'publish', 'succeeded', 1, NULL,
              '[]', '{}', '[{"task": 3, "stamp": "aa"}]', '{}', 1.0, 1.0, 2.0);
            INSERT INTO publications VALUES (6, 1, 1, 1, 'committee-v1.1', 4, 'serving',
              'mutual_information/image_mean', '[0.9, 0.1]', 2, 2, 1.0, 1.0, NULL);
            INSERT INTO ranking VALUES (6, 11, 0, 0.9, 0, '{"mutual_information/image_mean": 0.9}');
            INSERT INTO ranking VALUES (6, 12, 1, 0.1, 1, '{"mutual_information/image_mean": 0.1}');
        """)
    db.close()
    upgrade(url)
    ledger = Ledger(url)
    ledger.check_schema()
    serving = ledger.serving(1)
    assert serving is not None
    assert (serving["name"], serving["arm"], serving["quantiles"]) == (
        "committee-v1.1",
        "mutual_information/image_mean",
        [0.9, 0.1],
    )
    assert (serving["mode"], serving["weights"], serving["arm_quantiles"]) == (None, None, None)
    ranked = [(row["task_id"], row["why"]) for row in ledger.ranking(6)]
    assert ranked == [(11, "doubt"), (12, "audit")]
    assert ledger.last_manifest(1) == [{"task": 3, "stamp": "aa"}]
    assert ledger.evidence(1) == []
    judge(ledger, ledger.project(1), [evidence(3, 4)])
    assert [row["task_id"] for row in ledger.evidence(1)] == [3]
    ledger.close()
