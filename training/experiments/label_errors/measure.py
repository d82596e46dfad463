"""How many of the first twenty labels to check are wrong, on folders with errors planted.

    python -m training.experiments.label_errors.measure FOLDER... --output label_errors.csv

docs/LABEL_CHECK.md shows what was found.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from acquisition.masks import UNKNOWN
from training.config import TrainConfig
from training.datasets.labelled import LabelledFolder, read_labelled_folder
from training.experiments.label_errors.planting import plant
from training.fitting.fit import fit_member
from training.quality.assessment import assess
from training.quality.label_check import contradiction
from training.quality.metrics import overlap

FIRST = 20
"""Labels that somebody looks at, and errors that are planted: perfect is 1."""

MEMBERS, STEPS, SIDE_PX = 3, 200, 720

SOFTMIN = 0.1
"""Temperature of the softmin, as its source has it."""

Mask = NDArray[np.uint8]
Score = Callable[[Mask, NDArray[np.float32], Mask], float]
"""From a label, probabilities [C, h, w] and what wins: the larger, the likelier it is wrong."""


def ours(label: Mask, probs: NDArray[np.float32], predicted: Mask) -> float:
    found = contradiction(label, probs, predicted)
    return 0.0 if found is None else found.share


def one_minus_dice(label: Mask, probs: NDArray[np.float32], predicted: Mask) -> float:
    return 1 - overlap(label, predicted, len(probs)).foreground_dice()


def softmin(label: Mask, probs: NDArray[np.float32], _predicted: Mask) -> float:
    """Source: Lad and Mueller 2023, "Estimating label quality and errors in semantic segmentation
    data via any model"."""
    known = label != UNKNOWN
    of_label = np.take_along_axis(probs, np.where(known, label, 0)[None].astype(np.int64), axis=0)
    values = of_label[0][known].astype(np.float64)
    weights = np.exp((1 - values) / SOFTMIN)
    return 1 - float((values * weights).sum() / weights.sum())


SCORES: Mapping[str, Score] = {
    "contradiction": ours,
    "1 - Dice": one_minus_dice,
    "softmin": softmin,
}


def measure(folder: LabelledFolder, draw: int) -> list[dict[str, object]]:
    """A row for each score: how many of the first ``FIRST`` have a planted error."""
    config = TrainConfig(
        folder.classes, members=MEMBERS, seed=draw, steps=STEPS, threads=1, max_side_px=SIDE_PX
    )
    right = [folder.read_example(item, item.name, SIDE_PX) for item in folder.items]
    examples, planted = plant(right, len(folder.classes), FIRST, draw)
    weights = [fit_member(examples, config, member)[0] for member in range(MEMBERS)]
    committee = assess(weights, config, examples).committee
    scores: dict[str, dict[str, float]] = {name: {} for name in SCORES}
    for example in examples:
        probs, predicted = committee.out_of_fold(example)
        for name, score in SCORES.items():
            scores[name][example.key] = score(example.mask, probs.numpy(), predicted)
    return [
        {
            "set": folder.root.name,
            "draw": draw,
            "score": name,
            "images": len(examples),
            "planted": len(planted),
            **_found(of_images, planted),
        }
        for name, of_images in scores.items()
    ]


def _found(scores: Mapping[str, float], planted: Mapping[str, str]) -> dict[str, object]:
    first = sorted(scores, key=lambda key: (-scores[key], key))[:FIRST]
    hits = [planted[key] for key in first if key in planted]
    kinds = sorted(set(planted.values()))
    each = [f"{k} {hits.count(k)}/{list(planted.values()).count(k)}" for k in kinds]
    return {"precision_at_20": len(hits) / FIRST, "by_kind": "; ".join(each)}


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--draw", type=click.IntRange(0), default=1, help="Of the errors (default 1).")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(folders: Sequence[Path], draw: int, output: Path) -> None:
    """Plant errors in labelled FOLDERS and measure how well they are found."""
    rows = [row for path in folders for row in measure(read_labelled_folder(path), draw)]
    with output.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
