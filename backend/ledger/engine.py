"""How the ledger is opened, read and written, and all that is SQLite's own.

Writes take SQLite's lock at once (BEGIN IMMEDIATE), so that two writers queue up rather than fail
half way. Reads never block (WAL). backend/ledger/postgresql.py does the same for PostgreSQL;
nothing else knows which of the two it is.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    CursorResult,
    Engine,
    Executable,
    Table,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import Session

from backend.errors import LedgerOutdated, LedgerUnavailable
from backend.ledger import postgresql

LOG_BYTES = 32 * 2**20
"""Size of SQLite's write-ahead log on disk between two checkpoints."""

HEAD = "0006"
"""The schema revision that this code reads and writes."""

COPYING = f"copying {HEAD}"
"""In place of the revision while ``ledger copy`` fills the ledger: whoever opens it is told."""

MIGRATIONS = Path(__file__).parent / "migrations"

RETRY_S = 0.2
"""Between two tries to reach a PostgreSQL that is away."""


def is_postgresql(url: str) -> bool:
    return url.startswith("postgresql")


def is_there(url: str) -> bool:
    """False: the SQLite file of that URL is missing, and opening it would make it."""
    return is_postgresql(url) or Path(url.removeprefix("sqlite:///")).exists()


def shown_url(url: str) -> str:
    """The URL as messages show it: without its password, and options that may hold one too."""
    return make_url(url).set(query={}).render_as_string(hide_password=True)


def make_engine(url: str, busy_s: float, connections: int = 1) -> Engine:
    """An engine for the ledger at ``url``; a writer waits ``busy_s`` for the lock at most.

    Args:
        connections: to PostgreSQL, at most.
    """
    if is_postgresql(url):
        return postgresql.make_engine(url, busy_s, connections)
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
        options = connection.get_execution_options()
        if not options.get("alone", False):
            immediate = options.get("immediate", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def upgrade(url: str) -> None:
    """Bring the ledger at ``url`` to this code's schema; safe to repeat.

    Raises:
        LedgerUnavailable: it cannot be opened, or is of a newer release.
    """
    database = Database(url, busy_s=30)
    try:
        with database._begun(immediate=False) as db:
            revision = revision_of(db.connection())
        _refuse_unknown(revision)
        if revision != HEAD:  # as nearly never: who starts need not be able to write
            _run_migrations(database)
    except DatabaseError as error:
        said = str(error.orig).partition("\n")[0].rstrip(".")
        raise LedgerUnavailable(
            f"The ledger at {shown_url(url)} cannot be opened: {said}."
        ) from error
    finally:
        database.close()


def _run_migrations(database: Database) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    # All steps are one transaction. Two processes that start together take turns, and the second
    # finds nothing to do.
    with database._begun(immediate=True) as db:
        config.attributes["connection"] = db.connection()
        command.upgrade(config, "head")
        db.commit()


def revision_of(connection: Connection) -> str | None:
    """The schema's revision; None if there is no ledger yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _refuse_unknown(revision: str | None) -> None:
    if revision is not None and revision.startswith("copying"):
        raise LedgerUnavailable(
            "Copying into this ledger was not finished: run `python -m backend ledger copy` with "
            "the same FROM and TO again."
        )
    if revision is not None and revision > HEAD:
        raise LedgerUnavailable(
            f"The ledger has schema {revision}, this release knows up to {HEAD}: "
            "install the newer release, or use another DATA_DIR."
        )


def set_sequences(connection: Connection, tables: Iterable[Table]) -> None:
    """Let the next rows get numbers above those of the rows there are, which came with theirs."""
    if connection.dialect.name == "postgresql":  # SQLite looks at the rows themselves
        postgresql.set_sequences(connection, tables)


def bytewise(connection: Connection) -> str:
    """The collation in which text of both databases stands in one order, whatever their locale."""
    return "C" if connection.dialect.name == "postgresql" else "BINARY"


def clock_ahead_s(connection: Connection) -> float:
    """Seconds that this host's clock is ahead of the ledger's; SQLite has none of its own."""
    return postgresql.clock_ahead_s(connection) if connection.dialect.name == "postgresql" else 0.0


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
        url: SQLAlchemy URL of a SQLite file, or of a PostgreSQL database.
        busy_s: longest wait for the write lock, for one of the connections, or for a PostgreSQL
            that is away, seconds.
        connections: to PostgreSQL, at most.
    """

    def __init__(self, url: str, busy_s: float, connections: int = 1) -> None:
        self.url = url
        self._busy_s = busy_s
        self._engine = make_engine(url, busy_s, connections)
        self._writer = self._engine.execution_options(immediate=True)
        self._alone = self._engine.execution_options(alone=True)
        self._pid = os.getpid()
        self._writing = threading.Lock()

    def close(self) -> None:
        self._engine.dispose()

    def check_schema(self) -> None:
        """Refuse a ledger that is not of this release.

        Raises:
            LedgerOutdated: there is none yet, or an older one.
            LedgerUnavailable: a newer one, or one that is being copied to.
        """
        with self.read() as db:
            revision = revision_of(db.connection())
        _refuse_unknown(revision)
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
        with self._described_errors(), self._begun(immediate=False) as db:
            yield db

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is the only one that writes; all of it is committed, or nothing.

        Raises:
            LedgerUnavailable: the ledger cannot be written: others of this process held it for
                ``busy_s``, or others elsewhere.
        """
        with self._turn(), self._described_errors(), self._begun(immediate=True) as db:
            yield db
            db.commit()

    def write_alone(self, statement: Executable, values: dict[str, Any]) -> CursorResult[Any]:
        """One statement that is a transaction by itself.

        SQLite is locked for that statement, and not while a thread waits to run the Python between
        two of them: beside others that compute, at a low nice level, that is tens of milliseconds,
        for which every webhook waits.

        Raises:
            LedgerUnavailable: as ``write``.
        """
        if is_postgresql(self.url):
            with self.write() as db:
                return db.connection().execute(statement, values)
        with self._turn(), self._described_errors(), self._alone.connect() as connection:
            return connection.execute(statement, values)

    def _begun(self, *, immediate: bool) -> Session:
        """A session whose transaction has begun.

        A PostgreSQL that restarts, hands over to another or is read-only for a while is asked again
        until ``busy_s`` are over. Once it has begun, a transaction is never repeated: if its
        connection breaks it is undone, and the caller is told.
        """
        self._leave_parents_connections()
        engine = self._writer if immediate else self._engine
        deadline = time.monotonic() + self._busy_s
        while True:
            db = Session(engine, expire_on_commit=False)
            try:
                db.connection()
            except (DatabaseError, LedgerUnavailable) as error:
                db.close()
                if time.monotonic() >= deadline or not self._may_pass(error):
                    raise
            else:
                return db
            time.sleep(RETRY_S)

    def _may_pass(self, error: DatabaseError | LedgerUnavailable) -> bool:
        if isinstance(error, DatabaseError):
            return is_postgresql(self.url) and postgresql.may_pass(error)
        return isinstance(error, postgresql.ReadOnlyServer)

    def _leave_parents_connections(self) -> None:
        """A forked process must not speak to PostgreSQL on its parent's connections."""
        if self._pid != os.getpid() and is_postgresql(self.url):
            self._engine.dispose(close=False)
            self._pid = os.getpid()

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
    def _described_errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise  # a rule of ours, which the caller knows
        except DatabaseError as error:
            raise LedgerUnavailable(self._describe(error)) from error
        except NoConnectionFree as error:
            raise LedgerUnavailable(
                "The ledger cannot be read or written now: all connections of this process were "
                "taken for too long. Is its disk or its server slow? If not, and it is on "
                "PostgreSQL, set LEDGER_CONNECTIONS higher."
            ) from error

    def _describe(self, error: DatabaseError) -> str:
        if is_postgresql(self.url):
            return postgresql.describe(error, shown_url(self.url))
        if isinstance(error, OperationalError):
            return (
                f"The ledger cannot be read or written now: {error.orig}. "
                "Is its disk full, or another process holding it?"
            )
        return (
            f"The ledger is no database that SQLite can read: {error.orig}. "
            "Restore it, or let LEDGER_URL name another file."
        )
