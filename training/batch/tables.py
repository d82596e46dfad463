"""particles.csv, images.csv and groups.csv, from the records of the images."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.batch.own_columns import OwnColumns
from training.batch.results import Record
from training.csv_cells import plain_cell
from training.datasets.seen_images import HEAD, TABLE, SeenImage
from training.files import replacing

PARTICLES = "particles.csv"
GROUPS = "groups.csv"

PARTICLE_COLUMNS = (
    *("label", "class", "area", "equivalent_diameter_area"),
    *(f"bbox-{i}" for i in range(4)),
    *("centroid-0", "centroid-1", "eccentricity", "solidity"),
    *(f"intensity_mean-{i}" for i in range(3)),
    *("touches_border", "probability", "uncertainty"),
    *("area_um2", "equivalent_diameter_area_um"),
)

Row = tuple[SeenImage, Record | None]
"""What the table of images says of a file, and its record if it was predicted."""


def reserved_names(classes: Sequence[str]) -> list[str]:
    """Columns that no column of the user's own may be called."""
    return [*HEAD, *PARTICLE_COLUMNS, *_class_columns(classes)]


def write_tables(
    output: Path, rows: Iterable[Row], classes: Sequence[str], own: OwnColumns, group_by: str | None
) -> None:
    """Write the tables whole, in the order of the rows; each record is in memory by itself.

    Args:
        group_by: one of the user's own columns, for ``groups.csv``.
    """
    groups: dict[str, _Group] = {}
    place = None if group_by is None else own.names.index(group_by)
    own_head = [plain_cell(name) for name in own.names]
    with (
        replacing(output / TABLE) as images_file,
        replacing(output / PARTICLES) as particles_file,
    ):
        images, particles = csv.writer(images_file), csv.writer(particles_file)
        images.writerow([*HEAD, *own_head, *map(plain_cell, _class_columns(classes))])
        particles.writerow(["file", *own_head, *PARTICLE_COLUMNS])
        for seen, record in rows:
            cells = [plain_cell(value) for value in own.of(seen.file)]
            if record is None:
                images.writerow([*seen.cells(), *cells])
                continue
            totals = _totals(record, classes)
            images.writerow([*seen.cells(), *cells, *_cells(totals)])
            for particle in _particle_rows(record["particles"]):
                particles.writerow([seen.cells()[0], *cells, *particle])
            if place is not None:
                group = groups.setdefault(own.of(seen.file)[place], _Group.empty(len(classes) - 1))
                group.add(totals)
    if group_by is None:
        (output / GROUPS).unlink(missing_ok=True)  # of an earlier run, of fewer images
    else:
        _write_groups(output / GROUPS, group_by, groups, classes)


@dataclass
class _Totals:
    """Of one image, for each class but the background.

    Attributes:
        counts, areas: [C - 1] particles and their pixels.
        areas_um2: [C - 1]; NaN where the size of a pixel is not known.
    """

    counts: NDArray[np.float64]
    areas: NDArray[np.float64]
    areas_um2: NDArray[np.float64]


@dataclass
class _Group:
    """Sums over the images of a group."""

    images: int
    sums: _Totals

    @classmethod
    def empty(cls, classes: int) -> _Group:
        return cls(0, _Totals(*(np.zeros(classes) for _ in range(3))))

    def add(self, totals: _Totals) -> None:
        self.images += 1
        for name, values in vars(totals).items():
            vars(self.sums)[name] += values


def _totals(record: Record, classes: Sequence[str]) -> _Totals:
    columns = record["particles"]
    index = {name: i for i, name in enumerate(classes[1:])}
    of = np.array([index[name] for name in columns["class"]], np.int64)
    areas: NDArray[Any] = np.bincount(of, columns["area"], len(index))
    pixel_um = record["pixel_um"]
    um2 = np.nan if pixel_um is None else pixel_um[0] * pixel_um[1]
    return _Totals(np.bincount(of, minlength=len(index)).astype(float), areas, areas * um2)


def _class_columns(classes: Sequence[str]) -> list[str]:
    kinds = ("count", "area", "area_um2")
    return [f"{kind}_{name}" for name in classes[1:] for kind in kinds]


def _cells(totals: _Totals) -> list[str]:
    columns = np.stack([totals.counts, totals.areas, totals.areas_um2], axis=1)
    return [_number(value) for value in columns.ravel().tolist()]


def _particle_rows(columns: dict[str, list[Any]]) -> Iterator[list[str]]:
    given = [columns.get(name) for name in PARTICLE_COLUMNS]
    for i in range(len(columns["label"])):
        yield ["" if values is None else _cell(values[i]) for values in given]


def _cell(value: Any) -> str:
    return plain_cell(value) if isinstance(value, str) else _number(value)


def _number(value: Any) -> str:
    """Empty for what is no number."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.10g}"
    return str(value)


def _write_groups(path: Path, key: str, groups: dict[str, _Group], classes: Sequence[str]) -> None:
    """A row for each group and class."""
    head = ("class", "images", "count", "count_per_image", "area", "area_per_image", "area_um2")
    with replacing(path) as file:
        writer = csv.writer(file)
        writer.writerow([plain_cell(key), *head])
        for name, group in sorted(groups.items()):
            for c, class_name in enumerate(classes[1:]):
                count, area, area_um2 = (float(values[c]) for values in vars(group.sums).values())
                numbers = (
                    *(group.images, count, count / group.images),
                    *(area, area / group.images, area_um2),
                )
                writer.writerow([plain_cell(name), plain_cell(class_name), *map(_number, numbers)])
