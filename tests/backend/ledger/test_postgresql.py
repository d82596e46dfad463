"""What PostgreSQL alone can do to a ledger: break connections, restart, refuse writes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import trustme
from sqlalchemy import text

from backend.errors import LedgerUnavailable
from backend.ledger import Ledger, Project, upgrade
from backend.ledger import engine as engine_module
from backend.ledger import postgresql as postgresql_module
from tests.backend.postgresql import PASSWORD, PostgreSQL


@pytest.fixture
def kind() -> str:
    return "postgresql"


@pytest.fixture
def patient(made: str) -> Iterator[Ledger]:
    """One that waits for longer than any of these tests makes it wait."""
    opened = Ledger(made, busy_s=60)
    yield opened
    opened.close()


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[str]]:
    """Does something once, while a ledger waits for its next try; a list of whether it did."""

    def arrange(what: Callable[[], object]) -> list[str]:
        done: list[str] = []

        def sleep(_seconds: float) -> None:
            if not done:
                what()
                done.append("done")

        clock = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
        monkeypatch.setattr(engine_module, "time", clock)
        return done

    return arrange


def kill_backends(server: PostgreSQL) -> None:
    server.run(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'ledger'"
    )


def test_connections_that_the_server_has_ended_are_made_anew(
    patient: Ledger, project: Project, postgresql: PostgreSQL
) -> None:
    assert patient.events.add(project.id, "ANNOTATION_CREATED") == 1
    kill_backends(postgresql)
    assert len(patient.events.pending(project.id)) == 1
    kill_backends(postgresql)
    assert patient.events.add(project.id, "ANNOTATION_CREATED") == 2


def test_a_server_that_restarts_is_waited_for(
    patient: Ledger,
    project: Project,
    postgresql: PostgreSQL,
    meanwhile: Callable[[Callable[[], object]], list[str]],
) -> None:
    restarted = meanwhile(postgresql.start)
    postgresql.stop()
    assert patient.events.add(project.id, "ANNOTATION_CREATED") == 1
    assert restarted


def test_a_server_that_stays_away_is_a_sentence_without_its_password(
    ledger: Ledger, project: Project, made: str, postgresql: PostgreSQL
) -> None:
    other = Ledger(made.replace("ledger@", "ledger:sesame@"), busy_s=0.2)
    postgresql.stop()
    try:
        with pytest.raises(LedgerUnavailable, match=r"\w\. Is PostgreSQL running") as refused:
            other.projects.all()
        with pytest.raises(LedgerUnavailable, match="cannot be read or written now"):
            ledger.events.add(project.id, "ANNOTATION_CREATED")
    finally:
        postgresql.start()
        other.close()
    assert "sesame" not in str(refused.value)
    assert ledger.events.add(project.id, "ANNOTATION_CREATED") == 1


def test_a_primary_that_is_read_only_for_a_while_is_waited_for_and_read_meanwhile(
    ledger: Ledger,
    patient: Ledger,
    project: Project,
    postgresql: PostgreSQL,
    meanwhile: Callable[[Callable[[], object]], list[str]],
) -> None:
    option = "DATABASE ledger SET default_transaction_read_only"
    postgresql.run(f"ALTER {option} = on")
    kill_backends(postgresql)
    assert ledger.projects.get(project.id).title == "Urine"
    with pytest.raises(LedgerUnavailable, match="was made read-only"):
        ledger.events.add(project.id, "ANNOTATION_CREATED")
    ended = meanwhile(lambda: postgresql.run(f"ALTER {option} = off"))
    assert patient.events.add(project.id, "ANNOTATION_CREATED") == 1
    assert ended
    assert ledger.events.add(project.id, "ANNOTATION_CREATED") == 2


def test_a_process_starts_though_the_primary_is_read_only(
    made: str, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_read_only=on")
    upgrade(made)


def test_a_transaction_that_is_cut_off_leaves_nothing(
    patient: Ledger, project: Project, postgresql: PostgreSQL
) -> None:
    def half_write() -> None:
        with patient.database.write() as db:
            db.execute(text("UPDATE projects SET title = 'half'"))
            kill_backends(postgresql)
            db.execute(text("UPDATE projects SET slug = 'whole'"))

    with pytest.raises(LedgerUnavailable, match="cannot be read or written now"):
        half_write()
    assert patient.projects.get(project.id).title == "Urine"
    patient.projects.update(project.id, title="after")


def test_a_writer_that_hangs_keeps_the_others_for_a_while_only(
    made: str, patient: Ledger, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_module, "IDLE_MS", 100)
    hanging = Ledger(made)

    def hang() -> None:
        with hanging.database.write():
            patient.events.add(project.id, "ANNOTATION_CREATED")

    with pytest.raises(LedgerUnavailable, match="cannot be read or written now"):
        hang()
    assert len(patient.events.pending(project.id)) == 1
    hanging.close()


def test_a_writer_that_waits_in_vain_for_another_process_says_so(
    ledger: Ledger, patient: Ledger, project: Project
) -> None:
    with (
        patient.database.write(),
        pytest.raises(LedgerUnavailable, match="Another process has been writing"),
    ):
        ledger.events.add(project.id, "ANNOTATION_CREATED")
    assert ledger.events.add(project.id, "ANNOTATION_CREATED") == 1


def test_a_process_never_has_more_connections_than_it_may(
    made: str, project: Project, postgresql: PostgreSQL
) -> None:
    ledger = Ledger(made, busy_s=0.1, connections=3)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(ledger.database.read())
        stack.enter_context(ledger.database.write())
        with pytest.raises(LedgerUnavailable, match="set LEDGER_CONNECTIONS higher"):
            ledger.projects.get(project.id)
        open_now = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'ledger'"
        assert postgresql.run(open_now) == [(3 + 1,)]  # the last is the fixture's
    assert ledger.projects.get(project.id).title == "Urine"
    ledger.close()


def test_a_forked_process_leaves_its_parents_connection_alone(ledger: Ledger) -> None:
    def backend() -> int:
        with ledger.database.read() as db:
            return int(db.scalar(text("SELECT pg_backend_pid()")) or 0)

    ours = backend()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(backend()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = int(os.read(reading, 100))
    os.close(reading)
    os.close(writing)
    assert theirs not in (0, ours)
    assert backend() == ours


def test_tls_is_checked_against_the_authority_that_the_url_names(
    migrated: str, postgresql: PostgreSQL
) -> None:
    address = f"ledger:{PASSWORD}@127.0.0.1:{postgresql.port}/ledger?sslmode=verify-full"
    right = Ledger(f"postgresql+psycopg://{address}&sslrootcert={postgresql.authority}")
    with right.database.read() as db:
        assert db.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
    right.close()
    wrong = postgresql.folder / "other.pem"
    trustme.CA().cert_pem.write_to_path(wrong)
    other = Ledger(f"postgresql+psycopg://{address}&sslrootcert={wrong}", busy_s=0.1)
    with pytest.raises(LedgerUnavailable, match="certificate verify failed") as refused:
        other.check_schema()
    assert PASSWORD not in str(refused.value)
    other.close()
