"""Alembic's entry: runs the steps on the connection that ``upgrade`` in the ledger hands over."""

from __future__ import annotations

from alembic import context

from backend.ledger.entities import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite alters a table by copying it.
    render_as_batch=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
