"""`check-labels`: which labels somebody should look at again."""

from __future__ import annotations

import click

from backend.commands.shared import AS_JSON, PROJECT, open_workplace, print_json


@click.command("check-labels")
@PROJECT
@AS_JSON
def check_labels(studio_id: int, as_json: bool) -> None:
    """Labels that the committee contradicts, annotators who disagree, images of no use."""
    from backend.insight.label_list import label_list
    from backend.insight.label_text import describe_labels

    with open_workplace() as work:
        found = label_list(work.ledger, work.ledger.projects.of_studio(work.server, studio_id))
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(describe_labels(found))
