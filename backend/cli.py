"""`python -m backend`: registers the commands of ``backend.commands``.

Commands that read take ``--json``. Errors are sentences; docs/COMMANDS.md lists the exit statuses.
Starting must be quick: a command imports what it needs when it runs.
"""

from __future__ import annotations

import os
from typing import Any

import click

from backend import __version__
from backend.commands.backup import backup, restore
from backend.commands.check_labels import check_labels
from backend.commands.connect import connect
from backend.commands.counts import counts
from backend.commands.disconnect import disconnect
from backend.commands.doctor import doctor
from backend.commands.explain import explain
from backend.commands.export_masks import export_masks
from backend.commands.import_masks import import_masks
from backend.commands.ledger import ledger, migrate
from backend.commands.map import map_task
from backend.commands.pause import pause, resume
from backend.commands.pool import pool
from backend.commands.registry import registry
from backend.commands.replay.command import replay_command
from backend.commands.retrain import retrain
from backend.commands.run import run
from backend.commands.serve import serve
from backend.commands.status import status
from backend.commands.versions import rollback, versions
from backend.commands.worker import worker
from backend.errors import BackendError
from training.command_options import STOPPED
from training.errors import TrainingError


class CommandGroup(click.Group):
    """Prints our errors as sentences and exits with 1; with 130 after Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BackendError, TrainingError) as error:
            click.echo(str(error), err=True)
            ctx.exit(1)
        except KeyboardInterrupt:  # click would exit with 1, as after an error
            click.echo("Stopped.", err=True)
            ctx.exit(STOPPED)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="committee %(version)s")
def cli() -> None:
    """Committee: an active-learning backend for Label Studio.

    Settings come from the environment and .env; docs/SETTINGS.md lists them.
    """
    # Patients' images and passwords: nobody else may read what we and our children make.
    os.umask(0o077)


for command in (
    backup,
    check_labels,
    connect,
    counts,
    disconnect,
    doctor,
    explain,
    export_masks,
    import_masks,
    ledger,
    map_task,
    migrate,
    pause,
    pool,
    registry,
    replay_command,
    restore,
    resume,
    retrain,
    rollback,
    run,
    serve,
    status,
    versions,
    worker,
):
    cli.add_command(command)


def main() -> None:
    """The entry of `python -m backend`."""
    cli(prog_name="python -m backend")
