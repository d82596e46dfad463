"""A project's connection to us: the ML backend, its webhook, the settings that go with them.

Every step may be repeated. A project's former settings are kept twice, in the ``Connection`` and
in the backend's description at Label Studio, so that a connection can be undone even if it was
made again after our own records were lost.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Self, TypedDict

from backend.errors import BackendError, StudioRefused, StudioUnreachable
from backend.label_studio.bulk import Project, Studio
from backend.label_studio.client import Json
from backend.label_studio.control import Control, control_of, id_of
from backend.label_studio.queue_order import (
    BY_RANK,
    TITLE,
    VERSION_PREFIX,
    VIEW_TITLE,
    WITHOUT_MODEL,
    set_order,
)
from backend.label_studio.reserved_controls import LAYER, SMART, without_controls
from backend.label_studio.webhook_secret import new_name, webhook_header

if TYPE_CHECKING:
    from label_studio_sdk.types.ml_backend import MlBackend
    from label_studio_sdk.types.webhook import Webhook

log = logging.getLogger(__name__)

# Label Studio's own default: what a project had before us if nobody remembers.
DEFAULT_SAMPLING = "Sequential sampling"

# No view of Label Studio's: its numbers begin with 1.
NO_VIEW = 0

# Begins the backend's description: for a person who reads it, and for us to know our own.
_REMARK = "Made by Committee; do not edit. The project's former settings: "


class CannotConnect(BackendError):
    """Label Studio could not reach the backend, or may not."""

    status = 502


@dataclass(frozen=True)
class FormerSettings:
    """A project's settings before us, as Label Studio names them."""

    sampling: str
    model_version: str
    show_collab_predictions: bool
    evaluate_predictions_automatically: bool
    min_annotations_to_start_training: int


@dataclass(frozen=True)
class Connection:
    """What ``connect`` made.

    Attributes:
        project_key: ``<id>.<created>``.
        webhook_secret: the name of the secret that the webhook carries; "" where an earlier
            release gave it the web's password.
        view_id: the shared view in the queue's order.
        click: whether smart clicks are answered.
        layer: whether pre-annotations carry an uncertainty layer.
    """

    project_id: int
    project_key: str
    backend_url: str
    backend_id: int
    webhook_id: int
    view_id: int
    former: FormerSettings
    webhook_secret: str = ""
    click: bool = False
    layer: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        return cls(**{**fields, "former": FormerSettings(**fields["former"])})


class _BackendFields(TypedDict):
    """What we set of our ML backend."""

    url: str
    title: str
    description: str
    is_interactive: bool
    auth_method: Literal["BASIC_AUTH"]
    basic_auth_user: str
    basic_auth_pass: str
    extra_params: NotRequired[object]


class _WebhookFields(TypedDict):
    """What we set of our webhook."""

    url: str
    headers: dict[str, str]
    send_payload: bool
    send_for_all_actions: bool
    is_active: bool


def connect(
    studio: Studio,
    project_id: int,
    *,
    backend_url: str,
    user: str,
    password: str,
    webhook_key: bytes,
    options: Mapping[str, Any] | None = None,
    model_version: str | None = None,
    previous: Connection | None = None,
    click: bool = False,
    layer: bool = False,
    label_config: str | None = None,
) -> Connection:
    """Create or update the project's connection to the backend at ``backend_url``.

    Leaves one ML backend of ours with Basic auth, one webhook to it with a new secret, the
    queue in order, pre-annotations shown, and Label Studio's own training trigger off (it would
    fire inside an annotator's submit). Everybody else's backends, webhooks and views stay as they
    are.

    Args:
        backend_url: how Label Studio reaches us; we must answer there already.
        user, password: Basic auth that our side asks for.
        webhook_key: makes the webhook's secret.
        options: the connection's extra parameters; None keeps the present ones.
        model_version: the serving publication's; None: the one that the project holds, if it
            is a publication of ours with predictions, otherwise no model.
        previous: the connection made earlier, if it is remembered: its ``former`` stays.
        click: let Label Studio ask us with smart clicks.
        layer: as ``Connection.layer``; nothing of it concerns Label Studio but the label config.
        label_config: the project's from now on; None leaves it alone.

    Raises:
        CannotConnect: Label Studio does not reach us, or is set not to.
        StudioUnreachable, StudioRefused: Label Studio's own answer. Of a connection that is new
            all is taken back.
    """
    control = control_of(studio)
    url = backend_url.rstrip("/")
    project = studio.project(project_id)
    if previous is not None and previous.project_key != project.key:
        previous = None
    backends = _our_backends(control, project_id, url, previous)
    former = _former(project, backends, previous)
    urls = {url, *(backend.url for backend in backends)}
    hooks = _our_webhooks(control, project_id, urls)
    secret = new_name()
    try:
        fields = _backend_fields(url, user, password, options, former, click=click)
        backend_id = _one_backend(control, project_id, backends, fields)
        # Afterwards: a refusal leaves the webhook with the secret that our ledger knows, and where
        # there was none, Label Studio has made one without headers beside the new backend.
        header = webhook_header(webhook_key, secret)
        there = _our_webhooks(control, project_id, urls)
        webhook_id = _one_webhook(control, project_id, there, url, header)
    except StudioRefused as error:
        # Where Label Studio may call us but not send webhooks, it answers 403 and keeps the row.
        for row in _our_backends(control, project_id, url, previous):
            if id_of(row) not in {id_of(backend) for backend in backends}:
                control.ml.delete(id_of(row))
        for hook in _our_webhooks(control, project_id, urls):
            if id_of(hook) not in {id_of(other) for other in hooks}:
                control.webhooks.delete(id_of(hook))
        raise _cannot_connect(url, error) from error
    made = Connection(
        *(project_id, project.key, url, backend_id, webhook_id, NO_VIEW, former),
        webhook_secret=secret,
        click=click,
        layer=layer,
    )
    changed = label_config is not None and label_config != project.label_config
    try:
        studio.update_project(
            project_id,
            **({"label_config": label_config} if changed else {}),
            show_collab_predictions=True,
            # Otherwise each listing of tasks, ours too, would wait for predictions of a page.
            evaluate_predictions_automatically=False,
            min_annotations_to_start_training=0,
        )
        view_id = set_order(studio, project_id, model_version or _serving(studio, project))
    except (StudioRefused, StudioUnreachable):
        if not backends:  # else it was connected before, and stays so
            with suppress(StudioRefused, StudioUnreachable):
                disconnect(studio, made)
        raise
    return replace(made, view_id=view_id)


def disconnect(studio: Studio, connection: Connection) -> None:
    """Undo ``connect``; annotations, predictions and everybody else's settings stay.

    A setting that somebody has changed since then is theirs and stays too. Safe to repeat, and
    after a crash halfway.
    """
    try:
        project = studio.project(connection.project_id)
    except StudioRefused as error:
        if error.studio_status == 404:
            return
        raise
    if project.key != connection.project_key:  # deleted, and its number given to another
        return
    control = control_of(studio)
    restored = _restored(control, studio, project, connection.former)
    if restored:
        studio.update_project(project.id, **restored)
    for said in take_controls_back(studio, project.id, SMART, [LAYER]):
        log.warning("%s", said)
    for view in control.views.list(project=project.id):
        if view.id == connection.view_id and (view.data or {}).get("title") == VIEW_TITLE:
            control.views.delete(str(view.id))
    backends = _our_backends(control, project.id, connection.backend_url, connection)
    urls = {connection.backend_url, *(backend.url for backend in backends)}
    for webhook in _our_webhooks(control, project.id, urls):
        control.webhooks.delete(id_of(webhook))
    # Last: as long as it is there, its description can undo what a crash left.
    for backend in backends:
        control.ml.delete(id_of(backend))


def take_controls_back(studio: Studio, project_id: int, *groups: Sequence[str]) -> list[str]:
    """Remove controls of ours from the label config, unless annotations hold regions of theirs.

    Args:
        groups: the names of controls that go together.

    Returns:
        A sentence for each group that stays.
    """
    stays: list[str] = []
    for names in groups:
        label_config = studio.project(project_id).label_config
        bare = without_controls(label_config, names)
        if bare == label_config:
            continue
        try:
            studio.update_project(project_id, label_config=bare)
        except StudioRefused as error:
            if error.studio_status != 400:
                raise
            stays.append(
                f"{' and '.join(names)} must stay in the labeling configuration of project "
                f"{project_id}, since annotations hold regions made with it. That does no harm: "
                "they are not read. To be rid of it, delete these regions, then the controls. "
                f"Label Studio said: {error}"
            )
    return stays


def basic_auth(user: str, password: str) -> str:
    """The Authorization header of HTTP Basic."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _our_backends(
    control: Control, project_id: int, url: str, previous: Connection | None
) -> list[MlBackend]:
    """Our connections, oldest first: by address, by what we remember, or by our own remark.

    A title proves nothing: somebody else's backend may be a "Committee" too.
    """
    return sorted(
        (
            backend
            for backend in control.ml.list(project=project_id)
            if _bare(backend.url) == _bare(url)
            or (previous is not None and backend.id == previous.backend_id)
            or (backend.title == TITLE and _remembered(backend) is not None)
        ),
        key=id_of,
    )


def _former(
    project: Project, backends: list[MlBackend], previous: Connection | None
) -> FormerSettings:
    """The settings before our first connection: never those that we made ourselves."""
    if previous is not None and previous.project_key == project.key:
        return previous.former
    for backend in backends:
        remembered = _remembered(backend)
        if remembered is not None:
            return remembered
    settings = project.settings
    ours = project.model_version.startswith(VERSION_PREFIX) or project.model_version == TITLE
    return FormerSettings(
        sampling=DEFAULT_SAMPLING if ours and project.sampling == BY_RANK else project.sampling,
        model_version="" if ours else project.model_version,
        show_collab_predictions=bool(settings["show_collab_predictions"]),
        evaluate_predictions_automatically=bool(settings["evaluate_predictions_automatically"]),
        min_annotations_to_start_training=int(settings["min_annotations_to_start_training"] or 0),
    )


def _remembered(backend: MlBackend) -> FormerSettings | None:
    """The former settings in a backend's description; None if we did not write it."""
    _, remark, text = (backend.description or "").partition(_REMARK)
    if not remark:
        return None
    try:
        return FormerSettings(**json.loads(text))
    except (json.JSONDecodeError, TypeError):  # somebody edited it all the same
        return None


def _backend_fields(
    url: str,
    user: str,
    password: str,
    options: Mapping[str, Any] | None,
    former: FormerSettings,
    *,
    click: bool,
) -> _BackendFields:
    fields: _BackendFields = {
        "url": url,
        "title": TITLE,
        "description": _REMARK + json.dumps(asdict(former)),
        "is_interactive": click,
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": user,
        "basic_auth_pass": password,
    }
    if options is not None:
        fields["extra_params"] = dict(options)
    return fields


def _one_backend(
    control: Control, project_id: int, backends: list[MlBackend], fields: _BackendFields
) -> int:
    """Update the first of ``backends`` and delete the others; create one if there is none."""
    if not backends:
        return id_of(control.ml.create(project=project_id, **fields))
    first, *others = backends
    if "extra_params" not in fields:
        # Label Studio checks a change by a /setup that holds only what the change itself holds.
        fields["extra_params"] = first.extra_params
    # It answers 500 to a change without url and project.
    control.ml.update(id_of(first), project=project_id, **fields)
    for other in others:
        control.ml.delete(id_of(other))
    return id_of(first)


def _our_webhooks(control: Control, project_id: int, urls: set[str]) -> list[Webhook]:
    """The project's webhooks to one of our addresses, oldest first."""
    targets = {_bare(f"{_bare(url)}/webhook") for url in urls}
    hooks = control.webhooks.list(project=str(project_id))
    return sorted((hook for hook in hooks if _bare(hook.url) in targets), key=id_of)


def _one_webhook(
    control: Control, project_id: int, hooks: list[Webhook], url: str, header: str
) -> int:
    """One active webhook to us for every event, with its secret; doubles deleted."""
    fields: _WebhookFields = {
        "url": f"{url}/webhook",
        "headers": {"Authorization": header},
        "send_payload": True,
        "send_for_all_actions": True,
        "is_active": True,
    }
    if not hooks:
        return id_of(control.webhooks.create(project=project_id, **fields))
    first, *doubles = hooks
    control.webhooks.update(id_of(first), **fields)
    for double in doubles:
        control.webhooks.delete(id_of(double))
    return id_of(first)


def _serving(studio: Studio, project: Project) -> str | None:
    """The publication of ours that the project holds, if it still has predictions."""
    if not project.model_version.startswith(VERSION_PREFIX):
        return None
    present = studio.model_versions(project.id)
    return project.model_version if project.model_version in present else None


def _restored(control: Control, studio: Studio, project: Project, former: FormerSettings) -> Json:
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
        # Label Studio takes no version that neither predictions nor a backend have.
        known = set(studio.model_versions(project.id))
        known |= {backend.title or "" for backend in control.ml.list(project=project.id)}
        model_version = former.model_version if former.model_version in known else ""
        if model_version != project.model_version:
            restored["model_version"] = model_version
    return restored


def _cannot_connect(url: str, error: StudioRefused) -> BackendError:
    if error.studio_status == 403:
        return CannotConnect(
            f"Label Studio may not call {url}: {error} If that is a private address, start Label "
            "Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false, or open that "
            "address alone (docs/SECURITY.md)."
        )
    if error.studio_status == 400:
        return CannotConnect(
            f"Label Studio did not take {url} as a backend: {error} Set BACKEND_URL to the address "
            "by which Label Studio's machine reaches us, and see that `serve` runs there."
        )
    return error


def _bare(url: str) -> str:
    return url.rstrip("/")
