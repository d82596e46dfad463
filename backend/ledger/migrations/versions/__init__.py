"""The steps, oldest first; only Alembic imports them."""
