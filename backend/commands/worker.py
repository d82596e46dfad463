"""`worker`: the jobs of the rounds."""

from __future__ import annotations

import click

from backend.commands.shared import log_to_stderr
from backend.settings import load_settings


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=None, help="Jobs side by side.")
@click.option("--single", "name", default=None, hidden=True, help="One RQ worker of this name.")
def worker(workers: int | None, name: str | None) -> None:
    """Run rounds: RQ workers and the clock that hands out their jobs."""
    from backend.jobs.worker import run_single
    from backend.jobs.worker_parent import WorkerParent
    from backend.ledger import upgrade

    log_to_stderr()
    settings = load_settings()
    if name is not None:
        run_single(settings, name)
        return
    upgrade(settings.ledger_url)
    WorkerParent(settings, workers or settings.workers).run()
