"""`status`: what is going on."""

from __future__ import annotations

import click

from backend.commands.shared import ANY_PROJECT, AS_JSON, open_workplace, print_json


@click.command()
@ANY_PROJECT
@AS_JSON
def status(studio_id: int | None, as_json: bool) -> None:
    """Projects, their rounds and versions, and which processes are alive."""
    from backend.insight.status import status as read_status
    from backend.insight.status_text import describe_status

    with open_workplace() as work:
        found = read_status(work.ledger, studio_id, retrain_every=work.settings.retrain_every)
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(describe_status(found))
