"""The ledger's schema, one step a file; `python -m backend migrate` applies what is missing.
Only Alembic imports it.
"""
