"""A project that is forgotten leaves no row in any table, on SQLite and on PostgreSQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Boolean, Column, Float, Integer, MetaData, Table, create_engine, select
from sqlalchemy.engine import Connection

from backend.ledger import Ledger
from backend.ledger.entities import Base

TABLES = Base.metadata.sorted_tables  # those that others point to first

NOT_OF_PROJECTS = {"processes", "studio_names"}
"""A new table needs a foreign key that leads to its project, or a reason to stand here: it says
nothing of any project."""


def parents(table: Table) -> list[Table]:
    return [key.column.table for key in table.foreign_keys]


def of_projects() -> list[Table]:
    """The tables whose rows lead to a project by foreign keys."""
    found: list[Table] = []
    for table in TABLES:
        if table.name == "projects" or any(parent in found for parent in parents(table)):
            found.append(table)
    return found


def value(column: Column[Any], number: int, keys: dict[str, int]) -> Any:
    """Something that the column takes; of another project it is something else."""
    for key in column.foreign_keys:
        return keys[key.column.table.name]
    if isinstance(column.type, JSON):
        return []
    if isinstance(column.type, Boolean):
        return True
    return number if isinstance(column.type, Integer | Float) else f"project {number}"


def fill(db: Connection, number: int) -> int:
    """Write a row of one project into each table; the project's number."""
    keys: dict[str, int] = {}
    for table in of_projects():
        row = {
            column.name: value(column, number, keys)
            for column in table.columns
            if column is not table.autoincrement_column
        }
        written = db.execute(table.insert().values(row)).inserted_primary_key
        assert written is not None
        keys[table.name] = written[0]
    return keys["projects"]


def rows(db: Connection) -> dict[str, list[Any]]:
    return {table.name: list(db.execute(select(table)).all()) for table in of_projects()}


def test_nothing_is_left_of_a_project_that_is_forgotten(made: str, ledger: Ledger) -> None:
    engine = create_engine(made)
    with engine.begin() as db:
        fill(db, 1)
        kept = rows(db)
        forgotten = fill(db, 2)
        assert {name: len(each) for name, each in rows(db).items()} == dict.fromkeys(kept, 2)
    ledger.projects.forget(forgotten)
    with engine.begin() as db:
        assert rows(db) == kept
    engine.dispose()


def test_each_table_leads_to_a_project_or_is_said_not_to(made: str) -> None:
    engine, there = create_engine(made), MetaData()
    there.reflect(engine)
    engine.dispose()
    known = {table.name for table in of_projects()} | NOT_OF_PROJECTS | {"alembic_version"}
    assert set(there.tables) == known
