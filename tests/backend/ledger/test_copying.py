"""`ledger copy`: from either database to the other, whole, and only into what is empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from backend.cli import cli
from backend.errors import LedgerUnavailable
from backend.ledger import Ledger, Outcome, upgrade
from backend.ledger import copying as copying_module
from backend.ledger.copying import copy_ledger
from tests.backend.postgresql import PostgreSQL
from tests.backend.rows import evidence, place, stamps_listing
from tests.backend.workplaces import make_ledger


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger on SQLite with rows in every table."""
    url = f"sqlite:///{tmp_path / 'source.sqlite3'}"
    make_ledger(url)
    ledger = Ledger(url)
    project = ledger.projects.ensure("http://studio", 7, 1795468845, title="Urine ä \U0001f52c")
    ledger.projects.update(project.id, not_before=0.1 + 0.2, connection='{"token": "x"}')
    for number in range(7):
        ledger.events.add(project.id, "ANNOTATION_CREATED", [number, 2**40])
    round_ = ledger.rounds.start(project.id, "train", "asked for", "collect", {})
    assert round_ is not None
    part = ledger.parts.take(ledger.parts.waiting()[0].id, "host-1-0")
    assert part is not None
    manifest = [{"task": 3, "stamp": "aa", "digest": None}]
    outcome = Outcome(manifest=manifest, judged=[evidence(2**40, round_.id)])
    ledger.parts.finish(part, outcome, next_stage="fit")
    ledger.versions.record(
        project.id,
        1,
        round_.id,
        state="promoted",
        reason="",
        members=2,
        classes=("background", "cell"),
        metrics={"foreground_dice": 0.1 + 0.7, "ece": None},
    )
    places = [place(task, task) for task in range(5)]
    made = ledger.publications.prepare(
        project.id, 1, round_.id, arm="", quantiles=[0.1], places=places
    )
    ledger.publications.serve(made.id, stored=5)
    ledger.actions.begin(project.id, "train", who="me", login="owner")
    ledger.stamps.write(stamps_listing(project.id), {2**40: [(1, "2026-11-24T00:00:00Z", False)]})
    ledger.pool.claim(project.id, [2**62])
    ledger.projects.note_name("http://studio", "http://labels.example")
    yield ledger
    ledger.close()


@pytest.fixture
def target(postgresql: PostgreSQL) -> str:
    return postgresql.empty()


def test_a_laboratory_moves_to_postgresql_and_back(
    source: Ledger, target: str, tmp_path: Path
) -> None:
    counts = copy_ledger(source.url, target)
    assert counts == {
        **{"projects": 1, "events": 7, "rounds": 1, "parts": 2, "publications": 1},
        **{"versions": 1, "ranking": 5, "evidence": 1, "actions": 1, "studio_names": 1},
        **{"task_stamps": 1, "stamps_listings": 1, "pool_pictures": 1},
    }
    moved = Ledger(target)
    moved.check_schema()
    assert moved.projects.all() == source.projects.all()
    assert moved.events.pending(1) == source.events.pending(1)
    assert moved.versions.summaries(1) == source.versions.summaries(1)
    assert moved.evidence.all(1) == source.evidence.all(1)
    assert moved.publications.queue(1) == source.publications.queue(1)
    # It goes on from there.
    assert moved.events.add(1, "ANNOTATION_CREATED") == 8
    assert moved.parts.waiting()[0].stage == "fit"
    back = f"sqlite:///{tmp_path / 'back.sqlite3'}"
    assert copy_ledger(target, back) == {**counts, "events": 8}
    returned = Ledger(back)
    assert returned.events.pending(1) == moved.events.pending(1)
    assert returned.rounds.get(1) == moved.rounds.get(1)
    returned.close()
    moved.close()


def test_a_database_that_sorts_text_by_its_language_is_compared_all_the_same(
    source: Ledger, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    locale = "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'"
    postgresql.run(f"CREATE DATABASE english TEMPLATE template0 {locale}")
    for name in ("http://annotate.example", "http://B.example", "http://c.example"):
        source.projects.note_name("http://studio", name)
    target = postgresql.url("english")
    assert copy_ledger(source.url, target)["studio_names"] == 4
    assert copy_ledger(target, f"sqlite:///{tmp_path / 'back.sqlite3'}")["studio_names"] == 4


def test_an_interrupted_copy_opens_for_nobody_and_goes_on(
    source: Ledger, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying_module, "BATCH", 2)

    def interrupt(what: str) -> None:
        if what == "Copying events: 4 rows":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_ledger(source.url, target, interrupt)
    half = Ledger(target)
    with pytest.raises(LedgerUnavailable, match="was not finished"):
        half.check_schema()
    with pytest.raises(LedgerUnavailable, match="was not finished"):
        upgrade(target)
    said: list[str] = []
    assert copy_ledger(source.url, target, said.append)["events"] == 7
    assert [what for what in said if what.startswith("Copying events")] == [
        "Copying events: 6 rows",
        "Copying events: 7 rows",
    ]
    half.check_schema()
    half.close()
    assert copy_ledger(source.url, target)["events"] == 7  # once more changes nothing


def test_other_data_in_the_target_are_refused_and_left(source: Ledger, target: str) -> None:
    upgrade(target)
    used = Ledger(target)
    used.projects.ensure("http://studio", 8, 5, title="Blood")
    with pytest.raises(LedgerUnavailable, match=r"other data than FROM \(in the table projects\)"):
        copy_ledger(source.url, target)
    used.check_schema()
    assert [project.title for project in used.projects.all()] == ["Blood"]
    used.close()


def test_a_database_of_something_else_is_refused(
    source: Ledger, target: str, postgresql: PostgreSQL
) -> None:
    postgresql.run("CREATE TABLE task (id int)", "empty")
    with pytest.raises(LedgerUnavailable, match="TO holds other tables"):
        copy_ledger(source.url, target)


def test_a_source_that_is_no_ledger_of_this_release_is_refused_and_not_made(
    target: str, tmp_path: Path
) -> None:
    missing = tmp_path / "typo.sqlite3"
    with pytest.raises(LedgerUnavailable, match=r"FROM is no ledger of this release.*no such file"):
        copy_ledger(f"sqlite:///{missing}", target)
    assert not missing.exists()
    with pytest.raises(LedgerUnavailable, match=r"FROM is no ledger of this release.*schema none"):
        copy_ledger(target, f"sqlite:///{missing}")


def test_what_is_in_use_is_not_copied(source: Ledger, tmp_path: Path) -> None:
    source.processes.beat("w", "worker", "", "here", 17)
    with pytest.raises(LedgerUnavailable, match="FROM is in use by the worker process 17 on here"):
        copy_ledger(source.url, f"sqlite:///{tmp_path / 'to.sqlite3'}")


def test_a_value_that_changes_on_the_way_is_noticed(source: Ledger, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'to.sqlite3'}"

    def spoil(what: str) -> None:
        if what.startswith("Comparing projects"):
            target = Ledger(other)
            with target.database.write() as db:
                db.execute(text("UPDATE projects SET pool = 99"))
            target.close()

    with pytest.raises(LedgerUnavailable, match="the table projects differs"):
        copy_ledger(source.url, other, spoil)


def test_the_command_copies_and_says_what_is_next(source: Ledger, target: str) -> None:
    done = CliRunner().invoke(cli, ["ledger", "copy", source.url, target])
    assert done.exit_code == 0, done.output
    assert "events: 7" in done.output
    assert "set LEDGER_URL to TO" in done.output
    wrong = CliRunner().invoke(cli, ["ledger", "copy", "mysql://u:sesame@h/x", target])
    assert wrong.exit_code == 1
    assert "FROM must be" in wrong.output
    assert "sesame" not in wrong.output
