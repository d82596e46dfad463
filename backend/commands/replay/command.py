"""`replay`: play a labelled folder through the live system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from backend.commands.replay.plan import ORDERS, ReplayPlan
from backend.commands.shared import open_workplace, parse_options_object, print_json
from backend.documented_field import MOST
from backend.errors import BadRequest
from backend.options import MOST_STEPS
from training.errors import TrainingError


@click.command("replay")
@click.option(
    "--data",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="A labelled folder: images/, masks/ (PNG of class indices, 255 unknown), classes.txt.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 10_000),
    default=5,
    show_default=True,
    help="Rounds of training in each order, the first on the initial set.",
)
@click.option(
    "--per-round",
    type=click.IntRange(1, MOST),
    default=10,
    show_default=True,
    help="Labels between two rounds.",
)
@click.option(
    "--initial",
    type=click.IntRange(1, MOST),
    default=None,
    help="Labels of the first round, drawn by chance (default: as --per-round).",
)
@click.option(
    "--order",
    type=click.Choice([*ORDERS, "both"]),
    default="queue",
    show_default=True,
    help="Label what Label Studio serves, or what chance draws, or one after the other.",
)
@click.option(
    "--limit", type=click.IntRange(1, MOST), default=None, help="Upload at most this many images."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Of the initial set, the random order and the networks.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, MOST_STEPS),
    default=None,
    help="Training steps of each member.",
)
@click.option("--members", type=click.IntRange(1, 20), default=None, help="Networks.")
@click.option(
    "--options",
    "options_json",
    default=None,
    help="More project options, a JSON object (docs/SETTINGS.md).",
)
@click.option(
    "--round-limit",
    "round_limit_min",
    type=click.FloatRange(0, 10_080, min_open=True),
    default=60.0,
    show_default=True,
    help="Minutes to wait for one round before giving up.",
)
@click.option("--purge", is_flag=True, help="Delete the projects and their versions at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; progress goes to stderr.")
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=None,
    help="Write the curves to this file as well.",
)
def replay_command(
    as_json: bool,
    csv_path: Path | None,
    round_limit_min: float,
    options_json: str | None,
    **choices: Any,
) -> None:
    """Play a labelled folder through the live system and print the learning curve.

    Needs Label Studio, web and worker running (`make run`). Makes a project for each order and
    labels it by Label Studio's own API; a fixed fifth of the images is held back for testing.
    """
    from backend.commands.replay.curves import describe, write_csv
    from backend.commands.replay.play import replay

    plan = ReplayPlan(
        **choices,
        options=parse_options_object(options_json) or {},
        round_limit_s=60 * round_limit_min,
    )
    try:
        with open_workplace() as work:
            result = replay(work, plan, lambda line: click.echo(line, err=True))
    except TrainingError as error:
        raise BadRequest(str(error)) from error
    if csv_path is not None:
        write_csv(result, csv_path)
    if as_json:
        print_json(result.to_json())
    else:
        click.echo(describe(result))
