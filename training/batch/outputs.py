"""The files and the record of one predicted image."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.batch.results import Record
from training.committee.committee import Committee
from training.committee.prediction import Segmentation
from training.errors import TrainingError
from training.figures.overlay import overlay
from training.files import write_atomically
from training.images import encode_png, nearest, shrink
from training.particles.coco import encode_runs
from training.particles.instances import Instances, instances
from training.particles.table import particle_table
from training.pixels import Decoded

MOST_NUMBERED = 2**16 - 1

SIGNIFICANT = 7
"""Digits of a number in the tables: what single precision holds."""


class TooManyParticles(TrainingError):
    """A 16-bit mask cannot number them."""


@dataclass(frozen=True)
class Wanted:
    """What is written of each image.

    Attributes:
        min_particle_px: particles of fewer pixels are left out, as from pre-annotations.
        split_touching: names of the classes whose particles are told apart where they touch.
        instances: a 16-bit mask that numbers the particles.
        uncertainty: a map, in nats.
        overlays: a picture to look at.
        coco: a COCO file of all images.
    """

    min_particle_px: int = 12
    split_touching: tuple[str, ...] = ()
    instances: bool = False
    uncertainty: bool = False
    overlays: bool = False
    coco: bool = False

    def paths(self, output: Path, png: Path) -> dict[str, Path]:
        """The files of an image by what they hold, where its PNG is so called."""
        paths = {"masks": output / "masks" / png}
        if self.instances:
            paths["instances"] = output / "instances" / png
        if self.uncertainty:
            paths["uncertainty"] = output / "uncertainty" / png.with_name(f"{png.stem}.tif")
        if self.overlays:
            paths["overlays"] = output / "overlays" / png
        return paths


def write_outputs(
    committee: Committee,
    paths: dict[str, Path],
    wanted: Wanted,
    read: Decoded,
    segmentation: Segmentation,
    pixel_um: tuple[float, float] | None,
) -> Record:
    """Write an image's files, each whole or not at all, and give its part of the record.

    Args:
        committee: that made the segmentation.

    Raises:
        TooManyParticles: more than a 16-bit mask can number.
        OSError: the output cannot be written to.
    """
    classes, confidence = committee.config.classes, segmentation.confidence()
    found = instances(
        segmentation.mask(),
        wanted.min_particle_px,
        confidence=confidence,
        split=committee.diameters(wanted.split_touching, segmentation),
    )
    if wanted.instances and len(found.classes) > MOST_NUMBERED:
        raise TooManyParticles(
            f"it holds {len(found.classes)} particles, and a 16-bit mask numbers at most "
            f"{MOST_NUMBERED}: leave out --instances, or set --min-particle-px higher"
        )
    uncertainty = segmentation.uncertainty()
    table = particle_table(*(found, read.image, confidence, uncertainty, classes, pixel_um))
    mask = np.concatenate([[0], found.classes]).astype(np.uint8)[found.numbers]
    write_atomically(paths["masks"], encode_png(mask))
    if "instances" in paths:
        write_atomically(paths["instances"], _png_16(found.numbers))
    if "uncertainty" in paths:
        write_atomically(paths["uncertainty"], _tiff(uncertainty))
    if "overlays" in paths:
        height, width = segmentation.probs.shape[1:]
        picture = shrink(read.image, max(height, width))
        write_atomically(
            paths["overlays"], encode_png(overlay(picture, nearest(mask, height, width)))
        )
    record: Record = {
        "size": list(segmentation.size),
        "pixel_um": pixel_um,
        "particles": {name: _plain(values) for name, values in table.items()},
    }
    if wanted.coco:
        record["rle"] = _rles(found, table)
    return record


def _rles(found: Instances, table: dict[str, NDArray[Any]]) -> list[str]:
    boxes = np.stack([table[f"bbox-{i}"] for i in range(4)], axis=1).tolist()
    H, W = found.numbers.shape
    return [
        encode_runs(found.numbers[top:bottom, left:right] == number, top, left, (H, W))
        for number, (top, left, bottom, right) in enumerate(boxes, start=1)
    ]


def _plain(values: NDArray[Any]) -> list[Any]:
    """As JSON has them."""
    if values.dtype.kind != "f":
        return list(values.tolist())
    return [float(f"{value:.{SIGNIFICANT}g}") for value in values.tolist()]


def _png_16(numbers: NDArray[np.int32]) -> bytes:
    import cv2

    encoded, data = cv2.imencode(".png", numbers.astype(np.uint16))
    assert encoded
    return bytes(data)


def _tiff(values: NDArray[np.float32]) -> bytes:
    from tifffile import imwrite

    buffer = io.BytesIO()
    imwrite(buffer, values, compression="zlib", predictor=True)
    return buffer.getvalue()
