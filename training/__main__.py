"""`python -m training`: networks and versions from a terminal, without Label Studio."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from training.batch.command import infer, predict
from training.command_options import (
    AS_JSON,
    FOLDER,
    STOPPED,
    channels_option,
    own_network,
    print_json,
    version_option,
)
from training.errors import TrainingError


class ErrorsAsSentences(click.Group):
    """Prints our errors without a traceback, and exits with status 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (TrainingError, OSError) as error:
            click.echo(str(error), err=True)
            ctx.exit(1)
        except KeyboardInterrupt:  # click would exit with 1, as after an error
            click.echo("Stopped.", err=True)
            ctx.exit(STOPPED)


MOST_IMAGES = 100_000


@click.group(cls=ErrorsAsSentences, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Committee's networks and versions, without Label Studio."""
    os.umask(0o077)  # what is written shows patients' images: its user alone may read it
    # A laboratory's own network may lie in the current folder, as for `python -m backend`.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


@cli.command("check-network")
@click.argument("network")
@click.option(
    "--weights",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="The file that members start from (NETWORK_WEIGHTS).",
)
@click.option(
    "--classes", type=click.IntRange(2, 255), default=3, help="Background included (default 3)."
)
@click.option(
    "--channels", type=click.IntRange(1, 256), default=3, help="Of the images (default 3)."
)
@AS_JSON
def check_network(
    network: str, weights: Path | None, classes: int, channels: int, as_json: bool
) -> None:
    """Try everything that a committee does with NETWORK, and report what is missing.

    NETWORK is package.module:factory, as in the setting NETWORK, or one of ours: shared, lite0,
    unet. The exit status is 1 if something is missing.
    """
    from training.check_network import check_network as checks

    missing = 0
    tried = checks(network, weights=weights, classes=classes, channels=channels)
    if as_json:
        found = [asdict(check) for check in tried]
        usable = all(check["passed"] is not False for check in found)
        print_json({"network": network, "usable": usable, "checks": found})
        raise SystemExit(not usable)
    for check in tried:
        mark = {True: "ok", False: "MISSING", None: "note"}[check.passed]
        click.echo(f"{mark:8} {check.name:10} {check.said}")
        missing += check.passed is False
    if missing:
        click.echo(f"\n{missing} missing: docs/NETWORKS.md lists what a network must do.")
        raise SystemExit(1)
    click.echo(
        f"\nIt can be used: set NETWORK={network}"
        + (f" and NETWORK_WEIGHTS={weights.resolve()}." if weights else ".")
    )


@cli.command("export")
@click.argument("version", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(("openvino", "onnx")),
    default="openvino",
    help="Default: openvino.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to write to.",
)
@own_network
def export(version: Path, format_: str, output: Path, network: str | None) -> None:
    """Write VERSION, a version's folder, as one model for other programs.

    `python -m backend versions` lists the folders.
    """
    from training.committee.committee import Committee
    from training.committee.export import export as write

    # Torch's engine leaves nothing in the version's folder; the export does not use it.
    committee = Committee.load(version, engine="torch", own_network=network)
    for path in write(committee, format_, output):
        click.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


def _whole_numbers(_ctx: click.Context, _parameter: click.Parameter, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or max(numbers) > MOST_IMAGES:
        raise click.BadParameter(
            f"expected whole numbers from 1 to {MOST_IMAGES} with commas between, got {text!r}"
        )
    return numbers


@cli.command("ablate")
@click.option("--data", type=FOLDER, required=True, help="A labelled folder (docs/RECIPE.md).")
@click.option("--other", type=FOLDER, default=None, help="Another laboratory's, to test on too.")
@click.option("--images", callback=_whole_numbers, default="20", help="Labelled images: 5,10,20.")
@click.option("--draws", type=click.IntRange(1, 10_000), default=3, help="Random draws of them.")
@click.option(
    "--test",
    type=click.IntRange(1, MOST_IMAGES),
    default=40,
    help="Images held back to test on (with --groups: at most so many).",
)
@click.option(
    "--groups",
    default=None,
    metavar="FILE:COLUMN",
    help="A CSV file in the folder, image names first, and the column of what belongs together, "
    "such as a session; whole groups are held back. FILE:COLUMN:GROUP,... names them.",
)
@click.option("--members", type=click.IntRange(1, 20), default=1, help="Networks; default 1.")
@click.option(
    "--vary", multiple=True, metavar="FIELD=VALUE,...", help="A variant; may be repeated."
)
@click.option("--set", "common", default="", metavar="FIELD=VALUE,...", help="For all variants.")
@click.option(
    "--seconds",
    type=click.FloatRange(1, 86_400),
    default=None,
    help="Give each variant as many steps as take a member this long on this machine.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=2, help="Cells side by side.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="A file of JSON lines. Results that it already holds are not measured again.",
)
@AS_JSON
def ablate(
    data: Path,
    other: Path | None,
    images: list[int],
    draws: int,
    test: int,
    groups: str | None,
    members: int,
    vary: tuple[str, ...],
    common: str,
    seconds: float | None,
    workers: int,
    output: Path,
    as_json: bool,
) -> None:
    """Train with and without parts of the recipe, and print what each part is worth.

    What is tested is the committee as it would serve. Fields are those of the training
    configuration: --vary seek=0 --vary network=unet.
    """
    from training.experiments import ablation
    from training.experiments.ablation_table import class_table, table
    from training.progress import progress_bar

    variants = ablation.variants(vary, common, seconds)
    if seconds is not None:
        for name, changes in variants.items():
            click.echo(f"{name}: {changes['steps']} steps", err=True)
    cells = [
        ablation.Cell(name, changes, count, draw)
        for draw in range(draws)
        for count in images
        for name, changes in variants.items()
    ]
    grouped = None if groups is None else ablation.parse_groups(groups)
    trial = ablation.Trial(data, other, test, grouped, members)
    results = []
    with progress_bar() as show:
        for result in ablation.run(trial, cells, output, workers):
            results.append(result)
            show(len(results), len(cells))
            click.echo(
                f"{len(results)} of {len(cells)}: {result['variant']}, {result['images']} images, "
                f"draw {result['draw']}: mean IoU {result['test']['mean_iou']:.3f}",
                err=True,
            )
    if as_json:
        print_json(results)
        return
    for rows in (table(results), class_table(results)):
        for row in rows:
            click.echo("| " + " | ".join(row) + " |")
        click.echo()


@cli.command("images")
@click.argument("folder", type=FOLDER)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to write to.",
)
@channels_option
@AS_JSON
def images_(folder: Path, output: Path, channels: tuple[int, ...] | None, as_json: bool) -> None:
    """Write how each image of FOLDER will be seen: a PNG each, and images.csv.

    The table says of each file its size, bits, channels, page and stretch, or why it is refused
    (docs/IMAGES.md). The exit status is 0 when every file was read or refused.
    """
    from training.datasets.seen_images import TABLE, write_seen_images

    counts = {"read": 0, "refused": 0}
    rows = []
    for seen in write_seen_images(folder, output, channels):
        counts["refused" if seen.refusal else "read"] += 1
        if as_json:
            rows.append(asdict(seen))
            continue
        part = ", ".join(each for each in (seen.page, seen.channels) if each)
        click.echo(f"{seen.file}: {seen.refusal or f'{part}, {seen.bits} bits'}")
    if as_json:
        print_json({**counts, "table": str(output / TABLE), "files": rows})
        return
    click.echo(
        f"\n{counts['read']} files read, {counts['refused']} refused; "
        f"{output / TABLE} has a row for each."
    )


@cli.command("map")
@click.option(
    "--image",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="An image file (docs/IMAGES.md).",
)
@version_option
@click.option(
    "--truth",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="A PNG of class indices, 255 where nothing is known, of the image's size.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="The folder to write to (default: this one).",
)
@own_network
@AS_JSON
def map_(
    image: Path,
    version: Path,
    truth: Path | None,
    output: Path,
    network: str | None,
    as_json: bool,
) -> None:
    """Draw where a version is uncertain about an image, and write the same as arrays.

    IMAGE-map.png shows the image, its prediction, the five uncertainty maps with their scales,
    uncertainty against the distance to the nearest boundary and, with --truth, the error.
    IMAGE-map.npz holds the arrays. The image's score by every measure and aggregate is printed.
    """
    from training.committee.committee import Committee
    from training.figures.map_files import read_image_file, read_truth_file, write_map
    from training.figures.scales import arms_table

    # Torch's engine leaves nothing in the version's folder, and one image repays no compiling.
    committee = Committee.load(version, engine="torch", own_network=network)
    classes = committee.config.classes
    pixels = read_image_file(image, committee.config.channels)
    mask = None if truth is None else read_truth_file(truth, pixels, classes)
    prediction = committee.predict(pixels)
    title = f"{image.name}, predicted by version {committee.version}"
    files = write_map(output, image.stem, prediction, pixels, classes, mask, title)
    if as_json:
        print_json({"files": [str(path) for path in files], "arms": dict(prediction.arms)})
        return
    for path in files:
        click.echo(path)
    click.echo(f"\n{arms_table(prediction.arms)}")


@cli.command("loop")
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="What to run, a YAML file (docs/ACQUISITION.md).",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="The run's folder (default: the file's name without .yaml). An interrupted run goes on.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=2, help="Paths side by side.")
def loop(config_file: Path, output: Path | None, workers: int) -> None:
    """Simulate active learning on a labelled folder, with several strategies and seeds."""
    from training.experiments.loop import run
    from training.experiments.loop_config import read_config
    from training.progress import progress_bar

    config = read_config(config_file)
    folder = output or config_file.with_suffix("")
    with progress_bar() as show:
        run(config, folder, workers, lambda what, done, of: show(done, of, what))
    click.echo(f"The results are in {folder}: `python -m training report {folder}` shows them.")


@cli.command("report")
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@AS_JSON
def report(run: Path, as_json: bool) -> None:
    """Write RUN/report.html and RUN/csv: what a run of `loop` shows, finished or not.

    The sentences on the hypotheses and on each strategy's gain over random are printed as well.
    """
    from training.experiments.report import write_report

    path, sentences = write_report(run)
    if as_json:
        print_json({"report": str(path), "sentences": sentences})
        return
    for sentence in sentences:
        click.echo(sentence)
    click.echo(f"The report is {path}.")


@cli.command("draw")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--count", type=click.IntRange(1, 1_000_000), default=50, help="Fields to draw; default 50."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Of the first field.")
@click.option(
    "--laboratory",
    "laboratories",
    type=click.Choice(("A", "B")),
    multiple=True,
    default=("A", "B"),
    help="Whose microscope; both in turn unless named.",
)
def draw(folder: Path, count: int, seed: int, laboratories: tuple[str, ...]) -> None:
    """Draw a labelled folder of urine-sediment fields with exact masks."""
    from training.datasets.urine_sediment import write_folder
    from training.progress import progress_bar

    with progress_bar() as show:
        write_folder(folder, count, seed, laboratories, show)
    click.echo(f"{count} fields are in {folder}.")


cli.add_command(predict)
cli.add_command(infer)


def main() -> None:
    """The entry of `python -m training`."""
    cli(prog_name="python -m training")


if __name__ == "__main__":
    main()
