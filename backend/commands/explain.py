"""`explain`: why the queue is as it is."""

from __future__ import annotations

import click

from backend.commands.shared import AS_JSON, ID, PROJECT, open_workplace, print_json


@click.command()
@PROJECT
@click.option("--task", "task_id", type=ID, default=None, help="Also why this task stands there.")
@AS_JSON
def explain(studio_id: int, task_id: int | None, as_json: bool) -> None:
    """Which measure ranks the images, on what evidence, and why a task stands where it does."""
    from backend.insight.explain import explain as read_explanation
    from backend.insight.explain_text import describe_explanation

    with open_workplace() as work:
        found = read_explanation(work, studio_id, task_id)
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(describe_explanation(found))
