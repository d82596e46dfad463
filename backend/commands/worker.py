"""`worker`: the jobs of the rounds."""

from __future__ import annotations

import click

from backend.logs import log_to_stderr
from backend.redis_queue import QUEUES, TRAIN_GPU
from backend.settings import load_settings

IDLE_S = 60
"""A round's next stage comes within seconds: who ended at once would have to start anew for it."""


def _parse_queues(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    if value is None:
        return None
    queues = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    if unknown := [name for name in queues if name not in QUEUES]:
        raise click.BadParameter(
            f"{unknown[0]!r} is no queue: name some of {', '.join(QUEUES)}, with commas between."
        )
    return queues


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=None, help="Jobs side by side.")
@click.option(
    "--queues",
    callback=_parse_queues,
    metavar="NAME,...",
    help=f"Whose jobs to do, in this order. Default: {','.join(QUEUES)}; "
    f"{TRAIN_GPU} where torch finds a GPU.",
)
@click.option(
    "--burst",
    "idle_s",
    type=click.IntRange(1, 3600),
    is_flag=False,
    flag_value=IDLE_S,
    metavar="[SECONDS]",
    help="End when the queues have had no job for so long "
    f"(without a number {IDLE_S}), as a Kubernetes Job must.",
)
@click.option("--single", "name", default=None, hidden=True, help="One RQ worker of this name.")
def worker(
    workers: int | None, queues: tuple[str, ...] | None, idle_s: int | None, name: str | None
) -> None:
    """Run rounds: RQ workers and the clock that hands out their jobs."""
    from backend.jobs.gpu import torch_finds_gpu
    from backend.jobs.worker import run_single
    from backend.jobs.worker_parent import WorkerParent
    from backend.ledger import upgrade

    settings = load_settings()
    log_to_stderr(settings.log_format)
    if name is not None:
        run_single(settings, name, queues or QUEUES, idle_s)
        return
    if queues and TRAIN_GPU in queues and not torch_finds_gpu():
        raise click.UsageError(
            f"torch finds no GPU here, and {TRAIN_GPU} is for members that are trained on one. "
            f"Leave it out of --queues, or install torch with CUDA."
        )
    upgrade(settings.ledger_url)
    WorkerParent(settings, workers or settings.workers, queues, idle_s).run()
