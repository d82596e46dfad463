"""The web: Label Studio's protocol, over HTTP Basic, in sentences.

| route | answers |
|---|---|
| GET /health | alive; without a password |
| GET /ready | whether ledger, Redis and registry answer (``readiness.py``); without a password |
| POST /setup | the serving publication, at once |
| POST /predict | pre-annotations, one entry a task |
| POST /webhook | 201 once the event is in the ledger |
| GET /versions | the publications there are |
| GET /metrics | what Prometheus scrapes (``metrics.py``), by METRICS_TOKEN too |
| GET /openapi.json | all of this as OpenAPI 3.1 (``openapi.py``) |
| /, /projects/, /static/ | the dashboard (``dashboard``), if it has a password |

The password is checked before anything else, so that nobody without it makes us read a body. A
project's webhook has a secret instead, for /webhook alone (``label_studio/webhook_secret.py``).
Nothing but JSON is taken, and nothing from a page of another site: a browser that knows the
password would send it along. The dashboard has logins of its own, and takes forms with a token.
"""

from __future__ import annotations

import codecs
import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import orjson
from flask import Flask, Response, g, request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from backend.errors import BadRequest
from backend.label_studio.images import own_name
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.webhook_secret import name_in, webhook_key
from backend.logs import bind, bound
from backend.options import check_labels, parse_options
from backend.settings import Settings
from backend.shorten import shorten
from backend.web.auth import BearerToken, Login, WrongLogins
from backend.web.dashboard.access import PROXY_HEADER, Access
from backend.web.dashboard.frame import refuse_page
from backend.web.dashboard.routes import dashboard, is_dashboard
from backend.web.dashboard.version_routes import FORM_BYTES
from backend.web.events import record_event
from backend.web.latency import Latencies
from backend.web.messages import Event, Predict, Setup, read_message
from backend.web.metrics import exposition
from backend.web.model import CommitteeModel
from backend.web.openapi import openapi
from backend.web.readiness import ADVICE, needs_of, problems
from backend.web.refusals import handle_errors, json_response, refuse
from backend.workplace import WEB_BUSY_S, Workplace

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

MB = 2**20

OPEN = frozenset({"/health", "/ready"})
"""What orchestrators ask, which hold no password; these tell nobody anything else."""

WEBHOOK = "/webhook"
METRICS = "/metrics"

BODY_LIMITS = {"/setup": MB, "/predict": 256 * MB, WEBHOOK: 4 * MB}
"""Bytes: a label config, which the ledger keeps; 500 tasks with the predictions that they already
hold; and annotations with their masks, of which a larger one is found by reconciliation."""

AHEAD_S = 24 * 3600.0
"""How far Label Studio's clock may be ahead of ours when it makes a project."""


def body_limit(settings: Settings) -> Callable[[str, str], int]:
    """``limit(path, authorization)``: how many bytes of a body the server may read for the app."""
    login, key = Login.of(settings), webhook_key(settings)
    access = Access.of(settings)

    def limit(path: str, sent: str) -> int:
        if access is not None and is_dashboard(path):
            return FORM_BYTES if access.accepts(sent) else 0
        known = login.accepts(sent) or (path == WEBHOOK and name_in(key, sent) is not None)
        return BODY_LIMITS.get(path, 0) if known else 0

    return limit


def build_app(settings: Settings, latencies: Latencies | None = None) -> Flask:
    """The WSGI application of one web process.

    Args:
        latencies: where it counts its requests; None: in its own memory alone.
    """
    latencies = latencies or Latencies()
    app = Flask("committee", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # nothing here is for a page of another site
    app.url_map.merge_slashes = False
    work = Workplace(settings, busy_s=WEB_BUSY_S)
    app.extensions["committee"] = work
    access = Access.of(settings)
    _require_password(app, settings, access)
    _refuse_other_sites(app, settings.backend_url)
    _add_routes(app, work, latencies)
    if access is not None:
        app.register_blueprint(dashboard(work, access))
    handle_errors(app)
    app.wsgi_app = _measured(app.wsgi_app, latencies)  # type: ignore[assignment,method-assign]
    return app


def _measured(app: WSGIApplication, latencies: Latencies) -> WSGIApplication:
    """The app, each request timed, and its log lines with an id of its own."""

    def measured(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        statuses = ["500"]

        def begin(status: str, *rest: Any) -> Any:
            statuses[0] = status
            return start(status, *rest)

        began = time.perf_counter()
        with bound(request=uuid4().hex[:16]):
            try:
                return app(environ, begin)
            finally:
                seconds = time.perf_counter() - began
                latencies.observe(environ["PATH_INFO"], int(statuses[0][:3]), seconds)

    return measured


def _require_password(app: Flask, settings: Settings, access: Access | None) -> None:
    login, key = Login.of(settings), webhook_key(settings)
    metrics_token = BearerToken.of(settings)
    wrong_logins = WrongLogins()

    @app.before_request
    def check_password() -> Response | None:
        sent = request.headers.get("Authorization", "")
        if access is not None and is_dashboard(request.path):
            g.refuse = refuse_page
            g.visitor = access.visitor(
                sent, request.remote_addr or "", request.headers.get(PROXY_HEADER, "")
            )
            if g.visitor is not None:
                return None
            return stranger(
                "The dashboard has a login of its own: DASHBOARD_USER with DASHBOARD_PASS, which "
                "make run prints."
            )
        if request.path in OPEN or login.accepts(sent):
            return None
        if request.path == METRICS and metrics_token.accepts(sent):
            return None
        if request.path == WEBHOOK:
            g.secret = name_in(key, sent)
            if g.secret is not None:
                return None
        return stranger("This needs the user and password of HTTP Basic.")

    def stranger(message: str) -> Response:
        if "Authorization" in request.headers:  # without it nothing was guessed
            address = request.remote_addr or ""
            wait_s = wrong_logins.count(address)
            if wait_s:
                message = f"Too many wrong logins from here: try again in {wait_s} s."
                return refuse(message, 429, {"Retry-After": str(wait_s)})
            log.warning("a wrong user or password from %s", address)
        return refuse(message, 401, {"WWW-Authenticate": 'Basic realm="Committee"'})


def _refuse_other_sites(app: Flask, backend_url: str) -> None:
    own_host = urlsplit(backend_url).netloc

    @app.before_request
    def check_site() -> Response | None:
        if request.method in ("GET", "HEAD"):
            return None
        origin = request.headers.get("Origin")
        hosts = {request.headers.get("Host"), own_host} - {""}  # the Origin "null" names none
        site = request.headers.get("Sec-Fetch-Site", "none")
        ours = origin is None or origin.partition("://")[2] in hosts
        if ours and site in ("none", "same-origin"):
            return None
        message = f"A page of another site ({shorten(origin or site)}) may send nothing here."
        return refuse(message, 403)


def _add_routes(app: Flask, work: Workplace, latencies: Latencies) -> None:
    model = CommitteeModel.bind(work)
    projects = work.ledger.projects
    needs = needs_of(work)

    @app.get("/health")
    def health() -> Response:
        return json_response({"status": "UP", "model_class": CommitteeModel.__name__})

    @app.get("/ready")
    def ready() -> Response:
        found = problems(needs)
        if found:
            return refuse(" ".join([*found, ADVICE]), 503)
        return json_response({"status": "READY"})

    @app.post("/setup")
    def setup() -> Response:
        sent = read_message(Setup, _read_body())
        options = parse_options(sent.extra_params)
        # What cannot be used is refused here, where Label Studio shows the sentence.
        check_labels(options, parse_label_config(sent.label_config, image=options.image).labels)
        key = work.server, sent.project.studio_id, sent.project.created
        if sent.project.created > time.time() + AHEAD_S and projects.find(*key) is None:
            raise BadRequest(
                f"Project {sent.project.studio_id} is said to be made in the future (unix second "
                f"{sent.project.created}): set the clocks of Label Studio's machine and this one."
            )
        project = projects.ensure(
            *key, label_config=sent.label_config, extra_params=sent.extra_params
        )
        if isinstance(sent.hostname, str) and (name := own_name(sent.hostname)) is not None:
            projects.note_name(work.server, name)
        if not project.connected:
            projects.update(project.id, connected=True, last_error=None)
        return json_response({"model_version": model().setup(project)})

    @app.post("/predict")
    def predict() -> Response:
        sent = read_message(Predict, _read_body())
        project = projects.find(work.server, sent.project.studio_id, sent.project.created)
        if project is None and sent.context is None:
            # Label Studio asks /setup first, and only that or `connect` begins a project.
            return json_response({"results": [[] for _ in sent.tasks]})
        tasks = [dict(task) for task in sent.tasks]
        if project is not None:
            bind(project=project.id)
        results = model().predict(tasks, project=project, context=sent.context)
        return json_response({"results": results})

    @app.post("/webhook")
    def webhook() -> Response:
        event = read_message(Event, _read_body())
        return json_response(record_event(work, event, g.get("secret")), 201)

    @app.get("/versions")
    def versions() -> Response:
        names = [
            publication.name
            for project in projects.all(connected_only=True, server=work.server)
            for publication in work.ledger.publications.all(project.id)
            if publication.state in ("serving", "superseded")
        ]
        return json_response({"versions": list(dict.fromkeys(names))})

    @app.get(METRICS)
    def metrics() -> Response:
        found, content_type = exposition(work, latencies)
        return Response(found, content_type=content_type)

    @app.get("/openapi.json")
    def document() -> Response:
        return json_response(openapi())


def _read_body() -> dict[str, Any]:
    """The request's JSON object."""
    if request.mimetype != "application/json":
        # A page of another site can send other types without asking.
        raise UnsupportedMediaType(
            "The body must be JSON, sent with Content-Type: application/json, got "
            f"{shorten(request.mimetype)}."
        )
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("The body must be plain JSON, without a Content-Encoding.")
    limit = BODY_LIMITS[request.path]
    request.max_content_length = limit
    try:
        sent = request.get_data(cache=False)
    except RequestEntityTooLarge as error:
        raise RequestEntityTooLarge(
            f"The body of {request.path} must be at most {limit // MB} MB."
        ) from error
    try:
        body = orjson.loads(sent.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body must be JSON in UTF-8: {error}.") from error
    if not isinstance(body, dict):
        raise BadRequest(f"The body must be a JSON object, got a {type(body).__name__}.")
    return body
