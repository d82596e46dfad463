"""`pool`: pictures that wait outside Label Studio."""

from __future__ import annotations

from pathlib import Path

import click

from backend.commands.shared import (
    AS_JSON,
    PROJECT,
    list_lines,
    open_workplace,
    print_json,
    progress_bar,
)


@click.group()
def pool() -> None:
    """Pictures that wait outside Label Studio."""


@pool.command("import")
@PROJECT
@click.option(
    "--scores",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The --output of `python -m training infer`.",
)
@click.option(
    "--top", type=click.IntRange(1, 1_000_000), required=True, help="How many become tasks."
)
@click.option("--dry-run", is_flag=True, help="Only say which they would be.")
@AS_JSON
def import_(studio_id: int, scores: Path, top: int, dry_run: bool, as_json: bool) -> None:
    """Make tasks of the pictures that the committee would learn most from.

    They are ranked as a queue is, and none becomes a task twice (docs/SCALE.md). An interrupted
    import goes on when it is called again.
    """
    from backend.actions.pool import import_pool

    with open_workplace() as work, progress_bar() as show:
        done = import_pool(work, studio_id, scores, top, show, dry_run=dry_run)
    if as_json:
        print_json(done.to_json())
        return
    for note in done.notes:
        click.echo(note, err=True)
    if dry_run:
        list_lines([f"{each['image']}  {each['why']}" for each in done.chosen])
    click.echo(
        f"{len(done.chosen)} of {done.scored - done.known} pictures that are no tasks yet "
        + ("would be imported." if dry_run else f"are chosen, {done.imported} imported.")
    )
