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
@click.option(
    "--start-from",
    default=None,
    metavar="PROJECT[:VERSION]",
    help="A version of another project, or its folder, that a new project starts from.",
)
@click.option(
    "--click/--no-click",
    "smart_click",
    default=None,
    help="Answer smart clicks, or no longer (docs/CLICK.md); as it is by default.",
)
@click.option(
    "--uncertainty-layer/--no-uncertainty-layer",
    "layer",
    default=None,
    help="Shade where the committee is unsure, or no longer (docs/UNCERTAINTY_LAYER.md); as it is "
    "by default.",
)
@AS_JSON
def connect(
    studio_id: int,
    options_json: str | None,
    start_from: str | None,
    smart_click: bool | None,
    layer: bool | None,
    as_json: bool,
) -> None:
    """Connect a Label Studio project, or repair its connection; safe to repeat."""
    from backend.actions.connect import connect_project

    with open_workplace() as work:
        options = parse_options_object(options_json)
        done = connect_project(work, studio_id, options, start_from, smart_click, layer)
    if as_json:
        print_json(
            {
                "project": studio_id,
                "labelled": done.labelled,
                "round_asked": done.round_asked,
                "warnings": list(done.warnings),
            }
        )
        return
    click.echo(f"Project {studio_id}, {done.project.title!r}, is connected.")
    if start_from is not None:
        click.echo(
            "It starts from elsewhere: that version ranks and pre-annotates until a round makes "
            "the first version of its own."
        )
    for warning in done.warnings:
        click.echo(f"warning: {warning}")
    if done.round_asked:
        click.echo(f"{done.labelled} tasks are labelled: a round starts now.")
    else:
        click.echo(f"{done.labelled} tasks are labelled; a round starts when enough are new.")
