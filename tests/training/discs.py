"""Drawn discs: the smallest thing that can be segmented."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.examples import Example
from training.images import encode_png

CLASSES = ("background", "dark", "bright")


def disc_example(key: str, seed: int, height: int = 72, width: int = 88) -> Example:
    """Grey ground with a few dark and a few bright discs."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128, np.float64)
    mask = np.zeros((height, width), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for class_index, grey in ((1, 40), (2, 220), (1, 40)):
        row, column = rng.uniform(0.2, 0.8, 2) * (height, width)
        inside = (rows - row) ** 2 + (columns - column) ** 2 < rng.uniform(8, 14) ** 2
        image[inside] = grey
        mask[inside] = class_index
    image += rng.normal(0, 6, image.shape)
    return Example(key, np.clip(image, 0, 255).astype(np.uint8), mask)


def disc_examples(count: int, first_seed: int = 0) -> list[Example]:
    return [disc_example(f"disc-{i}", first_seed + i) for i in range(count)]


def write_discs(folder: Path, count: int, first_seed: int = 0) -> Path:
    """A labelled folder of drawn discs: 0.png, 1.png and so on."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        example = disc_example("", first_seed + number)
        (folder / "images" / f"{number}.png").write_bytes(encode_png(example.image))
        (folder / "masks" / f"{number}.png").write_bytes(encode_png(example.mask))
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return folder
