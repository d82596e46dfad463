"""`retrain`: a round now."""

from __future__ import annotations

import click

from backend.commands.shared import PROJECT, open_workplace


@click.command()
@PROJECT
def retrain(studio_id: int) -> None:
    """Start a round now, however few the new labels."""
    from backend.actions.rounds import retrain as ask_for_round

    with open_workplace() as work:
        asked = ask_for_round(work, studio_id)
    if asked.active_round is not None:
        click.echo(f"Round {asked.active_round} is under way; another follows it.")
    else:
        click.echo(f"A round of project {studio_id} starts now.")
    if not asked.workers:
        click.echo("No worker is alive, so it waits for one: start `python -m backend worker`.")
