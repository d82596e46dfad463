"""A migration that is killed in the middle: the ledger is as before, and the next one mends it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from backend.errors import LedgerUnavailable
from backend.ledger import Ledger, upgrade
from backend.ledger.engine import HEAD, MIGRATIONS, make_engine
from tests.live.harness.servers import ROOT

# The process kills itself before its Nth statement that changes the schema.
KILLED = """
import os, signal, sys
from sqlalchemy import event
from backend.ledger import engine as ledger
make, seen = ledger.make_engine, 0

def watched(url, busy_s):
    engine = make(url, busy_s)

    @event.listens_for(engine, "before_cursor_execute")
    def count(connection, cursor, statement, *_):
        global seen
        seen += statement.lstrip().upper().startswith(("CREATE", "ALTER", "DROP"))
        if seen > int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

    return engine

ledger.make_engine = watched
ledger.upgrade(sys.argv[1])
"""


def migrate_and_die(url: str, after: int) -> bool:
    """Whether it died before so many changes were made; else it was done with all."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, url, str(after)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def schema_of(path: Path) -> list[list[str]]:
    """The lines of each object's SQL; a table made anew has its constraints in any order."""
    db = sqlite3.connect(path)
    try:
        found = db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
        return [sorted(line.strip(", ") for line in row[0].splitlines()) for row in found]
    finally:
        db.close()


@pytest.mark.parametrize("after", [0, 1, 7, 15, 22])
def test_a_ledger_that_was_being_made_is_made_whole(tmp_path: Path, after: int) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    assert migrate_and_die(url, after)
    upgrade(url)
    whole = tmp_path / "whole.sqlite3"
    upgrade(f"sqlite:///{whole}")
    assert schema_of(tmp_path / "ledger.sqlite3") == schema_of(whole)
    ledger = Ledger(url)
    ledger.check_schema()
    ledger.close()


@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_a_ledger_of_the_first_release_loses_nothing(tmp_path: Path, after: int) -> None:
    path = tmp_path / "ledger.sqlite3"
    url = f"sqlite:///{path}"
    _make_first(url)
    with sqlite3.connect(path) as db:
        db.executescript("""
            INSERT INTO projects VALUES (1, 'http://studio', 7, 5, 'slug', 'Urine', '<View/>', '{}',
              NULL, 1, 0, NULL, 0, 0.0, NULL, NULL, 3, 2, 0, 9, 0);
            INSERT INTO rounds VALUES (4, 1, 'train', 'asked for', 'publish', 'succeeded', 1, NULL,
              '[]', '{}', '[{"task": 3, "stamp": "aa"}]', '{}', 1.0, 1.0, 2.0);
            INSERT INTO publications VALUES (6, 1, 1, 1, 'committee-v1.1', 4, 'serving',
              'mutual_information/image_mean', '[0.9, 0.1]', 2, 2, 1.0, 1.0, NULL);
            INSERT INTO ranking VALUES (6, 11, 0, 0.9, 0, '{"mutual_information/image_mean": 0.9}');
        """)
    db.close()
    assert migrate_and_die(url, after)
    ledger = Ledger(url)
    with pytest.raises(LedgerUnavailable, match=f"0001, this release needs {HEAD}"):
        ledger.check_schema()
    upgrade(url)
    ledger.check_schema()
    serving = ledger.publications.serving(1)
    assert serving is not None
    assert serving.name == "committee-v1.1"
    assert [row.task_id for row in ledger.publications.ranking(6)] == [11]
    assert ledger.rounds.last_manifest(1) == [{"task": 3, "stamp": "aa"}]
    ledger.close()


def _make_first(url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = make_engine(url, busy_s=1)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.commit()
    engine.dispose()
