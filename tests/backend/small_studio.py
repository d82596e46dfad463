"""A Label Studio of one project, as far as a round asks it, over real sockets; its pool is as large
as wanted. The real one takes minutes to be filled with a hundred thousand tasks."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from tests.backend.workplaces import brush_config
from tests.served import Served

LABEL_CONFIG = brush_config("dark", "bright")
CREATED = "2026-01-02T03:04:05Z"
CREATED_S = 1767323045
LONGEST_LINE = 65536  # of Label Studio's own server


class SmallStudio(Served):
    """Answers as Label Studio does. ``annotated`` tasks are the first ones by id.

    Args:
        tasks: how many there are; their ids count from 1.
        image: the bytes of each one's image.
    """

    def __init__(self, tasks: int, annotated: int = 0, image: bytes = b"") -> None:
        self.tasks, self.annotated, self.image = tasks, annotated, image
        self.model_version = ""
        self.imported: dict[int, dict[str, object]] = {}
        self.predictions: dict[str, int] = {}
        self.longest_line = self.rows_sent = 0
        studio = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                studio.longest_line = max(studio.longest_line, len(self.requestline))
                answer = studio.answer(self.command, self.path, body)
                self.send_response(201 if self.command == "POST" else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names that the base calls

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output clean."""

        super().__init__(Handler)

    def answer(self, method: str, path: str, body: bytes) -> bytes:
        parts = urlsplit(path)
        route = re.sub(r"\d+", "N", parts.path).rstrip("/")
        if route == "/api/projects/N":
            if method == "PATCH":
                self.model_version = orjson.loads(body).get("model_version", self.model_version)
            return orjson.dumps(self._project())
        if route == "/api/projects/N/import":
            ids = []
            for row in orjson.loads(body):
                self.tasks += 1
                self.imported[self.tasks] = row["data"]
                ids.append(self.tasks)
            return orjson.dumps({"task_ids": ids})
        if route == "/api/projects/N/import/predictions":
            rows = orjson.loads(body)
            for row in rows:
                version = row["model_version"]
                self.predictions[version] = self.predictions.get(version, 0) + 1
            return orjson.dumps({"created": len(rows)})
        if route == "/api/projects/N/model-versions":
            if method == "DELETE":
                del self.predictions[orjson.loads(body)["model_version"]]
            return orjson.dumps(self.predictions)
        if route == "/api/tasks":
            return self._page(parse_qs(parts.query))
        if route == "/api/dm/views":
            return orjson.dumps([] if method == "GET" else {"id": 1})
        if route == "/api/dm/columns":
            return orjson.dumps({"columns": []})
        if route == "/data/upload/N/field.png":
            return self.image
        raise ValueError(f"nobody asks a Label Studio for {method} {path}")

    def _project(self) -> dict[str, object]:
        return {
            "id": 1,
            "title": "Large",
            "created_at": CREATED,
            "label_config": LABEL_CONFIG,
            "sampling": "Uncertainty sampling",
            "model_version": self.model_version,
            "maximum_annotations": 1,
            "task_number": self.tasks,
            "total_annotations_number": self.annotated,
            "skipped_annotations_number": 0,
        }

    def _page(self, parameters: dict[str, list[str]]) -> bytes:
        query, size = orjson.loads(parameters["query"][0]), int(parameters["page_size"][0])
        items = query.get("filters", {}).get("items", ())
        filters = {item["filter"]: item["value"] for item in items}
        after = filters.get("filter:tasks:id", 0) + 1
        last = self.annotated if "filter:tasks:annotations_ids" in filters else self.tasks
        since = filters.get("filter:tasks:updated_at", CREATED)
        if datetime.fromisoformat(since) > datetime.fromisoformat(CREATED):
            last = 0  # nothing changed since all of them were made
        ids: range | list[int] = range(after, last + 1)
        if "selectedItems" in query:
            ids = [each for each in sorted(query["selectedItems"]["included"]) if each in ids]
        if query["ordering"] == ["-tasks:id"]:
            ids = ids[::-1]
        rows = [self._task(task_id) for task_id in ids[:size]]
        if parameters.get("resolve_uri") != ["false"]:
            rows = [row | {"data": _with_links(row)} for row in rows]
        self.rows_sent += len(rows)
        return orjson.dumps({"tasks": rows, "total": len(ids)})

    def _task(self, task_id: int) -> dict[str, Any]:
        annotated = int(task_id <= self.annotated)
        stamp = {"id": task_id, "updated_at": CREATED, "was_cancelled": False}
        return {
            "id": task_id,
            "updated_at": CREATED,
            "data": self.imported.get(task_id, {"image": f"/data/upload/{task_id}/field.png"}),
            "total_annotations": annotated,
            "cancelled_annotations": 0,
            "annotations": [stamp] * annotated,
        }


def _with_links(row: dict[str, Any]) -> dict[str, object]:
    """A task's data with links through Label Studio in place of addresses in cloud storage."""
    link = f"/tasks/{row['id']}/resolve/?fileuri="
    return {
        key: link + urlsafe_b64encode(value.encode()).decode()
        if str(value).startswith("s3://")
        else value
        for key, value in row["data"].items()
    }


@contextmanager
def small_studio(tasks: int, annotated: int = 0, image: bytes = b"") -> Iterator[SmallStudio]:
    studio = SmallStudio(tasks, annotated, image)
    try:
        yield studio
    finally:
        studio.close()
