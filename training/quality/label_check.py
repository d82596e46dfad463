"""Labels that members contradict which never saw them, and what is taken for what.

A label is contradicted where its class is far less likely, to the member that did not train on the
image, than the class that wins there. Near-ties say nothing: no outline is drawn to the pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition.masks import UNKNOWN
from training.examples import Example
from training.images import encode_png
from training.quality.metrics import Overlap, confusion

SURE = 0.5
"""How much more likely than the label's class another must be. docs/LABEL_CHECK.md has what it
finds, beside other measures."""

LEAST_FOREGROUND_PX = 50
"""A few pixels in an image without particles are not the whole of it."""

MOST_LISTED = 100
"""Contradicted labels, and mistaken pairs of classes, that a version's metrics name."""

EACH_WAY = 3
"""Worst and best images of a class."""


@dataclass(frozen=True)
class Contradiction:
    """How far a label is contradicted.

    Attributes:
        share: pixels that are surely of another class, over those that label or prediction call
            foreground; 0 if none.
        labelled, predicted: the pair of classes that most of these pixels are of.
        pixels: share of the image's known pixels that is contradicted.
    """

    share: float
    labelled: int
    predicted: int
    pixels: float


def contradiction(
    mask: NDArray[np.uint8], probs: NDArray[np.float32], predicted: NDArray[np.uint8]
) -> Contradiction | None:
    """Compare a label with what a member predicts that never saw it.

    Args:
        mask: [h, w] class indices, 255 where nothing is known.
        probs: [C, h, w].
        predicted: [h, w] the classes that win.

    Returns:
        None where no pixel is contradicted.
    """
    known = mask != UNKNOWN
    label = np.where(known, mask, 0)
    gap = np.take_along_axis(probs, np.stack([predicted, label]).astype(np.int64), axis=0)
    against = known & (gap[0] - gap[1] > SURE)
    count = int(against.sum())
    if count == 0:
        return None
    C = len(probs)
    foreground = int((known & ((label > 0) | (predicted > 0))).sum())
    pair = np.bincount(label[against].astype(np.int64) * C + predicted[against]).argmax()
    return Contradiction(
        share=count / max(foreground, LEAST_FOREGROUND_PX),
        labelled=int(pair) // C,
        predicted=int(pair) % C,
        pixels=count / int(known.sum()),
    )


@dataclass
class LabelCheck:
    """What the out-of-fold predictions of labelled images say of labels and classes.

    Args:
        classes: names by index, background first.

    Attributes:
        table: [C, C] pixels, labelled class by predicted class.
        predicted: key to the predicted classes, a PNG at the network's resolution.
    """

    classes: Sequence[str]
    table: NDArray[np.int64] = field(init=False)
    predicted: dict[str, bytes] = field(default_factory=dict)
    _contradicted: dict[str, Contradiction] = field(default_factory=dict)
    _dice: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.table = np.zeros((len(self.classes), len(self.classes)), np.int64)

    def add(
        self, example: Example, probs: NDArray[np.float32], predicted: NDArray[np.uint8]
    ) -> Overlap:
        """Count one more image; its overlap."""
        table = confusion(example.mask, predicted, len(self.classes))
        self.table += table
        found = Overlap.of(table)
        self._dice[example.key] = np.where(found.truth > 0, found.dice(), np.nan)
        self.predicted[example.key] = encode_png(predicted)
        against = contradiction(example.mask, probs, predicted)
        if against is not None:
            self._contradicted[example.key] = against
        return found

    def metrics(self) -> dict[str, Any]:
        """As a version's metrics keep it: ``backend.ledger.shapes.Metrics``."""
        return {
            "label_check": [
                {
                    "key": key,
                    "share": found.share,
                    "pixels": found.pixels,
                    "labelled": self.classes[found.labelled],
                    "predicted": self.classes[found.predicted],
                }
                for key, found in sorted(
                    self._contradicted.items(), key=lambda each: (-each[1].share, each[0])
                )[:MOST_LISTED]
            ],
            "confusion": self._mistaken(),
            "class_examples": {
                name: self._ends(index) for index, name in enumerate(self.classes) if index
            },
        }

    def _mistaken(self) -> list[dict[str, Any]]:
        """Pairs of different classes, those of the most pixels first."""
        off = self.table * ~np.eye(len(self.classes), dtype=bool)
        order = np.argsort(-off, axis=None, kind="stable")[:MOST_LISTED]
        pairs = np.stack(np.unravel_index(order, off.shape), axis=1).tolist()
        return [
            {
                "labelled": self.classes[label],
                "predicted": self.classes[predicted],
                "pixels": int(off[label, predicted]),
                "share": float(off[label, predicted] / self.table[label].sum()),
            }
            for label, predicted in pairs
            if off[label, predicted]
        ]

    def _ends(self, index: int) -> Mapping[str, list[tuple[str, float]]]:
        """The images of a class that overlap with its label least and most: key and Dice."""
        dice = {key: float(each[index]) for key, each in self._dice.items()}
        shown = sorted((value, key) for key, value in dice.items() if np.isfinite(value))
        worst = [(key, value) for value, key in shown[:EACH_WAY]]
        best = [(key, value) for value, key in shown[EACH_WAY:][: -EACH_WAY - 1 : -1]]
        return {"worst": worst, "best": best}
