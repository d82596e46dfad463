"""`python -m training predict`, and `infer`."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from training.batch.manifest import Shard
from training.command_options import (
    AS_JSON,
    FOLDER,
    STOPPED,
    channels_option,
    own_network,
    print_json,
    version_option,
)

if TYPE_CHECKING:
    from training.batch.folder import Outcome

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

LISTED = 10
"""Files that were not predicted and are named on the terminal; the table holds all."""


@click.command("predict")
@click.argument("folder", type=FOLDER)
@version_option
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to write to; a second run with the same options does what is missing.",
)
@click.option("--instances", is_flag=True, help="Also masks that number the particles, 16 bits.")
@click.option("--uncertainty", is_flag=True, help="Also maps of the predictive entropy, in nats.")
@click.option("--overlays", is_flag=True, help="Also pictures of the masks over the images.")
@click.option("--coco", is_flag=True, help="Also all particles as one COCO file.")
@click.option(
    "--min-particle-px",
    type=click.IntRange(1, 1_000_000),
    default=12,
    help="Smaller particles are left out, as from pre-annotations (default 12).",
)
@click.option(
    "--split-touching",
    multiple=True,
    metavar="CLASS",
    help="Tell particles of this class apart where they touch; may be repeated.",
)
@click.option(
    "--pixel-size",
    type=click.FloatRange(0, 1e6, min_open=True),
    default=None,
    metavar="MICROMETRES",
    help="The side of a pixel, in place of what the files say.",
)
@channels_option
@click.option(
    "--columns",
    type=FILE,
    default=None,
    help="A CSV file with columns of your own; its first one names the images.",
)
@click.option("--group-by", default=None, metavar="COLUMN", help="Sum up by one of --columns.")
@click.option(
    "--threads", type=click.IntRange(1, 256), default=None, help="Default: all processors."
)
@own_network
@AS_JSON
def predict(
    folder: Path,
    version: Path,
    output: Path,
    instances: bool,
    uncertainty: bool,
    overlays: bool,
    coco: bool,
    min_particle_px: int,
    split_touching: tuple[str, ...],
    pixel_size: float | None,
    channels: tuple[int, ...] | None,
    columns: Path | None,
    group_by: str | None,
    threads: int | None,
    network: str | None,
    as_json: bool,
) -> None:
    """Predict every image of FOLDER: class masks, and tables of images and particles.

    docs/RESULTS.md explains what is written. The exit status is 1 if an image could not be
    read, and 130 after Ctrl-C.
    """
    from training.batch.folder import Batch, predict_folder
    from training.batch.outputs import Wanted
    from training.progress import progress_bar

    if pixel_size is not None and math.isnan(pixel_size):  # passes every range
        raise click.BadParameter("it must be a number of micrometres.", param_hint="--pixel-size")
    split = tuple(sorted(set(split_touching)))
    batch = Batch(
        folder,
        version,
        output,
        Wanted(min_particle_px, split, instances, uncertainty, overlays, coco),
        channels=channels,
        pixel_um=pixel_size,
        own_network=network,
        columns=columns,
        group_by=group_by,
        threads=threads or os.cpu_count() or 1,
    )
    with progress_bar() as show:
        outcome = predict_folder(batch, show)
    if as_json:
        print_json(asdict(outcome) | {"table": str(output / "images.csv")})
    else:
        _say(outcome, output)
    if outcome.interrupted:
        raise SystemExit(STOPPED)
    if outcome.refused:
        raise SystemExit(1)


def _say(outcome: Outcome, output: Path) -> None:
    for name, why in list(outcome.refused.items())[:LISTED]:
        click.echo(f"{name}: {why}", err=True)
    if len(outcome.refused) > LISTED:
        click.echo(f"and {len(outcome.refused) - LISTED} more", err=True)
    for note in outcome.notes:
        click.echo(note, err=True)
    parts = [f"{outcome.done} images have results, {outcome.predicted} of them new"]
    if outcome.refused:
        parts.append(f"{len(outcome.refused)} could not be read or predicted")
    if outcome.no_images:
        parts.append(f"{outcome.no_images} other files are no images")
    click.echo(f"{'; '.join(parts)}; {output / 'images.csv'} has a row for each.")
    if outcome.interrupted:
        click.echo("Stopped before the end: the same command goes on from here.")


def _shard(_ctx: click.Context, _parameter: click.Parameter, text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _mounts(
    _ctx: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, Path]:
    mounts = {}
    for text in given:
        begins, equals, folder = text.rpartition("=")
        if not (equals and begins and Path(folder).is_dir()):
            raise click.BadParameter(
                "it is ADDRESS=FOLDER, such as s3://pool/=/mnt/pool, of a folder that is there; "
                f"got {text!r}"
            )
        mounts[begins] = Path(folder)
    return mounts


@click.command("infer")
@click.option(
    "--manifest",
    type=FILE,
    required=True,
    help="JSON lines, or a CSV file: a line for each picture, with its address under image.",
)
@version_option
@click.option(
    "--shard", callback=_shard, default="0/1", metavar="I/N", help="One of N parts, from 0."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to write to, the same for all shards; a second run does what is missing.",
)
@click.option(
    "--mount",
    "mounts",
    multiple=True,
    callback=_mounts,
    metavar="ADDRESS=FOLDER",
    help="Pictures whose address begins so lie in this folder; may be repeated.",
)
@channels_option
@click.option(
    "--threads", type=click.IntRange(1, 256), default=None, help="Default: all processors."
)
@own_network
@AS_JSON
def infer(
    manifest: Path,
    version: Path,
    shard: Shard,
    output: Path,
    mounts: dict[str, Path],
    channels: tuple[int, ...] | None,
    threads: int | None,
    network: str | None,
    as_json: bool,
) -> None:
    """Score every picture of a shard of a manifest: all measures, and features.

    `python -m backend pool import` reads the scores (docs/SCALE.md). A picture that cannot be read
    does not change the exit status, which is 130 after Ctrl-C.
    """
    from training.batch.infer import Inference
    from training.batch.infer import infer as run
    from training.progress import progress_bar

    processors = threads or os.cpu_count() or 1
    job = Inference(manifest, version, output, shard, mounts, channels, network, processors)
    with progress_bar() as show:
        done = run(job, show)
    if as_json:
        print_json(asdict(done))
    else:
        for name, why in done.refusals.items():
            click.echo(f"{name}: {why}", err=True)
        speed = f", {done.predicted / done.seconds:.1f} a second" if done.seconds else ""
        click.echo(
            f"{done.pictures} pictures have scores, {done.predicted} of them new{speed}; "
            f"{done.refused} of these could not be read. They are in {done.folder}."
        )
        if done.interrupted:
            click.echo("Stopped before the end: the same command goes on from here.")
    if done.interrupted:
        raise SystemExit(STOPPED)
