"""`counts`: what the images of a project hold, with an honest interval."""

from __future__ import annotations

from pathlib import Path

import click

from backend.commands.shared import (
    AS_JSON,
    PROJECT,
    open_workplace,
    print_json,
    progress_bar,
)


@click.command()
@PROJECT
@click.option(
    "--group-by",
    default=None,
    metavar="KEY",
    help="A key of the task data, such as patient or session: counts for each of its values too.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to write to. Images that were counted there before are not predicted again.",
)
@AS_JSON
def counts(studio_id: int, group_by: str | None, output: Path, as_json: bool) -> None:
    """Count the particles of every image, corrected by what people counted on the audits.

    Writes counts.csv (each class with its interval, or why there is none), images.csv and
    counts.png (docs/COUNTS.md). An interrupted run goes on where it stopped.
    """
    from backend.insight.counts.files import write_counts
    from backend.insight.counts.project import count_project
    from backend.insight.counts.text import describe_counts

    with open_workplace() as work, progress_bar("Predicting") as show:
        found = count_project(work, studio_id, output, group_by, show)
    files = write_counts(found, output)
    if as_json:
        print_json(found.to_json() | {"files": [str(path) for path in files]})
        return
    click.echo(describe_counts(found))
    click.echo("\n" + "\n".join(map(str, files)))
