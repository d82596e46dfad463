"""Ledgers of earlier schemas, with a project, a round and a publication that serves."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config

from backend.ledger.engine import MIGRATIONS, make_engine

_ROWS = """
INSERT INTO projects VALUES (1, 'http://studio', 7, 5, 'slug', 'Urine', '<View/>', '{}',
  NULL, 1, 0, NULL, 0, 0.0, NULL, NULL, 3, 2, 0, 9, 0);
INSERT INTO rounds VALUES (4, 1, 'train', 'asked for', 'publish', 'succeeded', 1, NULL,
  '[]', '{}', '[{"task": 3, "stamp": "aa"}]', '{}', 1.0, 1.0, 2.0);
INSERT INTO publications (id, project_id, version, n, name, round_id, state, arm, quantiles, length,
    stored, made_at, served_at)
  VALUES (6, 1, 1, 1, 'committee-v1.1', 4, 'serving', 'bald/image_mean', '[0.9, 0.1]', 2,
    2, 1.0, 1.0);
"""


def make_old_ledger(path: Path, schema: str, more: str) -> None:
    """A ledger of the schema "0001" or "0002", and rows of its other tables by ``more``, in SQL."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = make_engine(f"sqlite:///{path}", busy_s=1)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, schema)
        connection.commit()
    engine.dispose()
    db = sqlite3.connect(path)
    db.executescript(_ROWS + more)
    db.close()
