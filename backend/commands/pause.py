"""`pause` and `resume`: no rounds for a while, and rounds again."""

from __future__ import annotations

import click

from backend.commands.shared import PROJECT, open_workplace


@click.command()
@PROJECT
def pause(studio_id: int) -> None:
    """Start no rounds by itself; START_TRAINING and `retrain` still do."""
    from backend.actions.rounds import pause as pause_rounds

    with open_workplace() as work:
        pause_rounds(work, studio_id)
    click.echo(f"Project {studio_id} is paused.")


@click.command()
@PROJECT
def resume(studio_id: int) -> None:
    """End a pause; what was labelled meanwhile counts."""
    from backend.actions.rounds import resume as resume_rounds

    with open_workplace() as work:
        resume_rounds(work, studio_id)
    click.echo(f"Project {studio_id} goes on.")
