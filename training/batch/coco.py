"""All particles of a folder in one COCO file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from training.batch.results import Record
from training.batch.tables import Row
from training.particles.coco import CocoImage, coco_particle, write_coco

COCO = "coco.json"


def write_coco_of_rows(output: Path, rows: Iterable[Row], classes: Sequence[str]) -> None:
    """Write ``coco.json``; the particles of one image are in memory at a time.

    Its images are named as in ``images.csv``, its categories numbered as the masks are.
    """
    read = ((seen.file, record) for seen, record in rows if record is not None)
    images = (
        CocoImage(number, file, record["size"], _particles(record, classes))
        for number, (file, record) in enumerate(read, start=1)
    )
    write_coco(output / COCO, images, classes)


def _particles(record: Record, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    columns = record["particles"]
    boxes = zip(*(columns[f"bbox-{i}"] for i in range(4)), strict=True)
    for name, area, box, counts in zip(
        columns["class"], columns["area"], boxes, record["rle"], strict=True
    ):
        yield coco_particle(classes.index(name), int(area), box, counts, record["size"])
