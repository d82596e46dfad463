"""A project's connection to us: the ML backend, its webhook, the order of its queue.

Everything here may be repeated. What a project was set to before is kept twice, in the
``Connection`` and in the backend's description at Label Studio, so that even a connection made
again after our own records were lost can be undone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from backend.errors import BackendError, BadRequest, StudioRefused
from backend.label_studio.bulk import Project, Studio
from backend.label_studio.client import Json

TITLE = "Committee"
VIEW_TITLE = "Committee queue"
# What a publication's model_version begins with.
VERSION_PREFIX = "committee-v"

BY_RANK = "Uncertainty sampling"
WITHOUT_MODEL = "Uniform sampling"
# Label Studio's own default: what a project had before us if nobody remembers.
DEFAULT_SAMPLING = "Sequential sampling"

# Label Studio sends the lowest score first; NULLs come last. Only the first entry counts.
ORDERING = ["tasks:predictions_score"]

# Begins the backend's description: for a person who reads it, and for us to know our own.
_REMARK = "Made by Committee; do not edit. The project's former settings: "


class CannotConnect(BackendError):
    """Label Studio could not reach the backend, or may not."""

    status = 502


@dataclass(frozen=True)
class Former:
    """A project's settings before us, as Label Studio names them."""

    sampling: str
    model_version: str
    show_collab_predictions: bool
    evaluate_predictions_automatically: bool
    min_annotations_to_start_training: int


@dataclass(frozen=True)
class Connection:
    """What ``connect`` made. ``project_key`` is ``<id>.<created>``; ``view_id`` the shared tab."""

    project_id: int
    project_key: str
    backend_url: str
    backend_id: int
    webhook_id: int
    view_id: int
    former: Former

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        return cls(**{**fields, "former": Former(**fields["former"])})


def connect(
    studio: Studio,
    project_id: int,
    *,
    backend_url: str,
    user: str,
    password: str,
    options: Mapping[str, Any] | None = None,
    model_version: str | None = None,
    previous: Connection | None = None,
) -> Connection:
    """Create or update the project's connection to the backend at ``backend_url``.

    Leaves one ML backend of ours with Basic auth, one webhook to it with the same
    authentication, the queue in order, pre-annotations shown, and Label Studio's own training
    trigger off (it would fire inside an annotator's submit). Everybody else's backends,
    webhooks and views stay as they are.

    Args:
        backend_url: how Label Studio reaches us; we must answer there already.
        user, password: Basic auth that our side asks for.
        options: the connection's extra parameters; None keeps those that are there.
        model_version: the serving publication's; None: the one that the project holds, if it
            is a publication of ours with predictions, else no model.
        previous: the connection made earlier, if it is remembered: its ``former`` stays.

    Raises:
        CannotConnect: Label Studio does not reach us, or is set not to.
        StudioUnreachable, StudioRefused: Label Studio's own answer.
    """
    url = backend_url.rstrip("/")
    project = studio.project(project_id)
    if previous is not None and previous.project_key != project.key:
        previous = None
    backends = _our_backends(studio, project_id, url, previous)
    former = _former(project, backends, previous)
    hooks = _our_webhooks(studio, project_id, {url, *(backend["url"] for backend in backends)})
    webhook_id = None
    try:
        # The webhook first: connecting makes one by itself where there is none, without
        # headers, and until it is mended events would come to us unauthenticated.
        webhook_id = _one_webhook(studio, project_id, hooks, url, user, password)
        fields = _backend_fields(url, user, password, options, former)
        backend_id = _one_backend(studio, project_id, backends, fields)
    except StudioRefused as error:
        if webhook_id is not None and not hooks:
            studio.delete_webhook(webhook_id)
        raise _cannot_connect(url, error) from error
    studio.update_project(
        project_id,
        show_collab_predictions=True,
        # Else each listing of tasks, our own included, would wait for predictions of a page.
        evaluate_predictions_automatically=False,
        min_annotations_to_start_training=0,
    )
    view_id = set_order(studio, project_id, model_version or _serving(studio, project))
    return Connection(project_id, project.key, url, backend_id, webhook_id, view_id, former)


def set_order(studio: Studio, project_id: int, model_version: str | None) -> int:
    """Make Label Studio serve tasks in the order of ``model_version``'s scores, lowest first.

    Both in one PATCH: sampling by scores with a version that has none is silently random, and
    the former order must not meet the new version for a moment. Without a model the order is
    uniformly random, on purpose.

    Args:
        model_version: must have predictions already (else Label Studio refuses); None: no model.

    Returns:
        The id of the shared Data Manager view, which follows the same scores.
    """
    studio.update_project(
        project_id,
        model_version=model_version or "",
        sampling=BY_RANK if model_version else WITHOUT_MODEL,
    )
    return _queue_view(studio, project_id)


def disconnect(studio: Studio, connection: Connection) -> None:
    """Undo ``connect``; annotations, predictions and everybody else's settings stay.

    A setting that somebody changed since is theirs and stays too. Safe to repeat, and after a
    crash halfway.
    """
    try:
        project = studio.project(connection.project_id)
    except StudioRefused as error:
        if error.studio_status == 404:
            return
        raise
    if project.key != connection.project_key:  # deleted, and its number given to another
        return
    restored = _restored(studio, project, connection.former)
    if restored:
        studio.update_project(project.id, **restored)
    for view in studio.views(project.id):
        if view["id"] == connection.view_id and view["data"].get("title") == VIEW_TITLE:
            studio.delete_view(view["id"])
    backends = _our_backends(studio, project.id, connection.backend_url, connection)
    urls = {connection.backend_url, *(backend["url"] for backend in backends)}
    for webhook in _our_webhooks(studio, project.id, urls):
        studio.delete_webhook(webhook["id"])
    # Last: as long as it is there, its description can undo what a crash left.
    for backend in backends:
        studio.delete_ml_backend(backend["id"])


def basic_auth(user: str, password: str) -> str:
    """The Authorization header of HTTP Basic.

    Raises:
        BadRequest: Label Studio encodes letters outside ASCII as Latin-1 for its own calls,
            and in the webhook's header they would be UTF-8; and it strips blanks from the
            password of the one alone. Either way one of the two would be refused.
    """
    plain = (user + password).isascii() and (user + password).isprintable()
    if not plain or user != user.strip() or password != password.strip() or ":" in user:
        raise BadRequest(
            "BASIC_AUTH_USER and BASIC_AUTH_PASS must be printable ASCII without blanks around "
            "them, and the user without a colon: Label Studio changes what else it is given."
        )
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _our_backends(
    studio: Studio, project_id: int, url: str, previous: Connection | None
) -> list[Json]:
    """Our connections, oldest first: by address, by what we remember, or by our own remark.

    A title proves nothing: somebody else's backend may be a "Committee" too.
    """
    return sorted(
        (
            backend
            for backend in studio.ml_backends(project_id)
            if _bare(backend["url"]) == _bare(url)
            or (previous is not None and backend["id"] == previous.backend_id)
            or (backend["title"] == TITLE and _remembered(backend) is not None)
        ),
        key=lambda backend: int(backend["id"]),
    )


def _former(project: Project, backends: list[Json], previous: Connection | None) -> Former:
    """The settings before our first connection: never those that we made ourselves."""
    if previous is not None and previous.project_key == project.key:
        return previous.former
    for backend in backends:
        remembered = _remembered(backend)
        if remembered is not None:
            return remembered
    settings = project.settings
    ours = project.model_version.startswith(VERSION_PREFIX) or project.model_version == TITLE
    return Former(
        sampling=DEFAULT_SAMPLING if ours and project.sampling == BY_RANK else project.sampling,
        model_version="" if ours else project.model_version,
        show_collab_predictions=bool(settings["show_collab_predictions"]),
        evaluate_predictions_automatically=bool(settings["evaluate_predictions_automatically"]),
        min_annotations_to_start_training=int(settings["min_annotations_to_start_training"] or 0),
    )


def _remembered(backend: Json) -> Former | None:
    """The former settings in a backend's description; None where it is not of our making."""
    _, remark, text = (backend.get("description") or "").partition(_REMARK)
    if not remark:
        return None
    try:
        return Former(**json.loads(text))
    except (json.JSONDecodeError, TypeError):  # somebody edited it all the same
        return None


def _backend_fields(
    url: str, user: str, password: str, options: Mapping[str, Any] | None, former: Former
) -> Json:
    fields: Json = {
        "url": url,
        "title": TITLE,
        "description": _REMARK + json.dumps(asdict(former)),
        "is_interactive": False,
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": user,
        "basic_auth_pass": password,
    }
    if options is not None:
        fields["extra_params"] = dict(options)
    return fields


def _one_backend(studio: Studio, project_id: int, backends: list[Json], fields: Json) -> int:
    """Update the first of ``backends`` and delete the others; create one if there is none."""
    if not backends:
        created = studio.create_ml_backend(project=project_id, **fields)
        return int(created["id"])
    first, *others = backends
    if "extra_params" not in fields:
        # Label Studio checks a change by a /setup with what the change itself holds.
        fields = {**fields, "extra_params": first["extra_params"]}
    studio.update_ml_backend(first["id"], project=project_id, **fields)
    for other in others:
        studio.delete_ml_backend(other["id"])
    return int(first["id"])


def _our_webhooks(studio: Studio, project_id: int, urls: set[str]) -> list[Json]:
    """The project's webhooks to one of our addresses, oldest first."""
    targets = {_bare(f"{_bare(url)}/webhook") for url in urls}
    hooks = [hook for hook in studio.webhooks(project_id) if _bare(hook["url"]) in targets]
    return sorted(hooks, key=lambda hook: int(hook["id"]))


def _one_webhook(
    studio: Studio, project_id: int, hooks: list[Json], url: str, user: str, password: str
) -> int:
    """One active webhook to us for every event, with our authentication; doubles deleted."""
    fields: Json = {
        "url": f"{url}/webhook",
        "headers": {"Authorization": basic_auth(user, password)},
        "send_payload": True,
        "send_for_all_actions": True,
        "is_active": True,
    }
    if not hooks:
        return int(studio.create_webhook(project=project_id, **fields)["id"])
    first, *doubles = hooks
    studio.update_webhook(first["id"], **fields)
    for double in doubles:
        studio.delete_webhook(double["id"])
    return int(first["id"])


def _serving(studio: Studio, project: Project) -> str | None:
    """The publication of ours that the project holds, if it still has predictions."""
    if not project.model_version.startswith(VERSION_PREFIX):
        return None
    there = studio.model_versions(project.id)
    return project.model_version if project.model_version in there else None


def _queue_view(studio: Studio, project_id: int) -> int:
    """The shared view in the queue's order; made when missing, mended when reordered."""
    for view in studio.views(project_id):
        data = view["data"]
        if data.get("title") == VIEW_TITLE:
            if data.get("ordering") != ORDERING:
                studio.update_view(view["id"], project_id, {**data, "ordering": list(ORDERING)})
            return int(view["id"])
    made = studio.create_view(project_id, {"title": VIEW_TITLE, "ordering": list(ORDERING)})
    return int(made["id"])


def _restored(studio: Studio, project: Project, former: Former) -> Json:
    """The settings to give back: those that still hold what we set, and differ."""
    now = project.settings
    restored: Json = {}
    if project.sampling in (BY_RANK, WITHOUT_MODEL) and project.sampling != former.sampling:
        restored["sampling"] = former.sampling
    if now["show_collab_predictions"] and not former.show_collab_predictions:
        restored["show_collab_predictions"] = False
    if not now["evaluate_predictions_automatically"] and former.evaluate_predictions_automatically:
        restored["evaluate_predictions_automatically"] = True
    if not now["min_annotations_to_start_training"] and former.min_annotations_to_start_training:
        restored["min_annotations_to_start_training"] = former.min_annotations_to_start_training
    if project.model_version in ("", TITLE) or project.model_version.startswith(VERSION_PREFIX):
        model_version = _still_there(studio, project.id, former.model_version)
        if model_version != project.model_version:
            restored["model_version"] = model_version
    return restored


def _still_there(studio: Studio, project_id: int, model_version: str) -> str:
    """``model_version`` if Label Studio would still take it, else none."""
    known = set(studio.model_versions(project_id))
    known |= {backend["title"] for backend in studio.ml_backends(project_id)}
    return model_version if model_version in known else ""


def _cannot_connect(url: str, error: StudioRefused) -> BackendError:
    if error.studio_status == 403:
        return CannotConnect(
            f"Label Studio may not call {url}: {error} If that is a private address, start Label "
            "Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false."
        )
    if error.studio_status == 400:
        return CannotConnect(
            f"Label Studio did not take {url} as a backend: {error} Set BACKEND_URL to the address "
            "by which Label Studio's machine reaches us, and see that `serve` runs there."
        )
    return error


def _bare(url: str) -> str:
    return url.rstrip("/")
