"""`rollback`: an earlier version again."""

from __future__ import annotations

import click

from backend.commands.shared import ID, PROJECT, open_workplace


@click.command()
@PROJECT
@click.option("--to", "number", type=ID, default=None, help="Version (default: the one before).")
def rollback(studio_id: int, number: int | None) -> None:
    """Let an earlier version rank and pre-annotate again."""
    from backend.actions.versions import roll_back

    with open_workplace() as work:
        done = roll_back(work, studio_id, number)
    click.echo(f"Version {done.version} ranks again; a new publication is being made.")
