"""GET /ready: what does not answer is named, in time, to anybody, without an address."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from backend.errors import LedgerUnavailable
from backend.web import readiness
from backend.web.readiness import Need, problems
from tests.backend.workplaces import make_settings, open_client
from tests.limits import wait_until
from tests.live.harness.servers import ValkeyServer, start_valkey


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = start_valkey(tmp_path)
    yield server
    server.stop()


def test_it_is_ready_once_all_answer_and_says_what_does_not(
    tmp_path: Path, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(readiness, "WITHIN_S", 30.0)  # a busy machine is no server that is away
    settings = make_settings(tmp_path, redis_url=valkey.url)
    with open_client(settings) as client:
        answer = client.get("/ready")
        assert (answer.status_code, answer.json) == (200, {"status": "READY"})
        valkey.stop()
        registry = settings.registry_path
        assert registry is not None
        registry.write_text("no folder")
        with create_engine(settings.ledger_url).begin() as db:
            db.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        answer = client.get("/ready")
        assert answer.status_code == 503
        assert answer.json == {
            "error": "The ledger cannot be used now. Redis cannot be used now. "
            "The registry cannot be used now. "
            "The web's log and `python -m backend doctor` say more."
        }
        assert client.get("/health").status_code == 200  # alive all the same


def test_what_hangs_keeps_nobody_waiting_and_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(readiness, "WITHIN_S", 0.05)
    asked, go_on = [], threading.Event()

    def hang() -> None:
        asked.append(1)
        go_on.wait()

    needs = [Need("The registry", hang), Need("Redis", lambda: None)]
    said = "The registry does not answer within 0.05 s."
    assert [problems(needs) for _ in range(3)] == [[said]] * 3
    assert len(asked) == 1
    go_on.set()
    wait_until(lambda: problems(needs) == [], 5, "an answer", every_s=0.01)


def test_many_who_ask_at_once_make_one_question_of_it() -> None:
    asked = []

    def away() -> None:
        asked.append(1)
        raise LedgerUnavailable("postgresql+psycopg://user:***@ledger/db is away")

    need = Need("The ledger", away)
    assert [problems([need]) for _ in range(5)] == [["The ledger cannot be used now."]] * 5
    assert len(asked) == 1
