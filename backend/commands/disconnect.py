"""`disconnect`: a project of Label Studio leaves."""

from __future__ import annotations

import click

from backend.commands.shared import PROJECT, open_workplace


@click.command()
@PROJECT
@click.option("--purge", is_flag=True, help="Remove its versions, caches and history here too.")
def disconnect(studio_id: int, purge: bool) -> None:
    """Restore a project's former settings; annotations stay."""
    from backend.actions.connect import disconnect_project

    with open_workplace() as work:
        project = disconnect_project(work, studio_id, purge=purge)
    click.echo(
        f"Project {studio_id}, {project.title!r}, is disconnected and has its former settings."
        + (" Its versions, caches and history are removed." if purge else " Its versions stay.")
    )
