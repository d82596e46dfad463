"""Every error of a request as a status and ``{"error": "a sentence"}``; of a page, as a page."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import orjson
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from backend.errors import BackendError
from training.errors import TrainingError

log = logging.getLogger(__name__)


def json_response(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        orjson.dumps(value), status=status, headers=headers, mimetype="application/json"
    )


def refuse(message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal in the form of what was asked: ``g.refuse`` makes it, where that is a page."""
    if "refuse" in g:
        answer: Response = g.refuse(message, status, headers)
        return answer
    return json_response({"error": message}, status, headers)


def handle_errors(app: Flask) -> None:
    """Have the app answer every error in a sentence; tracebacks go to the log alone."""

    @app.errorhandler(BackendError)
    def backend_error(error: BackendError) -> Response:
        log.warning("%s %s: %s", request.method, request.path, error)
        return refuse(str(error), error.status)

    @app.errorhandler(TrainingError)
    def training_error(error: TrainingError) -> Response:
        """A version that cannot be read or run here: the next round or the operator corrects it."""
        log.warning("%s %s: %s", request.method, request.path, error)
        return refuse(str(error), 503)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        allowed = {name: value for name, value in error.get_headers() if name == "Allow"}
        return refuse(_describe(error), error.code or 500, allowed)

    @app.errorhandler(Exception)
    def unexpected_error(error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        return refuse("An unexpected error happened; the log says which.", 500)


def _describe(error: HTTPException) -> str:
    """What was expected; werkzeug's own words say only that something was wrong."""
    if isinstance(error, NotFound) and "refuse" in g:
        return "Nothing is kept at this address, or not any more."
    if isinstance(error, NotFound):
        return "There is no such route: /openapi.json lists all routes."
    if isinstance(error, MethodNotAllowed):
        return f"{request.path} expects {' or '.join(sorted(error.valid_methods or ()))}."
    if "description" not in vars(error) and error.code == 400:
        return "The request must be plain HTTP, without an Upgrade, to a Host that is a name."
    return error.description or error.name
