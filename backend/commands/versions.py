"""`versions` and `rollback`: what was trained, and an earlier one of it again."""

from __future__ import annotations

import click

from backend.commands.shared import ANY_PROJECT, AS_JSON, ID, PROJECT, open_workplace, print_json


@click.command()
@ANY_PROJECT
@AS_JSON
def versions(studio_id: int | None, as_json: bool) -> None:
    """The versions of each project: their state, their quality, their files."""
    from backend.insight.versions import versions_of
    from backend.insight.versions_text import describe_versions

    with open_workplace() as work:
        found = versions_of(work, studio_id)
    if as_json:
        print_json([version.to_json() for version in found])
    else:
        click.echo(describe_versions(found))


@click.command()
@PROJECT
@click.option("--to", "number", type=ID, default=None, help="Version (default: the one before).")
def rollback(studio_id: int, number: int | None) -> None:
    """Let an earlier version rank and pre-annotate again."""
    from backend.actions.versions import roll_back

    with open_workplace() as work:
        done = roll_back(work, studio_id, number)
    click.echo(f"Version {done.version} ranks again; a new publication is being made.")
