"""Mean IoU of particles after one, two and three simulated clicks on held-back images.

    python -m training.experiments.clicks.measure FOLDER... --output clicks.csv

The first click is where the particle is thickest, each further one where the largest error is:
it adds where the answer lacks pixels and takes away where it has too many. A folder's instances/
tell particles apart; without it, connected pixels of a class are one. docs/CLICK.md.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import islice
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.committee.committee import Committee
from training.config import TrainConfig
from training.datasets.labelled import Labelled, LabelledFolder, read_image, read_labelled_folder
from training.experiments.clicks.baselines import Mask, grabcut, own_mask, superpixels
from training.fitting.fit import fit_member
from training.particles.clicked import Click, Predicted, clicked_particle
from training.particles.instances import instances
from training.quality.assessment import assess

CLICKS = 3

MIN_PX = 30
"""Smaller particles are left out: nobody clicks on them."""

Method = Callable[[Predicted, Sequence[Click], str], Mask]

METHODS: dict[str, Method] = {
    "clicks": clicked_particle,
    "own mask": own_mask,
    "SLIC + threshold": superpixels,
    "GrabCut": grabcut,
}


@dataclass(frozen=True)
class Row:
    """A method on one particle: IoU after so many clicks, and how long the answer took."""

    set: str
    image: str
    particle: int
    method: str
    clicks: int
    iou: float
    ms: float


def measure(
    name: str, image: str, predicted: Predicted, truth: NDArray[np.int32], labels: Sequence[str]
) -> list[Row]:
    """All methods on each particle of an image.

    Args:
        truth: [H, W] numbers of the particles, from 1.
        labels: the label of each particle; particle 1 is the first.
    """
    rows = []
    for particle, label in enumerate(labels, start=1):
        wanted = truth == particle
        if np.count_nonzero(wanted) < MIN_PX:
            continue
        for method, answer in METHODS.items():
            clicks = [next_click(wanted, np.zeros_like(wanted))]
            for n in range(1, CLICKS + 1):
                began = time.perf_counter()
                found = answer(predicted, clicks, label)
                ms = 1e3 * (time.perf_counter() - began)
                rows.append(Row(name, image, particle, method, n, iou(found, wanted), ms))
                clicks.append(next_click(wanted, found))
    return rows


def next_click(wanted: Mask, found: Mask) -> Click:
    """Where the largest error is thickest."""
    depths = []
    for wrong in (wanted & ~found, found & ~wanted):
        padded = np.pad(wrong.astype(np.uint8), 1)  # an error at the image's rim ends there
        depths.append(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1])
    lacking, surplus = depths
    adds = bool(lacking.max() >= surplus.max())
    row, column = np.unravel_index((lacking if adds else surplus).argmax(), wanted.shape)
    return Click(int(row), int(column), adds)


def iou(one: Mask, other: Mask) -> float:
    return float(np.count_nonzero(one & other) / np.count_nonzero(one | other))


def predict(committee: Committee, image: NDArray[np.uint8]) -> Predicted:
    """What the backend keeps of an image for its clicks."""
    prediction, classes = committee.predict(image), committee.config.classes
    diameters = committee.diameters(classes[1:], prediction)
    numbers = instances(
        prediction.mask(), 12, confidence=prediction.confidence(), split=diameters
    ).numbers
    foreground = np.round((1 - prediction.probs[0]) * 255).astype(np.uint8)
    return Predicted(image, foreground, numbers, {classes[i]: px for i, px in diameters.items()})


def read_truth(folder: LabelledFolder, item: Labelled) -> tuple[NDArray[np.int32], list[str]]:
    """The particles' numbers [H, W] and labels."""
    with Image.open(item.mask) as file:
        mask = np.asarray(file, np.uint8)
    path = folder.root / "instances" / item.mask.name
    if not path.exists():
        found = instances(mask)
        return found.numbers, [folder.classes[index] for index in found.classes]
    with Image.open(path) as file:
        numbers = np.unique(np.asarray(file, np.int32), return_inverse=True)[1]
    truth = numbers.reshape(mask.shape).astype(np.int32)
    firsts = np.unique(truth, return_index=True)[1][1:]
    return truth, [folder.classes[index] for index in mask.ravel()[firsts]]


def run(path: Path, labelled: int, members: int, steps: int, images: int) -> Iterator[list[Row]]:
    """Train on some random images, and click on others."""
    folder = read_labelled_folder(path)
    order = np.random.default_rng(20).permutation(len(folder.items)).tolist()
    config = TrainConfig(folder.classes, members=members, steps=steps, threads=1)
    learnt = [folder.items[at] for at in sorted(order[:labelled])]
    examples = [folder.read_example(item, item.name, config.max_side_px) for item in learnt]
    weights = [fit_member(examples, config, member)[0] for member in range(members)]
    committee = assess(weights, config, examples).committee
    for at in sorted(order[labelled : labelled + images]):
        item = folder.items[at]
        predicted = predict(committee, read_image(item.image))
        yield measure(path.name, item.name, predicted, *read_truth(folder, item))


def table(rows: Sequence[Row]) -> str:
    """A line for each set and method: mean IoU after each number of clicks, and time."""
    lines = ["| set | method | particles | 1 click | 2 clicks | 3 clicks | ms, median |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name in sorted({row.set for row in rows}):
        for method in METHODS:
            of = [row for row in rows if (row.set, row.method) == (name, method)]
            each = [[row.iou for row in of if row.clicks == n] for n in range(1, CLICKS + 1)]
            means = " | ".join(f"{np.mean(values):.3f}" for values in each)
            ms = np.median([row.ms for row in of])
            lines.append(f"| {name} | {method} | {len(each[0])} | {means} | {ms:.0f} |")
    return "\n".join(lines)


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--labelled", type=click.IntRange(2), default=20, help="Images that teach.")
@click.option("--members", type=click.IntRange(1), default=3)
@click.option("--steps", type=click.IntRange(1), default=200, help="Of training, per member.")
@click.option("--images", type=click.IntRange(1), default=20, help="Images that are clicked on.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(
    folders: Sequence[Path], labelled: int, members: int, steps: int, images: int, output: Path
) -> None:
    """Click on held-back images of labelled FOLDERS; sets that OUTPUT, a CSV, holds stay."""
    rows: list[Row] = []
    if output.exists():
        with output.open(newline="") as file:
            rows = [
                Row(name, image, int(particle), method, int(n), float(value), float(ms))
                for name, image, particle, method, n, value, ms in islice(csv.reader(file), 1, None)
            ]
    for path in folders:
        if any(row.set == path.name for row in rows):
            continue
        for of_image in run(path, labelled, members, steps, images):
            rows += of_image
        with output.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in fields(Row)])
            writer.writerows(map(astuple, rows))
    click.echo(table(rows))


if __name__ == "__main__":
    main()
