"""A migration that is killed in the middle: the ledger is as before, and the next one mends it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from backend.errors import LedgerUnavailable
from backend.ledger import Ledger, upgrade
from backend.ledger.engine import HEAD
from tests.backend.ledger.old_ledger import make_old_ledger
from tests.backend.ledger.test_schema import assert_schema
from tests.live.harness.servers import ROOT

# Python starts once. Each fork kills itself before its Nth statement that changes the schema.
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
        if seen > after:
            os.kill(os.getpid(), signal.SIGKILL)

    return engine

ledger.make_engine = watched
for line in sys.stdin:
    url, after = line.split()[0], int(line.split()[1])
    child = os.fork()
    if child == 0:
        ledger.upgrade(url)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

Migrate = Callable[[str, int], bool]


@pytest.fixture(scope="module")
def migrate_and_die() -> Iterator[Migrate]:
    """Of a ledger, whether it died before so many changes were made; else it was done with all."""
    command = [sys.executable, "-c", KILLED]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:

        def migrate(url: str, after: int) -> bool:
            print(url, after, file=process.stdin, flush=True)
            status = int(process.stdout.readline())
            assert status in (0, -signal.SIGKILL)
            return status != 0

        yield migrate
        process.stdin.close()


@pytest.mark.parametrize(
    ("kind", "after"), [*(("sqlite", after) for after in (0, 1, 7, 15, 22)), ("postgresql", 15)]
)
def test_a_ledger_that_was_being_made_is_made_whole(
    url: str, migrate_and_die: Migrate, after: int
) -> None:
    assert migrate_and_die(url, after)
    upgrade(url)
    assert_schema(url)


@pytest.mark.parametrize(
    ("kind", "after"), [*(("sqlite", after) for after in (0, 1, 2, 4)), ("postgresql", 4)]
)
def test_a_ledger_of_the_first_release_loses_nothing(
    url: str, migrate_and_die: Migrate, after: int
) -> None:
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
