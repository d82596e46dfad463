"""`versions`: what was trained."""

from __future__ import annotations

import click

from backend.commands.shared import ANY_PROJECT, AS_JSON, open_workplace, print_json


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
