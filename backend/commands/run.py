"""`run`: everything on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from backend.settings import load_settings


@click.command()
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="Fill the demo project with the images of this folder instead of drawn ones.",
)
def run(images: Path | None) -> None:
    """Start everything that is missing, and stop it all on Ctrl-C (what `make run` calls)."""
    from backend.local.supervisor import run as run_all

    raise SystemExit(run_all(load_settings(), images))
