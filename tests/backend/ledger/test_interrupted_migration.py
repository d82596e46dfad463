"""A migration that is killed in the middle: the ledger is as before, and the next one mends it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from backend.errors import LedgerUnavailable
from backend.ledger import Ledger, upgrade
from backend.ledger.engine import HEAD
from tests.backend.ledger.old_ledger import make_old_ledger
from tests.backend.ledger.test_schema import assert_schema
from tests.live.harness.servers import ROOT

# The process kills itself before its Nth statement that changes the schema.
KILLED = """
import os, signal, sys
from sqlalchemy import event
from backend.ledger import engine as ledger
make, seen = ledger.make_engine, 0

def watched(*arguments):
    engine = make(*arguments)

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


@pytest.mark.parametrize(
    ("kind", "after"), [*(("sqlite", after) for after in (0, 1, 7, 15, 22)), ("postgresql", 15)]
)
def test_a_ledger_that_was_being_made_is_made_whole(url: str, after: int) -> None:
    assert migrate_and_die(url, after)
    upgrade(url)
    assert_schema(url)


@pytest.mark.parametrize(
    ("kind", "after"), [*(("sqlite", after) for after in (0, 1, 2, 4)), ("postgresql", 4)]
)
def test_a_ledger_of_the_first_release_loses_nothing(url: str, after: int) -> None:
    make_old_ledger(
        url,
        "0001",
        """INSERT INTO ranking VALUES (6, 11, 0, 0.9, FALSE, '{"bald/image_mean": 0.9}');""",
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
