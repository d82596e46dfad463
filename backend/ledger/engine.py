"""How the ledger is opened, read and written: all that is SQLite's own is here.

Writes take SQLite's lock at once (BEGIN IMMEDIATE), so that two writers queue up rather than fail
half way. Reads never block (WAL).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from backend.errors import LedgerOutdated, LedgerUnavailable

LOG_BYTES = 32 * 2**20
"""Size of SQLite's write-ahead log on disk between two checkpoints."""

HEAD = "0004"
"""The schema revision that this code reads and writes."""

MIGRATIONS = Path(__file__).parent / "migrations"


def make_engine(url: str, busy_s: float) -> Engine:
    """An engine for the ledger at ``url``; a writer waits ``busy_s`` for the lock at most."""
    engine = create_engine(url, connect_args={"timeout": busy_s})

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        # pysqlite would open transactions by itself, and only at the first write.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        # A long read lets the log beside the ledger grow; afterwards it is cut to this again.
        cursor.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def upgrade(url: str) -> None:
    """Bring the ledger at ``url`` to this code's schema; safe to repeat.

    Raises:
        LedgerUnavailable: it cannot be opened, or is of a newer release.
    """
    from alembic import command
    from alembic.config import Config

    engine = make_engine(url, busy_s=30)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    try:
        with engine.connect().execution_options(immediate=True) as connection:
            config.attributes["connection"] = connection
            revision = _revision(connection)
            connection.rollback()
            if revision is not None and revision > HEAD:
                raise LedgerUnavailable(_newer(revision))
            command.upgrade(config, "head")
            connection.commit()
    except DatabaseError as error:
        raise LedgerUnavailable(f"The ledger at {url} cannot be opened: {error.orig}.") from error
    finally:
        engine.dispose()


def _revision(connection: Connection) -> str | None:
    """The schema's revision; None if there is no ledger yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _newer(revision: str) -> str:
    return (
        f"The ledger has schema {revision}, this release knows up to {HEAD}: "
        "install the newer release, or use another DATA_DIR."
    )


def copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite database that others may be writing to: the copy is one state of it.

    Args:
        target: a file that is not there yet; it needs no log beside it.

    Raises:
        sqlite3.Error: ``source`` is no sound database, is locked for half a minute, or the disk of
            ``target`` is full.
    """
    # Not read-only: what a killed writer left half done can only be taken back by writing.
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=rw", uri=True, timeout=30)) as reader,
        closing(sqlite3.connect(target)) as writer,
    ):
        # In one step: in several each write of others would begin it anew.
        reader.backup(writer)
        writer.execute("PRAGMA journal_mode=DELETE")
        problem = writer.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise sqlite3.DatabaseError(f"it is damaged: {problem}")


class Database:
    """Sessions on the ledger, one for each transaction. Safe between threads.

    The rows of a session stay readable after it has ended.

    Args:
        url: SQLAlchemy URL of a SQLite file.
        busy_s: longest wait for the write lock, seconds.
    """

    def __init__(self, url: str, busy_s: float) -> None:
        self._busy_s = busy_s
        self._engine = make_engine(url, busy_s)
        self._writing = threading.Lock()

    def close(self) -> None:
        self._engine.dispose()

    def check_schema(self) -> None:
        """Refuse a ledger that is not of this release.

        Raises:
            LedgerOutdated: there is none yet, or an older one.
            LedgerUnavailable: a newer one.
        """
        with self.read() as db:
            revision = _revision(db.connection())
        if revision is not None and revision > HEAD:
            raise LedgerUnavailable(_newer(revision))
        if revision != HEAD:
            raise LedgerOutdated(
                f"The ledger has schema {revision or 'none'}, this release needs {HEAD}: "
                "run `python -m backend migrate`."
            )

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that sees one state of the ledger.

        Raises:
            LedgerUnavailable: the ledger cannot be read.
        """
        with _described_errors(), Session(self._engine, expire_on_commit=False) as db, db.begin():
            yield db

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is the only one that writes; all of it is committed, or nothing.

        Raises:
            LedgerUnavailable: the ledger cannot be written: others of this process held it for
                ``busy_s``, or others of this machine.
        """
        writer = self._engine.execution_options(immediate=True)
        with (
            self._turn(),
            _described_errors(),
            Session(writer, expire_on_commit=False) as db,
            db.begin(),
        ):
            yield db

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One writer of this process at a time: threads wake each other at once, where SQLite has
        every one that waits sleep for up to a tenth of a second, and serves them in no order."""
        if not self._writing.acquire(timeout=self._busy_s):
            raise LedgerUnavailable(
                "The ledger cannot be written now: others of this process have waited for it for "
                f"{self._busy_s:g} s. Is another process holding it?"
            )
        try:
            yield
        finally:
            self._writing.release()


@contextmanager
def _described_errors() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise LedgerUnavailable(
            f"The ledger cannot be read or written now: {error.orig}. "
            "Is its disk full, or another process holding it?"
        ) from error
    except IntegrityError:
        raise  # a rule of ours, which the caller knows
    except DatabaseError as error:
        raise LedgerUnavailable(
            f"The ledger is no database that SQLite can read: {error.orig}. "
            "Restore it, or let LEDGER_URL name another file."
        ) from error
