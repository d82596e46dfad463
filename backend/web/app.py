"""The web: Label Studio's protocol, over HTTP Basic, in sentences.

| route | answers |
|---|---|
| GET /health | alive; the only one without a password |
| POST /setup | the serving publication, at once |
| POST /predict | pre-annotations, one entry a task |
| POST /webhook | 201 once the event is in the ledger |
| GET /versions | the publications there are |
| GET /openapi.json | what of all this is sent and answered, as OpenAPI 3.1 (``openapi.py``) |

The password is looked at before anything else, so that nobody without it makes us read a body.
"""

from __future__ import annotations

import codecs
import logging
from collections.abc import Callable
from typing import Any

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import (
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

from backend.errors import BackendError, BadRequest
from backend.label_studio.label_config import parse_label_config
from backend.options import check_labels, extra_params_object, parse_options
from backend.settings import Settings
from backend.web.auth import Login, WrongLogins
from backend.web.model import CommitteeModel, project_key, record_event
from backend.web.openapi import openapi
from backend.workplace import WEB_BUSY_S, Workplace
from training.errors import TrainingError

log = logging.getLogger(__name__)

MAX_BODY = 256 * 1024 * 1024
"""Bytes of a /predict: it brings 500 tasks with the predictions that they already hold."""

MAX_EVENT = 32 * 1024 * 1024
"""Bytes of a webhook: annotations with their masks. A larger one is found by reconciliation."""

MAX_SETUP = 4 * 1024 * 1024
"""Bytes of a /setup: a labeling configuration."""


_BODY_LIMITS = {"/setup": MAX_SETUP, "/predict": MAX_BODY, "/webhook": MAX_EVENT}


def body_limit(settings: Settings) -> Callable[[str, str], int]:
    """``limit(path, authorization)``: how many bytes of a body the server may read for the app."""
    login = Login.of(settings)
    return lambda path, sent: _BODY_LIMITS.get(path, 0) if login.accepts(sent) else 0


def build_app(settings: Settings) -> Flask:
    """The WSGI application of one web process."""
    app = Flask("committee", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # nothing here is for a page of another site
    app.url_map.merge_slashes = False
    login = Login.of(settings)
    wrong_logins = WrongLogins()
    work = Workplace(settings, busy_s=WEB_BUSY_S)
    model = CommitteeModel.bind(work)
    app.extensions["committee"] = work

    @app.before_request
    def _ask_for_password() -> Response | None:
        if request.path == "/health" or login.accepts(request.headers.get("Authorization", "")):
            return None
        if "Authorization" in request.headers:  # without it nothing was guessed
            address = request.remote_addr or ""
            wait_s = wrong_logins.count(address)
            if wait_s:
                said = f"Too many wrong logins from here: try again in {wait_s} s."
                return _json({"error": said}, 429, {"Retry-After": str(wait_s)})
            log.warning("a wrong user or password from %s", address)
        said = "This needs the user and password of HTTP Basic."
        return _json({"error": said}, 401, {"WWW-Authenticate": 'Basic realm="Committee"'})

    @app.get("/health")
    def health() -> Response:
        return _json({"status": "UP", "model_class": CommitteeModel.__name__})

    @app.post("/setup")
    def setup() -> Response:
        body = _body(MAX_SETUP)
        studio_id, created = project_key(body.get("project"))
        extra_params = extra_params_object(body.get("extra_params"))
        options = parse_options(extra_params)
        schema = body.get("schema")
        if not isinstance(schema, str):
            raise BadRequest("setup expects the labeling configuration as 'schema'.")
        # What cannot be used is refused here, where Label Studio shows the sentence.
        check_labels(options, parse_label_config(schema, image=options.image).labels)
        project = work.ledger.projects.ensure(
            work.server, studio_id, created, label_config=schema, extra_params=extra_params
        )
        if not project.connected:
            work.ledger.projects.update(project.id, connected=True, last_error=None)
        return _json({"model_version": model().setup(project)})

    @app.post("/predict")
    def predict() -> Response:
        body = _body(MAX_BODY)
        tasks = _tasks(body.get("tasks"))
        studio_id, created = project_key(body.get("project"))
        label_config = body.get("label_config")
        project = work.ledger.projects.ensure(
            work.server,
            studio_id,
            created,
            label_config=label_config if isinstance(label_config, str) else None,
        )
        return _json({"results": model().predict(tasks, project=project)})

    @app.post("/webhook")
    def webhook() -> Response:
        body = _body(MAX_EVENT)
        action = body.get("action")
        if not isinstance(action, str):
            raise BadRequest("webhook expects an 'action'.")
        return _json(record_event(work, action, body), 201)

    @app.get("/versions")
    def versions() -> Response:
        names = [
            publication.name
            for project in work.ledger.projects.all(connected_only=True, server=work.server)
            for publication in work.ledger.publications.all(project.id)
            if publication.state in ("serving", "superseded")
        ]
        return _json({"versions": list(dict.fromkeys(names))})

    @app.get("/openapi.json")
    def document() -> Response:
        return _json(openapi())

    @app.errorhandler(BackendError)
    def in_a_sentence(error: BackendError) -> Response:
        log.warning("%s %s: %s", request.method, request.path, error)
        return _json({"error": str(error)}, error.status)

    @app.errorhandler(TrainingError)
    def without_a_version(error: TrainingError) -> Response:
        """A version that cannot be read or run here: the next round or the operator mends it."""
        log.warning("%s %s: %s", request.method, request.path, error)
        return _json({"error": str(error)}, 503)

    @app.errorhandler(HTTPException)
    def as_http(error: HTTPException) -> Response:
        allowed = {name: value for name, value in error.get_headers() if name == "Allow"}
        return _json({"error": _said(error)}, error.code or 500, allowed)

    @app.errorhandler(Exception)
    def in_the_log(error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        return _json({"error": "Something failed here that should not; the log tells what."}, 500)

    return app


def _said(error: HTTPException) -> str:
    """What was expected; werkzeug's own words say only that something was wrong."""
    if isinstance(error, NotFound):
        return "There is no such route here: /openapi.json lists those that there are."
    if isinstance(error, MethodNotAllowed):
        return f"{request.path} expects {' or '.join(sorted(error.valid_methods or ()))}."
    if "description" not in vars(error) and error.code == 400:
        return "The request must be plain HTTP, without an Upgrade, to a Host that is a name."
    return error.description or error.name


def _body(limit: int) -> dict[str, Any]:
    """The request's JSON object, of at most so many bytes, whatever type it says to be of."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("The body must be plain JSON, without a Content-Encoding.")
    request.max_content_length = limit
    try:
        sent = request.get_data(cache=False)
    except RequestEntityTooLarge as error:
        raise RequestEntityTooLarge(
            f"The body of {request.path} must be at most {limit // 2**20} MB."
        ) from error
    try:
        body = orjson.loads(sent.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body must be JSON in UTF-8: {error}.") from error
    if not isinstance(body, dict):
        raise BadRequest(f"The body must be a JSON object, got a {type(body).__name__}.")
    return body


def _tasks(tasks: Any) -> list[dict[str, Any]]:
    if not isinstance(tasks, list):
        raise BadRequest("predict expects 'tasks', a list.")
    for number, task in enumerate(tasks):
        sound = (
            isinstance(task, dict)
            and type(task.get("id")) is int  # true and false are none
            and isinstance(task.get("data"), dict)
        )
        if not sound:
            raise BadRequest(f"Task {number} must be an object with an id and data.")
    return tasks


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(value), status=status, headers=headers, mimetype="application/json"
    )
