"""What committees count on images of which every count is known: the tables that
``training.experiments.count_coverage`` draws audits from.

    python -m training.experiments.count_committees FOLDER --labels 60 --output table.csv

A folder holds, beside images/ and masks/, what people counted: boxes.csv, with the columns image
and class (its index) and a row for each particle, or for one class instances/, 16-bit PNGs with the
masks' names, each particle a number from 1.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.committee.prediction import Segmentation
from training.config import TrainConfig
from training.datasets.labelled import LabelledFolder, read_labelled_folder
from training.examples import Example
from training.experiments.count_coverage import COUNTED, read_count_table
from training.experiments.touching import MEMBERS, MIN_PX, STEPS
from training.files import write_atomically
from training.fitting.fit import fit_member
from training.particles.instances import instances
from training.quality.assessment import assess

Counts = NDArray[np.int64]
"""[classes, images] particles, background not among the classes."""


def counted_by_people(folder: LabelledFolder) -> Counts:
    """The counts that boxes.csv or instances/ hold."""
    counts = np.zeros((len(folder.classes) - 1, len(folder.items)), np.int64)
    boxes = folder.root / "boxes.csv"
    if boxes.exists():
        column = {item.image.name: at for at, item in enumerate(folder.items)}
        with boxes.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                counts[int(row["class"]) - 1, column[row["image"]]] += 1
        return counts
    for at, item in enumerate(folder.items):
        with Image.open(folder.root / "instances" / item.mask.name) as file:
            numbers = np.asarray(file)
        counts[0, at] = len(np.unique(numbers[numbers > 0]))
    return counts


def counted_by_committee(root: Path, labels: int, draw: int) -> Counts:
    """Each image as the member whose fold it is in counts it, as ``backend counts`` corrects.

    Args:
        labels: how many random images the committee learns from; they are counted by the member
            that never saw them.
    """
    folder = read_labelled_folder(root)
    chosen = np.random.default_rng([draw, 21]).permutation(len(folder.items))[:labels].tolist()
    config = TrainConfig(folder.classes, members=MEMBERS, seed=draw, steps=STEPS, threads=1)

    def read(at: int) -> Example:
        return folder.read_example(folder.items[at], folder.items[at].name, config.max_side_px)

    examples = [read(at) for at in sorted(chosen)]
    weights = [fit_member(examples, config, member)[0] for member in range(MEMBERS)]
    committee = assess(weights, config, examples).committee
    counts = np.zeros((len(folder.classes) - 1, len(folder.items)), np.int64)
    for at, item in enumerate(folder.items):
        with Image.open(item.image) as file:
            size = (file.height, file.width)
        predicted = Segmentation(size, committee.out_of_fold(read(at))[0].numpy())
        found = instances(predicted.mask(), MIN_PX)
        counts[:, at] = np.bincount(found.classes, minlength=len(folder.classes))[1:]
    return counts


def write_table(
    path: Path, classes: Sequence[str], counted: Counts, predicted: Sequence[Counts]
) -> None:
    """The table that ``read_count_table`` reads; images are numbers, from 1."""
    names = [f"{name} {whose}" for name in classes for whose in (COUNTED, *range(len(predicted)))]
    columns = [c[at] for at in range(len(classes)) for c in (counted, *predicted)]
    lines = [
        ["image", *names],
        *([at, *row] for at, row in enumerate(np.stack(columns, axis=1).tolist(), 1)),
    ]
    write_atomically(path, "".join(",".join(map(str, line)) + "\n" for line in lines).encode())


@click.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--labels", type=click.IntRange(2), required=True, help="Images to learn from.")
@click.option("--draws", type=click.IntRange(1), default=5, help="Of these images (default 5).")
@click.option("--processes", type=click.IntRange(1), default=1, help="Draws at a time.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(root: Path, labels: int, draws: int, processes: int, output: Path) -> None:
    """Count the particles of each image in ROOT by committees that learnt from a few of them.

    Draws that OUTPUT, a CSV, holds stay.
    """
    folder = read_labelled_folder(root)
    classes, counted = folder.classes[1:], counted_by_people(folder)
    predicted: list[Counts] = []
    if output.exists():
        kept = read_count_table(output).predicted
        predicted = list(np.stack([kept[name] for name in classes], axis=1).astype(np.int64))
    count = partial(counted_by_committee, root, labels)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for found in pool.map(count, range(len(predicted), draws)):
            predicted.append(found)
            write_table(output, classes, counted, predicted)


if __name__ == "__main__":
    main()
