"""`migrate`: the ledger of this release."""

from __future__ import annotations

import click

from backend.settings import load_settings


@click.command()
def migrate() -> None:
    """Bring the ledger to this release's schema; safe to repeat."""
    from backend.ledger import upgrade

    upgrade(load_settings().ledger_url)
