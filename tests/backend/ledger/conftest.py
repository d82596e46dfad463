"""Ledgers on both databases: what is asserted of one holds on the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.ledger import Ledger, Project, upgrade
from backend.ledger.entities import Base
from tests.backend.postgresql import PostgreSQL
from tests.backend.workplaces import make_ledger

BOTH = ("sqlite", "postgresql")


@pytest.fixture(params=BOTH)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database that holds nothing."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.empty()


@pytest.fixture(scope="session")
def migrated(postgresql: PostgreSQL) -> str:
    """A database on PostgreSQL that the tests share, one after the other."""
    postgresql.run("CREATE DATABASE ledger")
    upgrade(postgresql.url("ledger"))
    return postgresql.url("ledger")


@pytest.fixture
def made(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a ledger of this release without a row."""
    if kind == "sqlite":
        file = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
        make_ledger(file)
        return file
    shared: str = request.getfixturevalue("migrated")
    # Quicker than TRUNCATE, which makes new files.
    tables = Base.metadata.sorted_tables
    statements = [f"DELETE FROM {table.name}" for table in reversed(tables)]  # noqa: S608
    statements += [
        f"SELECT setval('{table.name}_id_seq', 1, false)"
        for table in tables
        if table.autoincrement_column is not None
    ]
    request.getfixturevalue("postgresql").run("; ".join(statements), "ledger")
    return shared


@pytest.fixture
def ledger(made: str) -> Iterator[Ledger]:
    opened = Ledger(made, busy_s=0.2, connections=4)
    yield opened
    opened.close()


@pytest.fixture
def project(ledger: Ledger) -> Project:
    return ledger.projects.ensure("http://studio", 7, 1795468845, title="Urine")
