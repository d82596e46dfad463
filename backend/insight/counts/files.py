"""The files of ``counts``: a table of the classes, one of the images, a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from backend.errors import BadRequest
from backend.insight.counts.project import ALL, ImageRow, ProjectCounts
from training.csv_cells import plain_cell
from training.files import write_atomically
from training.quality.counts import PoolCount

Cell = str | int | float | None

PER_IMAGE = (
    "plain",
    *("corrected", "corrected_low", "corrected_high"),
    *("audits_alone", "audits_alone_low", "audits_alone_high"),
)
"""Columns of counts.csv that there are twice: per image, and of the pool together."""


def write_counts(found: ProjectCounts, folder: Path) -> list[Path]:
    """Write counts.csv, images.csv and counts.png; files of these names are replaced.

    Raises:
        BadRequest: the folder cannot be written to.
    """
    from training.figures.counts_figure import Estimates, counts_figure

    panels = {
        name: [
            Estimates(row.group, row.pool.plain, row.pool.corrected, row.pool.alone)
            for row in found.rows
            if row.measure == "count" and row.class_name == name
        ]
        for name in found.classes[1:]
    }
    title = (
        f"Particles per image: project {found.project}, {len(found.images)} images, version "
        f"{found.version}, {found.audits.counted} audits"
    )
    files = {
        "counts.csv": _csv(_count_rows(found)),
        "images.csv": _csv(_image_rows(found)),
        "counts.png": counts_figure(panels, title),
    }
    try:
        for name, data in files.items():
            write_atomically(folder / name, data)
    except OSError as error:
        raise BadRequest(f"The counts cannot be written to {folder}: {error}.") from error
    return [folder / name for name in files]


def _count_rows(found: ProjectCounts) -> Iterable[Sequence[Cell]]:
    yield [
        *("measure", "class", "group", "images", "audits", "audits_showing"),
        *("audits_counted_by_people", "audits_counted_by_committee"),
        *(f"{name}_per_image" for name in PER_IMAGE),
        *(f"{name}_total" for name in PER_IMAGE),
        *("weight", "why_no_interval"),
    ]
    for row in found.rows:
        pool = row.pool
        values = _values(pool)
        # The areas of images of different sizes have no sum.
        totals = [None if v is None or row.measure == "area" else v * pool.images for v in values]
        yield [
            *(
                row.measure,
                plain_cell(row.class_name),
                plain_cell(row.group),
                pool.images,
                pool.audits,
                pool.shown,
            ),
            *(pool.counted, pool.predicted),
            *values,
            *totals,
            *(pool.weight, pool.reason),
        ]


def _values(pool: PoolCount) -> list[float | None]:
    found: list[float | None] = [pool.plain]
    for interval in (pool.corrected, pool.alone):
        each = (interval.value, interval.low, interval.high) if interval else (None, None, None)
        found += each
    return found


def _image_rows(found: ProjectCounts) -> Iterable[Sequence[Cell]]:
    names = found.classes[1:]
    kinds = ("predicted", "counted", "predicted_area", "counted_area")
    yield [
        *("task", "group", "role", "height", "width"),
        *(f"{name} {kind}" for name in names for kind in kinds),
        "unreadable",
    ]
    for image in found.images:
        yield [
            image.task,
            "" if image.group == ALL else plain_cell(image.group),
            *_cells(image, len(names)),
        ]
    for task, why in found.unreadable:
        yield [task, "", "unreadable", *[None] * (2 + len(kinds) * len(names)), why]


def _cells(image: ImageRow, classes: int) -> list[Cell]:
    ours, people = image.predicted, image.counted
    cells: list[Cell] = [image.role, *ours.size]
    for c in range(1, classes + 1):
        cells += [
            int(ours.counts[c]),
            None if people is None else float(people.counts[c]),
            float(ours.areas[c]),
            None if people is None else float(people.areas[c]),
        ]
    return [*cells, None]


def _csv(rows: Iterable[Sequence[Cell]]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for row in rows:
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
    return file.getvalue().encode()
