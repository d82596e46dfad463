"""What splitting touching particles is worth, on labelled folders whose particles are known.

    python -m training.experiments.touching FOLDER... --output touching.csv

A folder holds, beside images/ and masks/, the particles one by one: instances/, 16-bit PNGs with
the masks' names, each particle a number from 1. docs/PARTICLES.md shows what was found.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import islice
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.config import TrainConfig
from training.datasets.labelled import LabelledFolder, read_image, read_labelled_folder
from training.experiments.statistics import mean_interval, paired_t
from training.fitting.fit import fit_member
from training.particles.instances import instances
from training.particles.matching import matches
from training.quality.assessment import assess

LABELLED, MEMBERS, STEPS = 20, 3, 300

MIN_PX = 12
"""As the option `min_particle_px` has it."""


@dataclass(frozen=True)
class Counted:
    """What a method found on the unlabelled images of a draw.

    Attributes:
        particles: there are.
        counted: by the method.
        found_50, found_75: matched with an IoU above this.
        errors: the sum over images of how far the count is off.
    """

    set: str
    draw: int
    method: str
    images: int
    particles: int
    counted: int
    found_50: int
    found_75: int
    errors: int


METHODS = ("components", "watershed")

MEASURES: dict[str, Callable[[Counted], float]] = {
    "F1 at IoU .5": lambda c: 2 * c.found_50 / (c.particles + c.counted),
    "F1 at IoU .75": lambda c: 2 * c.found_75 / (c.particles + c.counted),
    "count error per image": lambda c: c.errors / c.images,
    "bias of the count": lambda c: c.counted / c.particles - 1,
}

Predicted = tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.float32], Mapping[int, float]]
"""An image's particles by number, predicted mask and confidence, all [H, W], and its ``split``."""


def measure(name: str, draw: int, images: Iterable[Predicted]) -> list[Counted]:
    """Both methods on the images of a draw."""
    rows: dict[str, list[tuple[int, ...]]] = {method: [] for method in METHODS}
    for truth, mask, confidence, split in images:
        particles = len(np.unique(truth[truth > 0]))
        for method, how in zip(METHODS, ({}, split), strict=True):
            found = instances(mask, MIN_PX, confidence=confidence, split=how)
            counted = len(found.classes)
            matched = (matches(truth, found.numbers, iou) for iou in (0.5, 0.75))
            rows[method].append((particles, counted, *matched, abs(counted - particles)))
    return [
        Counted(name, draw, method, len(each), *np.sum(each, axis=0).tolist())
        for method, each in rows.items()
    ]


def predict(folder: LabelledFolder, draw: int) -> Iterator[Predicted]:
    """What a committee that learnt from some random images predicts for all others."""
    order = np.random.default_rng([draw, 21]).permutation(len(folder.items)).tolist()
    config = TrainConfig(folder.classes, members=MEMBERS, seed=draw, steps=STEPS, threads=1)
    labelled = [folder.items[at] for at in sorted(order[:LABELLED])]
    examples = [folder.read_example(item, item.name, config.max_side_px) for item in labelled]
    weights = [fit_member(examples, config, member)[0] for member in range(MEMBERS)]
    committee = assess(weights, config, examples).committee
    for at in sorted(order[LABELLED:]):
        item = folder.items[at]
        found = committee.predict(read_image(item.image))
        with Image.open(folder.root / "instances" / item.mask.name) as file:
            truth = np.asarray(file, np.int32)
        split = committee.diameters(folder.classes, found)
        yield truth, found.mask(), found.confidence(), split


def read_rows(path: Path) -> list[Counted]:
    with path.open(newline="") as file:
        return [
            Counted(name, int(draw), method, *map(int, counts))
            for name, draw, method, *counts in islice(csv.reader(file), 1, None)
        ]


def write_rows(path: Path, rows: Sequence[Counted]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Counted)])
        writer.writerows(map(astuple, rows))


def table(rows: Sequence[Counted]) -> str:
    """A line for each set and measure: both methods' means over draws, and their difference."""
    lines = ["| set | measure | components | watershed | difference (95 % interval) |"]
    lines.append("|---|---|---|---|---|")
    for name in sorted({row.set for row in rows}):
        for title, value in MEASURES.items():
            each = [[value(r) for r in rows if (r.set, r.method) == (name, m)] for m in METHODS]
            means = " | ".join(f"{mean_interval(values).mean:.3f}" for values in each)
            d = paired_t(*each)
            interval = "" if d.low is None else f" ({d.low:+.3f} to {d.high:+.3f})"
            lines.append(f"| {name} | {title} | {means} | {d.mean:+.3f}{interval} |")
    return "\n".join(lines)


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--draws", type=click.IntRange(1), default=5, help="Of labelled images (default 5).")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(folders: Sequence[Path], draws: int, output: Path) -> None:
    """Measure both methods in labelled FOLDERS; draws that OUTPUT, a CSV, holds stay."""
    rows = read_rows(output) if output.exists() else []
    for path in folders:
        folder = read_labelled_folder(path)
        for draw in range(1, draws + 1):
            if not any((row.set, row.draw) == (path.name, draw) for row in rows):
                rows += measure(path.name, draw, predict(folder, draw))
                write_rows(output, rows)
    click.echo(table(rows))


if __name__ == "__main__":
    main()
