"""The calls of the web and of a round's jobs, and whatever carries masks: JSON as it is.

They do not go through label-studio-sdk, which ``control`` uses for the rest, because of what it
costs there. Measured with label-studio-sdk 2.1.2, our own CPU time:

- loading it takes 0.5 s and 19 MB on top of what a command holds (its ``LabelStudio`` class, which
  brings pandas, 1.9 s and 120 MB in a fresh process). A worker would pay that in every job, since
  each job is a process of its own, and the web in each of its processes;
- 1,000 predictions of 12,000 run lengths each, stored in one POST: 17 s, here 0.08 s. The SDK
  copies every list, number by number. An annotation of a noisy 1024 px mask (950,000 run lengths):
  2.0 s, here 0.06 s;
- a listing of 1,000 tasks: 0.14 s, here 0.009 s; of the stamps of 300 annotations: 0.31 s, here
  0.005 s. The SDK's paging is by page number, too, and would miss tasks (see ``_list_tasks``).

Two calls the SDK lacks: the next task of the queue, and files uploaded as tasks. Projects and
views are here because a round reads and orders them. A single small call costs the same either
way, 2 to 4 ms.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, TypedDict, TypeVar, cast

import orjson

from backend.errors import StudioRefused
from backend.label_studio.client import Json, StudioHttp

T = TypeVar("T")

# One POST of 10,000 masks took Label Studio 14 s on an idle machine, and deleting a version of
# as many rows 47 s (SQLite): leave room for a busy server.
LONG_TIMEOUT_S = 900.0
# `next` may make Label Studio ask the backend first, which it gives 100 s.
PREDICT_TIMEOUT_S = 120.0
# Rows per page. More is hardly faster (500 tasks: 290 ms in one page, 5 x 71 ms in five) and
# costs Label Studio memory, because it loads the bodies even where we ask for ids only.
PAGE = 500
# Bodies of masks are large (a 4096 px stroke mask is megabytes of JSON).
BODIES_PAGE = 25
# Django refuses more files than this in one form (DATA_UPLOAD_MAX_NUMBER_FILES).
FILES_PER_UPLOAD = 100
# They go into the URL, of which proxies take 8 kB and Label Studio's own server 64 kB.
IDS_PER_QUERY = 400
# Label Studio answers 500 to a request above 250 MB (DATA_UPLOAD_MAX_MEMORY_SIZE), and the proxies
# that people put before it mostly take 100 MB.
BYTES_PER_UPLOAD = 100_000_000
# Predictions go in as few POSTs as may be, since each makes Label Studio count the project again:
# 144 MB for 10,000 tasks took 26 s in one, 36 s in two, 53 s in three. A proxy that takes less says
# so (413).
BYTES_PER_POST = 200_000_000
# JSON of one prediction's regions: the task, score and version around them are some 100 bytes more.
LARGEST_RESULT = BYTES_PER_POST - 1000

_ANNOTATION_FIELDS = (
    "id",
    "result",
    "was_cancelled",
    "completed_by",
    "created_at",
    "updated_at",
    "parent_prediction",
    "ground_truth",
    "lead_time",
    "import_id",
)


class StoredPrediction(TypedDict):
    """A prediction as Label Studio stores it; ``result`` are its regions, or their JSON text."""

    task: int
    result: list[Json] | orjson.Fragment
    score: float | None
    model_version: str


class Stamp(NamedTuple):
    """What tells one state of an annotation from another.

    ``updated_at`` is Label Studio's own ISO 8601 text: states are told apart by it as it is.
    """

    annotation_id: int
    updated_at: str
    skipped: bool


@dataclass(frozen=True)
class Task:
    """A task without its annotations' bodies.

    Attributes:
        annotations: how many are submitted, the skipped ones not counted.
        skipped: how many are skipped.
    """

    id: int
    data: Json
    annotations: int
    skipped: int


@dataclass(frozen=True)
class Project:
    """A project.

    Attributes:
        created: whole unix seconds, as /setup and /predict name projects.
        settings: Label Studio's whole answer, for the fields that have no name here.
        annotations: how many there are, the skipped ones among them; None if it is not told.
    """

    id: int
    title: str
    created: int
    label_config: str
    sampling: str
    model_version: str
    maximum_annotations: int
    task_number: int
    settings: Json
    annotations: int | None = None

    @property
    def key(self) -> str:
        """``<id>.<created>``: tells a project from a later one that got the same number."""
        return f"{self.id}.{self.created}"


class Studio(StudioHttp):
    """A client of one Label Studio, as one user; arguments and errors as ``StudioHttp``."""

    def whoami(self) -> Json:
        """The user whose token we hold: ``id``, ``email``, ``active_organization`` and more."""
        return cast(Json, self.get("/api/current-user/whoami"))

    # Projects

    def project(self, project_id: int) -> Project:
        return _project(self.get(f"/api/projects/{project_id}/"))

    def update_project(self, project_id: int, **fields: object) -> Project:
        return _project(self.send("PATCH", f"/api/projects/{project_id}/", fields))

    # Tasks

    def tasks(
        self,
        project_id: int,
        ids: Iterable[int] | None = None,
        *,
        after: int = 0,
        links: bool = True,
    ) -> Iterator[Task]:
        """Every task of the project whose id is above ``after``, or those of ``ids`` that exist, by
        rising id.

        Addresses of cloud storage in ``data`` come as links through Label Studio, or without
        ``links`` as they were imported. Does not make Label Studio ask the backend for predictions
        (as long as evaluate_predictions_automatically is off, which ``connect`` sees to).
        """
        fields = "id,data,total_annotations,cancelled_annotations"
        for some in [None] if ids is None else _chunks(sorted(set(ids)), IDS_PER_QUERY):
            rows = self._list_tasks(
                *(project_id, PAGE, some),
                after=after,
                include=fields,
                resolve_uri="true" if links else "false",
            )
            yield from map(_task, rows)

    def first_and_last(self, project_id: int) -> tuple[int, int] | None:
        """The least and the greatest task id of a project; None if it has no task."""
        ends: list[int] = []
        for ordering in ("tasks:id", "-tasks:id"):
            query = json.dumps({"ordering": [ordering]}, separators=(",", ":"))
            answer = self.get(
                "/api/tasks/",
                {"project": project_id, "page_size": 1, "query": query, "include": "id"},
                timeout_s=LONG_TIMEOUT_S,
            )
            ends += [int(row["id"]) for row in answer["tasks"]]
        return (ends[0], ends[1]) if len(ends) == 2 else None

    def next_task(self, project_id: int) -> Json | None:
        """The task that Label Studio serves our user next, and locks for them; None: no more."""
        try:
            row = self.get(f"/api/projects/{project_id}/next/", timeout_s=PREDICT_TIMEOUT_S)
        except StudioRefused as error:
            # An unknown project answers 404 too, and that does not mean an empty queue.
            if error.studio_status == 404:
                self.project(project_id)
                return None
            raise
        return cast(Json, row)

    def upload(self, project_id: int, files: Sequence[tuple[str, bytes]]) -> list[int]:
        """Upload image files, one task each; the ids of their tasks, in the order of ``files``."""
        task_ids: list[int] = []
        parts = _batches(files, lambda file: len(file[1]), BYTES_PER_UPLOAD, FILES_PER_UPLOAD)
        for part in parts:
            answer = self.call(
                "POST",
                f"/api/projects/{project_id}/import?return_task_ids=true",
                # Label Studio silently keeps only the last of several files that share a field
                # name.
                files={f"file-{i}": file for i, file in enumerate(part)},
                timeout_s=LONG_TIMEOUT_S,
            )
            if len(answer["task_ids"]) != len(part):
                raise StudioRefused(
                    f"Label Studio made {len(answer['task_ids'])} tasks of {len(part)} files "
                    f"({part[0][0]} to {part[-1][0]}): upload image files only.",
                    201,
                )
            task_ids += answer["task_ids"]
        return task_ids

    def import_tasks(self, project_id: int, rows: Sequence[Json]) -> list[int]:
        """Add a task for each of these data; the tasks' ids, in their order.

        Raises:
            StudioRefused: also when not as many tasks came of it.
        """
        answer = self.call(
            "POST",
            f"/api/projects/{project_id}/import?return_task_ids=true",
            content=orjson.dumps([{"data": data} for data in rows]),
            timeout_s=LONG_TIMEOUT_S,
        )
        made = [int(task_id) for task_id in answer["task_ids"]]
        if len(made) != len(rows):
            raise StudioRefused(f"Label Studio made {len(made)} tasks of {len(rows)}.", 201)
        return made

    # Annotations

    def stamps(self, project_id: int) -> dict[int, tuple[Stamp, ...]]:
        """The state of every annotated or skipped task: {task id: its annotations' stamps}."""
        return {task_id: stamps for task_id, _, stamps in self.touched(project_id)}

    def touched(
        self, project_id: int, since: datetime | None = None
    ) -> Iterator[tuple[int, str, tuple[Stamp, ...]]]:
        """(task id, when Label Studio last changed the task, its annotations' stamps), for every
        annotated or skipped task, or for those changed at ``since`` or later.

        Who submits, skips or updates an annotation changes its task too. One that was deleted
        leaves no trace here; ``Project.annotations`` counts them.

        The cheapest listing that 1.23 has: the annotations are expanded but only three of their
        fields sent. 500 tasks of 512x512 masks among 2,000: 0.3 s and 0.05 MB, against 1.4 s and
        11 MB with ``fields=all`` alone and 26 s one by one; the export needs 0.6 s and leaves a
        file of all of it on the server each time.
        """
        rows = self._list_tasks(
            project_id,
            PAGE,
            filters=[_ANNOTATED] if since is None else [_ANNOTATED, _changed(since)],
            fields="all",
            expand="annotations",
            include="id,updated_at,annotations.id,annotations.updated_at,annotations.was_cancelled",
            resolve_uri="false",
        )
        for row in rows:
            stamps = tuple(sorted(_stamp(each) for each in row["annotations"]))
            yield row["id"], row["updated_at"], stamps

    def annotations(self, task_id: int) -> list[Json]:
        """A task's annotations with their regions, the skipped ones among them."""
        return cast(list[Json], self.get(f"/api/tasks/{task_id}/annotations/"))

    def annotations_of(
        self, project_id: int, task_ids: Iterable[int]
    ) -> Iterator[tuple[int, list[Json]]]:
        """(task id, its annotations) for many tasks, far cheaper than one call each.

        A task without annotations comes with an empty list; a deleted one does not come.
        """
        wanted = sorted(set(task_ids))
        for some in _chunks(wanted, BODIES_PAGE):
            rows = self._list_tasks(
                project_id,
                BODIES_PAGE,
                some,
                fields="all",
                expand="annotations",
                include="id," + ",".join(f"annotations.{name}" for name in _ANNOTATION_FIELDS),
                resolve_uri="false",
            )
            for row in rows:
                yield row["id"], row["annotations"]

    def annotate(self, task_id: int, result: Sequence[Json], **fields: object) -> Json:
        """Submit an annotation; ``fields`` such as ``was_cancelled`` or ``parent_prediction``."""
        body = {"result": result, **fields}
        return cast(Json, self.send("POST", f"/api/tasks/{task_id}/annotations/", body))

    def update_annotation(self, annotation_id: int, **fields: object) -> Json:
        """Change an annotation, as a person who updates it does."""
        return cast(Json, self.send("PATCH", f"/api/annotations/{annotation_id}/", fields))

    # Predictions

    def import_predictions(self, project_id: int, rows: Iterable[StoredPrediction]) -> int:
        """Store predictions, in as many POSTs as ``BYTES_PER_POST`` asks for.

        Each POST is stored whole or not at all, all of them together are not: Label Studio must
        serve these predictions' model version only after this has returned.

        Args:
            rows: the regions of each at most ``LARGEST_RESULT``; a larger one goes alone, and is
                likely refused.

        Returns:
            How many were created. Compare it with the number of ``rows``: Label Studio drops an
            invalid row and answers 201 all the same.
        """
        # A row's comma counts, and so does the bracket more than there are commas.
        parts = _batches(
            map(orjson.dumps, rows), lambda row: len(row) + 1, most_bytes=BYTES_PER_POST - 1
        )
        return sum(self._import(project_id, part) for part in parts)

    def _import(self, project_id: int, rows: Sequence[bytes]) -> int:
        """Store them in one POST, or in halves where a proxy takes no body of that size."""
        path = f"/api/projects/{project_id}/import/predictions"
        try:
            body = b"[%b]" % b",".join(rows)
            return int(self.call("POST", path, content=body, timeout_s=LONG_TIMEOUT_S)["created"])
        except StudioRefused as error:
            if error.studio_status != 413 or len(rows) == 1:
                raise
        half = len(rows) // 2
        return self._import(project_id, rows[:half]) + self._import(project_id, rows[half:])

    def predictions(self, task_id: int) -> list[Json]:
        """A task's predictions with their regions, of every version."""
        return cast(list[Json], self.get("/api/predictions/", {"task": task_id}))

    def update_prediction(self, prediction_id: int, result: Sequence[Json]) -> None:
        """Give a prediction other regions; who has it open goes on with the former ones."""
        self.send("PATCH", f"/api/predictions/{prediction_id}/", {"result": result})

    def model_versions(self, project_id: int) -> dict[str, int]:
        """{model version: how many predictions it has}."""
        answer = self.get(f"/api/projects/{project_id}/model-versions/")
        return {str(name): int(count) for name, count in answer.items()}

    def delete_model_version(self, project_id: int, name: str) -> None:
        """Delete a version's predictions; the project's model_version too if it is this one.

        Slow (36-47 s for 10,000 rows), and whoever has one of them open cannot submit.
        """
        path = f"/api/projects/{project_id}/model-versions/"
        self.send("DELETE", path, {"model_version": name}, timeout_s=LONG_TIMEOUT_S)

    # Data Manager views

    def views(self, project_id: int) -> list[Json]:
        return cast(list[Json], self.get("/api/dm/views/", {"project": project_id}))

    def columns(self, project_id: int) -> list[tuple[str, str]]:
        """The columns of the Data Manager, as views name them, and their types."""
        found = self.get("/api/dm/columns/", {"project": project_id})["columns"]
        return [
            (f"tasks:{'data.' * (each.get('parent') == 'data')}{each['id']}", each["type"])
            for each in found
            if "children" not in each
        ]

    def create_view(self, project_id: int, data: Json) -> Json:
        """Add a tab of the Data Manager, which everybody sees."""
        body = {"project": project_id, "data": data}
        return cast(Json, self.send("POST", "/api/dm/views/", body))

    def update_view(self, view_id: int, project_id: int, data: Json) -> Json:
        body = {"project": project_id, "data": data}
        return cast(Json, self.send("PATCH", f"/api/dm/views/{view_id}/", body))

    def _list_tasks(
        self,
        project_id: int,
        page_size: int,
        ids: Iterable[int] | None = None,
        *,
        after: int = 0,
        filters: Sequence[Json] = (),
        **parameters: str,
    ) -> Iterator[Json]:
        """Rows of the task listing by rising id, however many.

        Each page asks for the ids after the last one that came: by page number, a task that is
        deleted meanwhile would move another one to an earlier page, and it would be missed. The
        listing ends where the server counts no more rows: its own limit for pages may be lower
        than ours (TASK_API_PAGE_SIZE_MAX), so a short page proves nothing.
        """
        last = after
        while True:
            behind = {**_BY_ID, "operator": "greater", "value": last}
            query: Json = {
                "ordering": ["tasks:id"],
                "filters": {"conjunction": "and", "items": [behind, *filters]},
            }
            if ids is not None:
                ids = [task_id for task_id in ids if task_id > last]
                if not ids:
                    return
                query["selectedItems"] = {"all": False, "included": ids}
            page: dict[str, str | int] = {
                "project": project_id,
                "page_size": page_size,
                "query": json.dumps(query, separators=(",", ":")),
            }
            answer = self.get("/api/tasks/", {**page, **parameters})
            rows = answer["tasks"]
            yield from rows
            if len(rows) >= answer["total"]:
                return
            last = rows[-1]["id"]


_BY_ID: Json = {"filter": "filter:tasks:id", "type": "Number"}

# By the annotations themselves, not by the task's counters. The ids are text to the Data Manager's
# own UI, but as a String this filter is a 500 in an empty project.
_ANNOTATED: Json = {
    "filter": "filter:tasks:annotations_ids",
    "operator": "empty",
    "type": "Number",
    "value": False,
}


def _changed(since: datetime) -> Json:
    return {
        "filter": "filter:tasks:updated_at",
        "operator": "greater_or_equal",
        "type": "Datetime",
        # The one form that Label Studio reads.
        "value": since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }


def _batches(
    items: Iterable[T], bytes_of: Callable[[T], int], most_bytes: int, most: int = sys.maxsize
) -> Iterator[list[T]]:
    """Lists of at most ``most`` items and ``most_bytes`` together, unless one item is larger."""
    batch: list[T] = []
    size = 0
    for item in items:
        if batch and (len(batch) == most or size + bytes_of(item) > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += bytes_of(item)
    if batch:
        yield batch


def _chunks(values: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(values), most):
        yield values[start : start + most]


def _project(row: Json) -> Project:
    return Project(
        id=int(row["id"]),
        title=row["title"],
        created=int(datetime.fromisoformat(row["created_at"]).timestamp()),
        label_config=row["label_config"] or "",
        sampling=row["sampling"] or "",
        model_version=row["model_version"] or "",
        maximum_annotations=int(row["maximum_annotations"]),
        task_number=int(row["task_number"] or 0),
        settings=row,
        annotations=_annotation_count(row),
    )


def _annotation_count(row: Json) -> int | None:
    # Label Studio's total leaves the skipped ones out, whatever its documentation says.
    total, skipped = row.get("total_annotations_number"), row.get("skipped_annotations_number")
    return None if total is None or skipped is None else int(total) + int(skipped)


def _task(row: Json) -> Task:
    return Task(
        id=int(row["id"]),
        data=row["data"],
        annotations=int(row["total_annotations"] or 0),
        skipped=int(row["cancelled_annotations"] or 0),
    )


def _stamp(row: Json) -> Stamp:
    return Stamp(int(row["id"]), row["updated_at"], bool(row["was_cancelled"]))
