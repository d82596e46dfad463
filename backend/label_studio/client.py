"""Label Studio's REST interface, as far as we need it: the only file that speaks it.

A thin client by ``requests``: every call has a time limit, only GETs are repeated, and what
goes wrong is a sentence. It takes either kind of token: a legacy one is sent as it is; a
personal access token is a JWT refresh token, exchanged for access tokens that live 300 s.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, Self, cast
from urllib.parse import urlsplit

import orjson
import requests
from requests.auth import AuthBase

from backend.errors import StudioRefused, StudioUnreachable

CONNECT_TIMEOUT_S = 5.0
# One POST of 10,000 masks took Label Studio 14 s on an idle machine, and deleting a version of
# as many rows 47 s (SQLite): leave room for a busy server.
LONG_TIMEOUT_S = 900.0
# `next` and a single task may make Label Studio ask the backend first, which it gives 100 s.
PREDICT_TIMEOUT_S = 120.0
# Waits before the second, third and fourth try of a GET: a server that restarts is back in 4-6 s.
RETRY_AFTER_S = (0.3, 1.0, 4.0)
# Statuses by which a proxy says that the server behind it is away for the moment.
AWAY = (502, 503, 504)
# Refused, dropped, silent, or broken off in the middle of the answer.
NO_ANSWER = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)
# An access token lives 300 s; a call that starts now may wait this long before it is checked.
REFRESH_BEFORE_S = 60.0
# Rows per page. More is hardly faster (500 tasks: 290 ms in one page, 5 x 71 ms in five) and
# costs Label Studio memory, because it loads the bodies even where we ask for ids only.
PAGE = 500
# Label Studio counts every task of every project it lists.
PROJECTS_PAGE = 100
# Bodies of masks are large (a 4096 px stroke mask is megabytes of JSON).
BODIES_PAGE = 25
# Django refuses more files than this in one form (DATA_UPLOAD_MAX_NUMBER_FILES).
FILES_PER_UPLOAD = 100
# They go into the URL, of which proxies take 8 kB and Label Studio's own server 64 kB.
IDS_PER_QUERY = 400
# Label Studio refuses a request above 250 MB.
BYTES_PER_UPLOAD = 100_000_000

Json = dict[str, Any]


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

    ``annotations`` counts the submitted ones without the skipped; ``skipped`` those.
    """

    id: int
    data: Json
    annotations: int
    skipped: int


@dataclass(frozen=True)
class Project:
    """A project. ``created`` is in whole unix seconds, as /setup and /predict name projects.

    ``settings`` is Label Studio's own answer, for the fields that have no name here.
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

    @property
    def key(self) -> str:
        """``<id>.<created>``: tells a project from a later one that got the same number."""
        return f"{self.id}.{self.created}"


class Studio:
    """A client of one Label Studio, as one user. Safe to share between threads and after fork.

    Args:
        url: where Label Studio answers, a path behind the host included.
        api_key: a legacy token or a personal access token.
        timeout_s: how long an ordinary call may take.

    Every method raises:
        StudioUnreachable: no answer in time.
        StudioRefused: an answer that is an error; ``studio_status`` holds its HTTP status.
    """

    def __init__(self, url: str, api_key: str, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._token = _Token(self, api_key.strip())
        self._local = threading.local()
        # Weak: a thread that ends takes its session along.
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        for session in list(self._sessions):
            session.close()

    # Server and user

    def version(self) -> str:
        """Label Studio's release, such as ``1.23.2``."""
        return str(self._get("/api/version")["release"])

    def whoami(self) -> Json:
        """The user whose token we hold: ``id``, ``email``, ``active_organization`` and more."""
        return cast(Json, self._get("/api/current-user/whoami"))

    # Projects

    def projects(self) -> list[Project]:
        """Every project that our user may see, oldest first."""
        rows: list[Json] = []
        page = 1
        while True:
            answer = self._get(
                "/api/projects/", {"page": page, "page_size": PROJECTS_PAGE, "ordering": "id"}
            )
            rows += answer["results"]
            if not answer["next"]:
                return [_project(row) for row in rows]
            page += 1

    def project(self, project_id: int) -> Project:
        return _project(self._get(f"/api/projects/{project_id}/"))

    def create_project(self, **fields: object) -> Project:
        return _project(self._send("POST", "/api/projects/", fields))

    def update_project(self, project_id: int, **fields: object) -> Project:
        return _project(self._send("PATCH", f"/api/projects/{project_id}/", fields))

    def delete_project(self, project_id: int) -> None:
        self._send("DELETE", f"/api/projects/{project_id}/", timeout_s=LONG_TIMEOUT_S)

    # Tasks

    def tasks(self, project_id: int, ids: Iterable[int] | None = None) -> Iterator[Task]:
        """Every task of the project, or those of ``ids`` that exist, by rising id.

        Cloud storage links in ``data`` come as links through Label Studio. Asks the backend
        for nothing, unlike ``task`` (as long as evaluate_predictions_automatically is off,
        which ``connect`` sees to).
        """
        fields = "id,data,total_annotations,cancelled_annotations"
        for some in [None] if ids is None else _chunks(sorted(set(ids)), IDS_PER_QUERY):
            for row in self._list_tasks(project_id, PAGE, some, include=fields):
                yield _task(row)

    def task(self, task_id: int) -> Task:
        """One task. If it has no prediction, Label Studio asks the backend for one first."""
        return _task(self._get(f"/api/tasks/{task_id}/", timeout_s=PREDICT_TIMEOUT_S))

    def delete_task(self, task_id: int) -> None:
        self._send("DELETE", f"/api/tasks/{task_id}/")

    def next_task(self, project_id: int) -> Json | None:
        """The task that Label Studio serves our user next, and locks for them; None: no more."""
        try:
            row = self._get(f"/api/projects/{project_id}/next/", timeout_s=PREDICT_TIMEOUT_S)
        except StudioRefused as error:
            # An unknown project is 404 too, and that is no empty queue.
            if error.studio_status == 404:
                self.project(project_id)
                return None
            raise
        return cast(Json, row)

    def import_tasks(self, project_id: int, rows: Sequence[Json]) -> list[int]:
        """Add tasks (``{"image": url}`` or ``{"data": {...}, ...}``); their ids, in order."""
        answer = self._send(
            "POST",
            f"/api/projects/{project_id}/import?return_task_ids=true",
            rows,
            timeout_s=LONG_TIMEOUT_S,
        )
        return [int(task_id) for task_id in answer["task_ids"]]

    def upload(self, project_id: int, files: Sequence[tuple[str, bytes]]) -> list[int]:
        """Upload image files, one task each; the ids of their tasks, in the order of ``files``."""
        task_ids: list[int] = []
        for part in _parts(files):
            answer = self._send(
                "POST",
                f"/api/projects/{project_id}/import?return_task_ids=true",
                # Of several files under one field name Label Studio keeps the last, silently.
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

    # Annotations

    def stamps(self, project_id: int) -> dict[int, tuple[Stamp, ...]]:
        """The state of every annotated or skipped task: {task id: its annotations' stamps}.

        The cheapest complete listing that 1.23 has: the annotations are expanded but only
        three of their fields sent. 500 tasks of 512x512 masks among 2,000: 0.3 s and 0.05 MB,
        against 1.4 s and 11 MB with ``fields=all`` alone and 26 s one by one; the export
        needs 0.6 s and leaves a file of all of it on the server each time.
        """
        rows = self._list_tasks(
            project_id,
            PAGE,
            annotated=True,
            fields="all",
            expand="annotations",
            include="id,annotations.id,annotations.updated_at,annotations.was_cancelled",
            resolve_uri="false",
        )
        return {row["id"]: tuple(sorted(_stamp(a) for a in row["annotations"])) for row in rows}

    def annotations(self, task_id: int) -> list[Json]:
        """A task's annotations with their regions, the skipped ones among them."""
        return cast(list[Json], self._get(f"/api/tasks/{task_id}/annotations/"))

    def annotations_of(
        self, project_id: int, task_ids: Iterable[int]
    ) -> Iterator[tuple[int, list[Json]]]:
        """(task id, its annotations) for many tasks, far cheaper than one call each.

        A task without annotations comes with an empty list; a deleted one does not come.
        """
        wanted = sorted(set(task_ids))
        for start in range(0, len(wanted), BODIES_PAGE):
            rows = self._list_tasks(
                project_id,
                BODIES_PAGE,
                wanted[start : start + BODIES_PAGE],
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
        return cast(Json, self._send("POST", f"/api/tasks/{task_id}/annotations/", body))

    def update_annotation(self, annotation_id: int, **fields: object) -> Json:
        return cast(Json, self._send("PATCH", f"/api/annotations/{annotation_id}/", fields))

    def delete_annotation(self, annotation_id: int) -> None:
        self._send("DELETE", f"/api/annotations/{annotation_id}/")

    # Predictions

    def import_predictions(self, project_id: int, rows: Sequence[Json]) -> int:
        """Store predictions in one POST: ``{task, result, score, model_version}`` each.

        Returns:
            How many were created. Compare it with ``len(rows)``: Label Studio drops an
            invalid row and answers 201 all the same.
        """
        answer = self._send(
            "POST",
            f"/api/projects/{project_id}/import/predictions",
            rows,
            timeout_s=LONG_TIMEOUT_S,
        )
        return int(answer["created"])

    def predictions(self, task_id: int) -> list[Json]:
        """A task's predictions with their regions, of every version."""
        return cast(list[Json], self._get("/api/predictions/", {"task": task_id}))

    def model_versions(self, project_id: int) -> dict[str, int]:
        """{model version: how many predictions it has}."""
        answer = self._get(f"/api/projects/{project_id}/model-versions/")
        return {str(name): int(count) for name, count in answer.items()}

    def delete_model_version(self, project_id: int, name: str) -> None:
        """Delete a version's predictions; the project's model_version too if it is this one.

        Slow (36-47 s for 10,000 rows), and whoever has one of them open cannot submit.
        """
        self._send(
            "DELETE",
            f"/api/projects/{project_id}/model-versions/",
            {"model_version": name},
            timeout_s=LONG_TIMEOUT_S,
        )

    # ML backends

    def ml_backends(self, project_id: int) -> list[Json]:
        """The project's backend connections. Label Studio calls each one's /health and /setup."""
        return cast(list[Json], self._get("/api/ml/", {"project": project_id}))

    def create_ml_backend(self, **fields: object) -> Json:
        """Connect a backend (``project``, ``url``, ``title``...); it must answer within 3 s."""
        return cast(Json, self._send("POST", "/api/ml/", fields))

    def update_ml_backend(self, backend_id: int, **fields: object) -> Json:
        """Change a connection; ``url`` and ``project`` are needed each time (else 500)."""
        return cast(Json, self._send("PATCH", f"/api/ml/{backend_id}", fields))

    def delete_ml_backend(self, backend_id: int) -> None:
        self._send("DELETE", f"/api/ml/{backend_id}")

    # Webhooks

    def webhooks(self, project_id: int) -> list[Json]:
        return cast(list[Json], self._get("/api/webhooks/", {"project": project_id}))

    def create_webhook(self, **fields: object) -> Json:
        return cast(Json, self._send("POST", "/api/webhooks/", fields))

    def update_webhook(self, webhook_id: int, **fields: object) -> Json:
        """Change a webhook; ``url`` is needed each time."""
        return cast(Json, self._send("PATCH", f"/api/webhooks/{webhook_id}/", fields))

    def delete_webhook(self, webhook_id: int) -> None:
        self._send("DELETE", f"/api/webhooks/{webhook_id}/")

    # Data Manager views

    def views(self, project_id: int) -> list[Json]:
        return cast(list[Json], self._get("/api/dm/views/", {"project": project_id}))

    def create_view(self, project_id: int, data: Json) -> Json:
        """Add a tab of the Data Manager, which everybody sees."""
        return cast(
            Json, self._send("POST", "/api/dm/views/", {"project": project_id, "data": data})
        )

    def update_view(self, view_id: int, project_id: int, data: Json) -> Json:
        body = {"project": project_id, "data": data}
        return cast(Json, self._send("PATCH", f"/api/dm/views/{view_id}/", body))

    def delete_view(self, view_id: int) -> None:
        self._send("DELETE", f"/api/dm/views/{view_id}/")

    # Bytes

    def open_stream(self, path: str) -> requests.Response:
        """GET ``path`` of Label Studio with our token, its body unread, redirects not followed.

        Args:
            path: begins with one ``/``; the path that Label Studio itself lives under may be
                left out. The token never goes to any other host.
        """
        if not path.startswith("/") or path.startswith("//"):
            raise ValueError(
                f"expected a path of Label Studio such as /data/upload/..., got {path!r}"
            )
        prefix = urlsplit(self.url).path
        if prefix and path.startswith(f"{prefix}/"):
            path = path[len(prefix) :]
        answer = self._request("GET", path, None, None, self.timeout_s, stream=True)
        if answer.status_code >= 400:
            with answer:
                raise self._refusal("GET", path.partition("?")[0], answer)
        return answer

    # How a call is made

    def _list_tasks(
        self,
        project_id: int,
        page_size: int,
        ids: Iterable[int] | None = None,
        *,
        annotated: bool = False,
        **parameters: str,
    ) -> Iterator[Json]:
        """Rows of the task listing by rising id, however many.

        Each page asks for the ids after the last one seen: by page number, a task that is
        deleted meanwhile would shift another one across the border, unseen. And the end is
        where the server counts no more rows: it may have a lower limit for pages than ours
        (TASK_API_PAGE_SIZE_MAX), so a short page proves nothing.
        """
        last = 0
        while True:
            query: Json = {"ordering": ["tasks:id"], "filters": _filters(last, annotated)}
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
            answer = self._get("/api/tasks/", {**page, **parameters})
            rows = answer["tasks"]
            yield from rows
            if len(rows) >= answer["total"]:
                return
            last = rows[-1]["id"]

    def _get(
        self,
        path: str,
        parameters: Mapping[str, str | int] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Any:  # Label Studio's JSON, of many shapes
        answer = self._request("GET", path, parameters, None, timeout_s or self.timeout_s)
        return self._content("GET", path, answer)

    def _send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        files: Mapping[str, tuple[str, bytes]] | None = None,
        timeout_s: float | None = None,
    ) -> Any:  # Label Studio's JSON, of many shapes
        answer = self._request(method, path, None, body, timeout_s or self.timeout_s, files=files)
        return self._content(method, path, answer)

    def _content(self, method: str, path: str, answer: requests.Response) -> Any:
        with answer:
            if answer.status_code >= 400:
                raise self._refusal(method, path, answer)
            if 300 <= answer.status_code < 400:
                raise StudioRefused(
                    f"{self.url} redirects {path} to {answer.headers.get('Location')}: set "
                    "LABEL_STUDIO_URL to the address that Label Studio itself has.",
                    answer.status_code,
                )
            if answer.status_code == 204 or not answer.content:
                return None
            try:
                return orjson.loads(answer.content)
            except orjson.JSONDecodeError as error:
                raise StudioRefused(
                    f"{self.url}{path} answered {answer.status_code} with something other than "
                    "JSON: is LABEL_STUDIO_URL really Label Studio's address?",
                    answer.status_code,
                ) from error

    def _request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str | int] | None,
        body: object,
        timeout_s: float,
        *,
        files: Mapping[str, tuple[str, bytes]] | None = None,
        stream: bool = False,
    ) -> requests.Response:
        """One call, repeated where that is harmless: a GET without answer, or a stale token."""
        waits = iter(RETRY_AFTER_S if method == "GET" else ())
        renewed = False
        while True:
            try:
                answer = self._session().request(
                    method,
                    self.url + path,
                    params=parameters,
                    data=None if body is None else orjson.dumps(body),
                    headers=None if body is None else {"Content-Type": "application/json"},
                    files=files,
                    auth=self._token,
                    timeout=(CONNECT_TIMEOUT_S, timeout_s),
                    stream=stream,
                    allow_redirects=False,
                )
            except NO_ANSWER as error:
                # A server that takes its time is not helped by being asked again.
                slow = isinstance(error, requests.ReadTimeout)
                wait = None if slow else next(waits, None)
                if wait is None:
                    raise StudioUnreachable(
                        f"Label Studio at {self.url} did not answer {method} "
                        f"{path.partition('?')[0]} within {timeout_s:g} s "
                        f"({type(error).__name__}): is it running, and is LABEL_STUDIO_URL right?"
                    ) from error
                time.sleep(wait)
                continue
            if answer.status_code in AWAY and (wait := next(waits, None)) is not None:
                answer.close()
                time.sleep(wait)
                continue
            # Our clock may be wrong about the token's age. A 401 means nothing was done, so
            # that repeating a POST is harmless too.
            if answer.status_code == 401 and self._token.personal and not renewed:
                answer.close()
                self._token.forget()
                renewed = True
                continue
            return answer

    def _session(self) -> requests.Session:
        """This thread's session; a child process must not write into its parent's sockets."""
        if getattr(self._local, "process", None) != os.getpid():
            self._local.session = requests.Session()
            self._local.process = os.getpid()
            self._sessions.add(self._local.session)
        return cast(requests.Session, self._local.session)

    def _refusal(self, method: str, path: str, answer: requests.Response) -> StudioRefused:
        # A server under test or in between may echo what it was sent.
        detail = self._token.hide(_detail(answer))
        status = answer.status_code
        if status == 401 and "legacy token authentication has been disabled" in detail:
            text = (
                "Label Studio takes no legacy tokens any more: make a personal access token "
                "under Account & Settings and set LABEL_STUDIO_API_KEY to it (or an owner turns "
                "legacy tokens on again under Organization > API Tokens Settings)."
            )
        elif status == 401:
            text = (
                f"Label Studio at {self.url} does not know our token ({detail}): set "
                "LABEL_STUDIO_API_KEY to a token shown under Account & Settings."
            )
        elif status == 403:
            text = f"Label Studio does not allow our user {method} {path}: {detail}"
        else:
            text = f"Label Studio answered {status} to {method} {path}: {detail}"
        return StudioRefused(text, status)


class _Token(AuthBase):
    """The header that a request needs. Being an ``auth``, it keeps a .netrc out."""

    def __init__(self, studio: Studio, api_key: str) -> None:
        self.personal = api_key.count(".") == 2
        self._studio = studio
        self._api_key = api_key
        self._lock = threading.Lock()
        self._access: str | None = None
        self._stale_at = 0.0

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        scheme, token = ("Bearer", self._fresh()) if self.personal else ("Token", self._api_key)
        request.headers["Authorization"] = f"{scheme} {token}"
        return request

    def hide(self, text: str) -> str:
        """``text`` without our tokens."""
        for token in (self._api_key, self._access):
            text = text.replace(token, "***") if token else text
        return text

    def forget(self) -> None:
        """Exchange the token again before the next request."""
        with self._lock:
            self._access = None

    def _fresh(self) -> str:
        with self._lock:
            if self._access is None or time.monotonic() > self._stale_at:
                self._access = self._exchange()
                self._stale_at = time.monotonic() + _lifetime_s(self._access) - REFRESH_BEFORE_S
            return self._access

    def _exchange(self) -> str:
        studio = self._studio
        path = "/api/token/refresh/"
        try:
            answer = requests.post(
                studio.url + path,
                json={"refresh": self._api_key},
                # Without an auth of our own requests would look into .netrc.
                auth=no_auth,
                timeout=(CONNECT_TIMEOUT_S, studio.timeout_s),
                allow_redirects=False,
            )
        except NO_ANSWER as error:
            raise StudioUnreachable(
                f"Label Studio at {studio.url} did not answer {path} ({type(error).__name__}): "
                "is it running, and is LABEL_STUDIO_URL right?"
            ) from error
        if answer.status_code in (400, 401):
            raise StudioRefused(
                "Label Studio does not take our personal access token "
                f"({self.hide(_detail(answer))}): it "
                "was revoked or has expired. Make a new one under Account & Settings and set "
                "LABEL_STUDIO_API_KEY to it.",
                401,
            )
        return str(studio._content("POST", path, answer)["access"])


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
)


def no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send no credentials: with an ``auth`` given, requests leaves the .netrc unread."""
    return request


def _lifetime_s(access: str) -> float:
    """Seconds that an access token lives, by the server's own clock; 300 if it does not say."""
    payload = access.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"]) - float(claims["iat"])
    except (binascii.Error, ValueError, KeyError):
        return 300.0


def _filters(last: int, annotated: bool) -> Json:
    items: list[Json] = [
        {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
    ]
    if annotated:
        # By the annotations themselves, not by the task's counters. The ids are text to the
        # Data Manager's own UI, but as a String this filter is a 500 in an empty project.
        items.append(
            {
                "filter": "filter:tasks:annotations_ids",
                "operator": "empty",
                "type": "Number",
                "value": False,
            }
        )
    return {"conjunction": "and", "items": items}


def _parts(files: Sequence[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    part: list[tuple[str, bytes]] = []
    size = 0
    for name, content in files:
        if part and (len(part) == FILES_PER_UPLOAD or size + len(content) > BYTES_PER_UPLOAD):
            yield part
            part, size = [], 0
        part.append((name, content))
        size += len(content)
    if part:
        yield part


def _chunks(values: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(values), most):
        yield values[start : start + most]


def _detail(answer: requests.Response) -> str:
    """What Label Studio says went wrong, in at most 500 characters."""
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return f"{len(answer.content)} bytes that are not JSON"
    if isinstance(body, dict):
        problems = body.get("validation_errors") or body.get("detail") or body
        return (problems if isinstance(problems, str) else json.dumps(problems))[:500]
    return json.dumps(body)[:500]


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
    )


def _task(row: Json) -> Task:
    return Task(
        id=int(row["id"]),
        data=row["data"],
        annotations=int(row["total_annotations"] or 0),
        skipped=int(row["cancelled_annotations"] or 0),
    )


def _stamp(row: Json) -> Stamp:
    return Stamp(int(row["id"]), row["updated_at"], bool(row["was_cancelled"]))
