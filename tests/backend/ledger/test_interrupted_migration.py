"""A migration that is killed in the middle: the ledger is as before, and the next one mends it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from backend.errors import LedgerUnavailable
from backend.ledger import Ledger, upgrade
from backend.ledger.engine import HEAD
from tests.backend.ledger.old_ledger import make_old_ledger
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
    make_old_ledger(
        path,
        "0001",
        """INSERT INTO ranking VALUES (6, 11, 0, 0.9, 0, '{"bald/image_mean": 0.9}');""",
    )
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
