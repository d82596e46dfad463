"""A ledger becomes another one, on the other database or on the same: `ledger copy`, and backups.

Rows go table by table in the order of their keys, some hundred to a transaction. So what is there
after an interruption is the beginning of what shall be there, and the next run goes on behind it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    MappingResult,
    RowMapping,
    Select,
    String,
    Table,
    collate,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.orm import Session

from backend.errors import LedgerOutdated, LedgerUnavailable
from backend.ledger.engine import (
    COPYING,
    HEAD,
    Database,
    bytewise,
    is_there,
    revision_of,
    set_sequences,
    upgrade,
)
from backend.ledger.entities import Base, ProcessRecord

BATCH = 500
"""Rows in one transaction. A round's manifest can have a megabyte."""

ALIVE_S = 60.0
"""A process that was heard of so lately still writes."""

TABLES = [
    table for table in Base.metadata.sorted_tables if table.name != ProcessRecord.__tablename__
]
"""What is copied; a table's foreign keys lead to those before it. Signs of life stay behind."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """A table of the target beside the source's.

    Attributes:
        rows: in the target.
        same: these and as many first ones of the source have the same SHA-256.
        missing: the source has more.
    """

    rows: int
    same: bool
    missing: bool


def copy_ledger(
    source_url: str,
    target_url: str,
    report: Report = lambda _what: None,
    *,
    in_use: bool = False,
) -> dict[str, int]:
    """Copy all that a ledger holds; safe to repeat, and goes on where it was interrupted.

    Args:
        report: told what is being done.
        in_use: others may write to the source meanwhile. The copy is one state of it all the same.

    Returns:
        Rows of each table, the same in both: so are the digests of their values.

    Raises:
        LedgerUnavailable: one of them cannot be opened or is in use, the source is of another
            release, or the target holds other data. Nothing was written then.
    """
    if source_url == target_url:
        raise LedgerUnavailable("FROM and TO are the same ledger: there is nothing to copy.")
    source, target = Database(source_url, busy_s=30), Database(target_url, busy_s=30)
    try:
        _check_source(source)
        _prepare(target)
        if not in_use:
            _refuse_live(source, "FROM")
        _refuse_live(target, "TO")
        with source.read() as reader:  # one state, for as long as it takes
            done = {table.name: _check_beginning(reader, target, table) for table in TABLES}
            _mark(target, COPYING)
            for table in TABLES:
                _copy_table(reader, target, table, done[table.name], report)
            counts = {table.name: _check_same(reader, target, table, report) for table in TABLES}
        with target.write() as db:
            set_sequences(db.connection(), TABLES)
        _mark(target, HEAD)
        return counts
    finally:
        source.close()
        target.close()


def _check_source(source: Database) -> None:
    try:
        if not is_there(source.url):  # opening it would make it
            raise LedgerOutdated("there is no such file")
        source.check_schema()
    except LedgerOutdated as error:
        raise LedgerUnavailable(
            f"FROM is no ledger of this release, so nothing is copied: {error}"
        ) from error


def _prepare(target: Database) -> None:
    """Make the tables where nothing is; refuse what is no ledger of this release."""
    with target.read() as db:
        tables = inspect(db.connection()).get_table_names()
        revision = revision_of(db.connection())
    if not tables:
        upgrade(target.url)
    elif revision not in (HEAD, COPYING):
        what = "other tables" if revision is None else f"a ledger of schema {revision}"
        raise LedgerUnavailable(
            f"TO holds {what}, so nothing is copied: name a database that is empty."
        )


def _mark(target: Database, revision: str) -> None:
    """Say what the target is: while it is filled, nothing else may open it."""
    with target.write() as db:
        db.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": revision})


def _refuse_live(database: Database, which: str) -> None:
    since = time.time() - ALIVE_S
    with database.read() as db:
        found = db.scalars(select(ProcessRecord).where(ProcessRecord.seen_at > since)).first()
    if found is not None:
        raise LedgerUnavailable(
            f"{which} is in use by the {found.role} process {found.pid} on {found.host}: stop all "
            f"that use it (a killed one counts for {ALIVE_S:.0f} s), and copy then."
        )


def _rows(db: Session, query: Select[Any]) -> MappingResult:
    return db.connection().execute(query, execution_options={"yield_per": BATCH}).mappings()


def _in_order(db: Session, table: Table) -> Select[Any]:
    collation = bytewise(db.connection())
    return select(table).order_by(
        *(
            collate(key, collation) if isinstance(key.type, String) else key
            for key in table.primary_key.columns
        )
    )


def _compare(reader: Session, target: Database, table: Table) -> Comparison:
    """Read both at the same pace: PostgreSQL ends a transaction that does nothing for long."""
    ours, theirs, count = hashlib.sha256(), hashlib.sha256(), 0
    source_rows = _rows(reader, _in_order(reader, table))
    with target.read() as db:
        for row in _rows(db, _in_order(db, table)):
            theirs.update(_as_bytes(row))
            if (first := source_rows.fetchone()) is not None:
                ours.update(_as_bytes(first))
            count += 1
    missing = source_rows.fetchone() is not None
    source_rows.close()
    return Comparison(count, ours.digest() == theirs.digest(), missing)


def _as_bytes(row: RowMapping) -> bytes:
    return json.dumps(dict(row), sort_keys=True).encode() + b"\n"


def _check_beginning(reader: Session, target: Database, table: Table) -> int:
    """How many rows the target has already: they must be the first of the source's."""
    found = _compare(reader, target, table)
    if not found.same:
        raise LedgerUnavailable(
            f"TO holds other data than FROM (in the table {table.name}), so nothing is copied: "
            "name a database that is empty, or what an interrupted copy of this FROM left."
        )
    return found.rows


def _copy_table(reader: Session, target: Database, table: Table, done: int, report: Report) -> None:
    for rows in _rows(reader, _in_order(reader, table).offset(done)).partitions():
        with target.write() as db:
            db.execute(insert(table), [dict(row) for row in rows])
        done += len(rows)
        report(f"Copying {table.name}: {done} rows")


def _check_same(reader: Session, target: Database, table: Table, report: Report) -> int:
    report(f"Comparing {table.name}")
    found = _compare(reader, target, table)
    if not found.same or found.missing:
        raise LedgerUnavailable(
            f"The copy of the table {table.name} differs from what was copied: is somebody else "
            "writing to TO? Copy again, into an empty database."
        )
    return found.rows
