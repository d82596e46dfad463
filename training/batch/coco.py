"""All particles of a folder in one COCO file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from training.batch.tables import Row
from training.files import replacing
from training.particles.coco import coco_annotation

COCO = "coco.json"


def write_coco(output: Path, rows: Iterable[Row], classes: Sequence[str]) -> None:
    """Write ``coco.json``; the particles of one image are in memory at a time.

    Its images are named as in ``images.csv``, its categories numbered as the masks are.
    """
    index = {name: i for i, name in enumerate(classes)}
    images: list[dict[str, Any]] = []
    number = 0
    with replacing(output / COCO) as file:
        file.write('{"annotations": [')
        for seen, record in rows:
            if record is None:
                continue
            H, W = record["size"]
            images.append({"id": len(images) + 1, "file_name": seen.file, "height": H, "width": W})
            columns = record["particles"]
            boxes = zip(*(columns[f"bbox-{i}"] for i in range(4)), strict=True)
            for name, area, box, counts in zip(
                columns["class"], columns["area"], boxes, record["rle"], strict=True
            ):
                number += 1
                rle = {"counts": counts, "size": [H, W]}
                one = coco_annotation(number, len(images), index[name], int(area), box, rle)
                file.write(f"{',' * (number > 1)}\n{json.dumps(one)}")
        categories = [{"id": i, "name": name} for name, i in index.items() if i]
        file.write(f'],\n"images": {json.dumps(images)},\n"categories": {json.dumps(categories)}}}')
