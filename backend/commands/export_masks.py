"""`export-masks`: a project's labels as files."""

from __future__ import annotations

from dataclasses import asdict
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


@click.command("export-masks")
@PROJECT
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to write to: a new one, or that of an earlier export.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(("png", "coco", "nnunet")),
    default="png",
    show_default=True,
    help="A labelled folder; with COCO's instances.json beside it; or a data set of nnU-Net 2.",
)
@AS_JSON
def export_masks(studio_id: int, output: Path, format_: str, as_json: bool) -> None:
    """Write a project's labels: images, one mask per labelled task, and a table of tasks.

    A mask is what training reads: class indices, 255 where nothing is known. A second run fetches
    what changed. `python -m training loop` and `ablate` read the folder (docs/LABELS.md).
    """
    from backend.actions.masks.export import TABLE
    from backend.actions.masks.export import export_masks as export

    with open_workplace() as work, progress_bar("exporting") as progress:
        done = export(work, studio_id, output, format_, progress)  # type: ignore[arg-type]  # click checked it
    if as_json:
        print_json(asdict(done))
        return
    click.echo(
        f"{done.masks} masks, {done.audits} of them audits, are in {output}: {done.written} tasks "
        f"written now, {done.kept} unchanged, {done.removed} removed. {output / TABLE} lists all."
    )
    list_lines(done.problems)
    if done.absent and format_ != "nnunet":
        click.echo(
            f"No mask shows {', '.join(done.absent)}: before `training loop` reads the folder, "
            "label some, or take such classes out of classes.txt and the masks' indices."
        )
