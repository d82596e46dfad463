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
@click.option(
    "--systemd-unit",
    is_flag=True,
    help="Print a systemd user unit that starts all this with the machine (docs/BACKUP.md).",
)
def run(images: Path | None, systemd_unit: bool) -> None:
    """Start everything that is missing, and stop it all on Ctrl-C (what `make run` calls)."""
    if systemd_unit:
        from backend.local.systemd_unit import systemd_unit as unit_of

        click.echo(unit_of(load_settings().data_dir), nl=False)
        return
    from backend.local.supervisor import run as run_all

    raise SystemExit(run_all(load_settings(), images))
