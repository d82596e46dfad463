"""A project of drawn images on a Label Studio that is kept in memory, for masks in and out."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.label_studio.bulk import Project, Stamp, StoredPrediction, Task
from backend.label_studio.client import Json
from backend.workplace import Workplace
from tests.backend.workplaces import SERVER, brush_config

CREATED = 1767323045
SIZE = (24, 32)
LABELS = ("Cell", "Cast", "Unknown")

Mask = NDArray[np.uint8]


def file_of(pixels: NDArray[Any], form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def picture(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    return file_of(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


class Lab:
    """The Label Studio and the image fetcher of a workplace at once.

    ``tasks`` are addresses by task; ``rows`` annotations by task, as Label Studio gives them.
    """

    def __init__(self, work: Workplace, *urls: str, config: str = "", **options: Any) -> None:
        self.config = config or brush_config(*LABELS)
        self.tasks_ = {number: {"image": url} for number, url in enumerate(urls, start=1)}
        self.files = {url: picture(number) for number, url in enumerate(urls)}
        self.rows: dict[int, list[Json]] = {}
        self.predicted: dict[int, list[Json]] = {}
        self.fetched: list[str] = []
        self.sent: list[tuple[str, int]] = []
        self._clock = 0
        work.__dict__.update(studio=self, images=self)
        options = {"unknown_label": "Unknown", "audit_fraction": 0, **options}
        self.row = work.ledger.projects.ensure(
            SERVER, 7, CREATED, title="Urine", extra_params=options
        )

    # What a person does

    def draw(self, task_id: int, result: Sequence[Json], **fields: Any) -> Json:
        return self.annotate(task_id, result, **fields)

    def edit(self, task_id: int, result: Sequence[Json], number: int = 0) -> None:
        row = self.rows[task_id][number]
        row.update(result=copy.deepcopy(list(result)), updated_at=self._now())

    # What we ask

    def project(self, _project_id: int) -> Project:
        return Project(7, "Urine", CREATED, self.config, "", "", 1, len(self.tasks_), {})

    def tasks(self, _project_id: int, ids: Iterable[int] | None = None) -> Iterator[Task]:
        for number in sorted(self.tasks_ if ids is None else set(ids) & set(self.tasks_)):
            yield Task(number, self.tasks_[number], len(self.rows.get(number, ())), 0)

    def stamps(self, _project_id: int) -> dict[int, tuple[Stamp, ...]]:
        return {
            task_id: tuple(Stamp(a["id"], a["updated_at"], a["was_cancelled"]) for a in rows)
            for task_id, rows in self.rows.items()
            if rows
        }

    def annotations_of(
        self, _project_id: int, task_ids: Iterable[int]
    ) -> Iterator[tuple[int, list[Json]]]:
        for number in sorted(task_ids):
            yield number, copy.deepcopy(self.rows.get(number, []))

    def annotate(self, task_id: int, result: Sequence[Json], **fields: Any) -> Json:
        self.sent.append(("annotate", task_id))
        self._clock += 1
        row = {
            "id": 100 + self._clock,
            "result": copy.deepcopy(list(result)),
            "was_cancelled": False,
            "completed_by": 1,
            "created_at": self._now(),
            "updated_at": self._now(),
            "ground_truth": False,
            "lead_time": None,
            "import_id": None,
            **fields,
        }
        self.rows.setdefault(task_id, []).append(row)
        return row

    def update_annotation(self, annotation_id: int, **fields: Any) -> Json:
        self.sent.append(("update", annotation_id))
        [row] = [row for rows in self.rows.values() for row in rows if row["id"] == annotation_id]
        row.update(copy.deepcopy(fields), updated_at=self._now())
        return row

    def model_versions(self, _project_id: int) -> dict[str, int]:
        names = [p["model_version"] for rows in self.predicted.values() for p in rows]
        return {name: names.count(name) for name in names}

    def predictions(self, task_id: int) -> list[Json]:
        return copy.deepcopy(self.predicted.get(task_id, []))

    def import_predictions(self, _project_id: int, rows: Iterable[StoredPrediction]) -> int:
        count = 0
        for row in rows:
            count += 1
            stored = {**copy.deepcopy(cast(Json, row)), "id": 900 + self._tick()}
            self.predicted.setdefault(row["task"], []).append(stored)
        return count

    def update_prediction(self, prediction_id: int, result: Sequence[Json]) -> None:
        self.sent.append(("predict again", prediction_id))
        for rows in self.predicted.values():
            for row in rows:
                if row["id"] == prediction_id:
                    row["result"] = copy.deepcopy(list(result))

    def get(self, path: str) -> list[Mapping[str, Any]]:
        assert path == "/api/users/"
        return [{"id": 1, "email": "ada@lab.test"}]

    def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        return self.files[url]

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _now(self) -> str:
        return f"2026-01-02T03:04:{self._tick():02d}Z"


def write_masks(folder: Path, masks: Mapping[str, NDArray[Any]]) -> Path:
    """PNG files of these arrays by their paths within the folder."""
    for name, mask in masks.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_of(mask, "TIFF" if path.suffix == ".tif" else "PNG"))
    return folder
