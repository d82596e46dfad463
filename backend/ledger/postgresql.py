"""What is PostgreSQL's own: how its connections are made, and which of its errors pass.

As with SQLite, one transaction writes at a time: a lock that ends with the transaction keeps the
others waiting. Reads wait for nobody. The driver, psycopg, is imported by ``make_engine`` alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    QueuePool,
    Table,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.exc import DatabaseError, OperationalError

from backend.errors import LedgerUnavailable

WRITE_LOCK = 0x636F6D6D69747465
"""The number of the advisory lock of writers, in the ledger's database: "committe" in ASCII."""

IDLE_MS = 30_000
"""The longest that a transaction may do nothing; then the server ends it. So a host that is cut off
in the middle of one keeps the others from writing for no longer."""

NO_LOCK = "55P03"
"""SQLSTATE: the lock was not free within ``lock_timeout``."""


class ReadOnlyServer(LedgerUnavailable):
    """The server takes no writes now: a standby, or a primary that is kept from writing."""


def make_engine(url: str, busy_s: float, connections: int) -> Engine:
    """An engine for the ledger at ``url``, with at most so many connections.

    A writer waits ``busy_s`` for the others at most, and as long does whoever finds all
    connections taken.
    """
    asked = make_url(url)
    options = {
        "application_name": "committee",
        # libpq takes no less than 2 s.
        "connect_timeout": str(max(2, math.ceil(busy_s))),
        # A server that vanished without a word is noticed within 25 s and not within hours.
        **{"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"},
        "tcp_user_timeout": "25000",  # milliseconds
    }
    engine = create_engine(
        asked.set(query={**options, **asked.query}),
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=busy_s,
        use_native_hstore=False,  # else each connection asks for a type that nobody uses
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.autocommit = True  # _begin says how each transaction begins
        connection.execute(
            f"SET lock_timeout = {math.ceil(busy_s * 1000)}; "
            f"SET idle_in_transaction_session_timeout = {IDLE_MS}"
        )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("immediate", False):
            connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return
        # Each statement sees what is committed by then: all that earlier writers wrote.
        connection.exec_driver_sql("BEGIN ISOLATION LEVEL READ COMMITTED")
        (_, read_only) = connection.exec_driver_sql(
            f"SELECT pg_advisory_xact_lock({WRITE_LOCK}), current_setting('transaction_read_only')"
        ).one()
        if read_only == "on":
            connection.invalidate()  # the next one may lead to another server
            raise ReadOnlyServer(
                "The ledger cannot be written now: its PostgreSQL is a standby, or was made "
                "read-only. If that does not pass by itself, let LEDGER_URL name the primary."
            )

    return engine


def may_pass(error: DatabaseError) -> bool:
    """Whether a transaction that could not begin may be able to in a moment."""
    return isinstance(error, OperationalError) and _sqlstate(error) != NO_LOCK


def describe(error: DatabaseError, where: str) -> str:
    """A sentence about an error, and what to do."""
    said = str(error.orig).partition("\n")[0].rstrip(".")  # after it libpq gives advice of its own
    if _sqlstate(error) == NO_LOCK:
        advice = "Another process has been writing for long: is one hanging, or the server busy?"
    elif isinstance(error, OperationalError):
        advice = "Is PostgreSQL running there, and are user, password and database right?"
    else:
        advice = "Check LEDGER_URL, and that its user owns the tables in that database."
    return f"The ledger at {where} cannot be read or written now: {said}. {advice}"


def set_sequences(connection: Connection, tables: Iterable[Table]) -> None:
    """As ``backend.ledger.engine.set_sequences``."""
    for table in tables:
        (column, *_) = table.primary_key.columns
        if table.autoincrement_column is not None:
            connection.execute(
                select(
                    func.setval(
                        func.pg_get_serial_sequence(table.name, column.name),
                        func.coalesce(func.max(column), 0) + 1,
                        False,
                    )
                )
            )


def clock_ahead_s(connection: Connection) -> float:
    """Seconds that this host's clock is ahead of the server's, to half the time an answer takes."""
    before = time.time()
    there = connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one()
    return (before + time.time()) / 2 - float(there)


def _sqlstate(error: DatabaseError) -> str | None:
    return getattr(error.orig, "sqlstate", None)
