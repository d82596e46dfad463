"""`import-masks`: masks that there are already, as labels."""

from __future__ import annotations

from collections.abc import Sequence
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


def _mapping(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> object:
    pairs = [text.partition("=") for text in given]
    if not all(key and label for key, _, label in pairs):
        raise click.BadParameter("expected VALUE=LABEL or NAME=LABEL, as --map 3=leukocyte")
    return {key: label for key, _, label in pairs}


@click.command("import-masks")
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@PROJECT
@click.option("--class", "label", default=None, help="The label of masks that number particles.")
@click.option(
    "--map",
    "chosen",
    multiple=True,
    callback=_mapping,
    help="What a mask's value or class is called here, as 3=leukocyte; may be repeated.",
)
@click.option(
    "--as",
    "as_",
    type=click.Choice(("annotations", "predictions")),
    default="annotations",
    show_default=True,
    help="Labels, which are learnt from, or predictions, which are only shown.",
)
@click.option("--dry-run", is_flag=True, help="Write nothing, and draw what would be imported.")
@click.option(
    "--sheet",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("import-masks.png"),
    show_default=True,
    help="The picture that --dry-run draws.",
)
@AS_JSON
def import_masks(
    folder: Path,
    studio_id: int,
    label: str | None,
    chosen: dict[str, str],
    as_: str,
    dry_run: bool,
    sheet: Path,
    as_json: bool,
) -> None:
    """Make the masks in FOLDER labels of a project's tasks; safe to repeat.

    FOLDER holds PNG or TIFF masks (class indices, one file per class, or particles by number with
    --class), Cellpose's _seg.npy, or a COCO file. File names say which task a mask belongs to
    (docs/LABELS.md).
    """
    from backend.actions.masks.importing import import_masks as run

    with open_workplace() as work, progress_bar("importing") as progress:
        done = run(
            work,
            studio_id,
            folder,
            progress,
            label=label,
            chosen=chosen,
            as_=as_,  # type: ignore[arg-type]  # click checked it
            dry_run=dry_run,
        )
    if done.sheet is not None:
        from training.files import write_atomically

        write_atomically(sheet, done.sheet)
    if as_json:
        print_json(
            {
                "form": done.form,
                "dry_run": dry_run,
                "counts": dict(done.counts),
                "notes": list(done.notes),
                "items": [asdict(item) for item in done.items],
            }
        )
        return
    counts = ", ".join(f"{count} {name}" for name, count in sorted(done.counts.items()))
    would = "Nothing was written. Would be: " if dry_run else ""
    click.echo(f"{would}{counts} (masks: {done.form}; {as_} of project {studio_id}).")
    list_lines([f"{item.source}: {item.reason}" for item in done.items if item.reason])
    for note in done.notes:
        click.echo(note)
    if done.sheet is not None:
        click.echo(f"{sheet} shows some of them.")
