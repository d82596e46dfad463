"""Ledgers of earlier schemas, with a project, a round and a publication that serves."""

from __future__ import annotations

from alembic import command
from alembic.config import Config

from backend.ledger.engine import MIGRATIONS, make_engine

_ROWS = """
INSERT INTO projects VALUES (1, 'http://studio', 7, 5, 'slug', 'Urine', '<View/>', '{}',
  NULL, TRUE, FALSE, NULL, 0, 0.0, NULL, NULL, 3, 2, 0, 9, 0);
INSERT INTO rounds VALUES (4, 1, 'train', 'asked for', 'publish', 'succeeded', 1, NULL,
  '[]', '{}', '[{"task": 3, "stamp": "aa"}]', '{}', 1.0, 1.0, 2.0);
INSERT INTO publications (id, project_id, version, n, name, round_id, state, arm, quantiles, length,
    stored, made_at, served_at)
  VALUES (6, 1, 1, 1, 'committee-v1.1', 4, 'serving', 'bald/image_mean', '[0.9, 0.1]', 2,
    2, 1.0, 1.0);
"""


def make_old_ledger(url: str, schema: str, more: str = "") -> None:
    """A ledger of an earlier schema, and rows of its other tables by ``more``, in SQL."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = make_engine(url, busy_s=1)
    with engine.connect().execution_options(immediate=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, schema)
        for statement in (_ROWS + more).split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    engine.dispose()
