"""The migrations make the very tables that the entities read."""

from __future__ import annotations

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from backend.ledger import Ledger, upgrade
from backend.ledger.entities import Base


def test_the_entities_are_what_the_migrations_make(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    upgrade(url)
    ledger = Ledger(url)
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
            names = {index["name"] for index in made.get_indexes(table.name)}
            assert names == {index.name for index in table.indexes}
    ledger.close()
