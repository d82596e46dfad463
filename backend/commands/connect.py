"""`connect`: a project of Label Studio joins."""

from __future__ import annotations

import click

from backend.commands.shared import (
    AS_JSON,
    PROJECT,
    open_workplace,
    parse_options_object,
    print_json,
)


@click.command()
@PROJECT
@click.option(
    "--options",
    "options_json",
    default=None,
    help="Project options, a JSON object (docs/SETTINGS.md).",
)
@AS_JSON
def connect(studio_id: int, options_json: str | None, as_json: bool) -> None:
    """Connect a Label Studio project, or repair its connection; safe to repeat."""
    from backend.actions.connect import connect_project

    with open_workplace() as work:
        done = connect_project(work, studio_id, parse_options_object(options_json))
    if as_json:
        print_json(
            {
                "project": studio_id,
                "labelled": done.labelled,
                "round_asked": done.round_asked,
                "image_problems": list(done.image_problems),
            }
        )
        return
    for problem in done.image_problems:
        click.echo(f"This image cannot be read. {problem}")
    click.echo(f"Project {studio_id}, {done.project.title!r}, is connected.")
    if done.round_asked:
        click.echo(f"{done.labelled} tasks are labelled: a round starts now.")
    else:
        click.echo(f"{done.labelled} tasks are labelled; a round starts when enough are new.")
