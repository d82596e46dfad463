"""The migrations make the very tables that the entities read, on either database."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from backend.ledger import Ledger, upgrade
from backend.ledger.engine import HEAD
from backend.ledger.entities import Base
from tests.backend.ledger.old_ledger import make_old_ledger


def assert_schema(url: str) -> None:
    """The ledger has the tables of this release."""
    ledger = Ledger(url)
    ledger.check_schema()
    with ledger.database.read() as db:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(db.connection(), opts=options)
        assert compare_metadata(context, Base.metadata) == []
        made = inspect(db.connection())
        for table in Base.metadata.sorted_tables:
            nullable = {
                column["name"]: column["nullable"] for column in made.get_columns(table.name)
            }
            assert nullable == {column.name: column.nullable for column in table.columns}
            # PostgreSQL lists the indexes of unique constraints, too.
            names = {index["name"] for index in made.get_indexes(table.name)} - {
                constraint["name"] for constraint in made.get_unique_constraints(table.name)
            }
            assert names == {index.name for index in table.indexes}
    ledger.close()


def test_the_entities_are_what_the_migrations_make(url: str) -> None:
    upgrade(url)
    assert_schema(url)


@pytest.mark.parametrize("schema", [f"{number:04}" for number in range(1, int(HEAD))])
def test_each_earlier_schema_becomes_this_one_and_keeps_its_rows(url: str, schema: str) -> None:
    make_old_ledger(url, schema)
    upgrade(url)
    assert_schema(url)
    ledger = Ledger(url)
    assert [project.title for project in ledger.projects.all()] == ["Urine"]
    assert ledger.rounds.last_manifest(1) == [{"task": 3, "stamp": "aa"}]
    serving = ledger.publications.serving(1)
    assert serving is not None
    assert (serving.name, serving.quantiles, serving.weights) == (
        "committee-v1.1",
        [0.9, 0.1],
        None,
    )
    ledger.close()
