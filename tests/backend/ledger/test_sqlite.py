"""What only a SQLite file can meet."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from backend.errors import LedgerUnavailable
from backend.ledger import Ledger, Project


@pytest.fixture
def kind() -> str:
    return "sqlite"


def test_a_locked_ledger_says_so_in_a_sentence(
    ledger: Ledger, project: Project, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="locked"):
        ledger.events.add(project.id, "ANNOTATION_CREATED", [1])
    other.execute("ROLLBACK")
    other.close()
    ledger.events.add(project.id, "ANNOTATION_CREATED", [1])


def test_a_file_that_is_no_database_is_named_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").write_text("not a database, whatever its name says" * 100)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    with pytest.raises(LedgerUnavailable, match="no database that SQLite can read"):
        ledger.projects.all()
    ledger.close()
