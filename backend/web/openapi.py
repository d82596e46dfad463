"""GET /openapi.json: what the routes take and answer, as OpenAPI 3.1, from messages.py.

A test holds the paths equal to the routes, and another sends what the schemas describe, and what
they do not, and holds the answers against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from backend.options import ProjectOptions
from backend.web import messages

Json = dict[str, Any]

_ABOUT = """\
The protocol of Label Studio's ML backends, and what each answer means here.

Every path but /health and /ready asks for HTTP Basic; without it every path and method answers 401,
and 429 after ten wrong logins. A webhook that `connect` made brings its project's secret to
/webhook instead, and METRICS_TOKEN opens /metrics as a Bearer token. A POST from a page of another
site answers 403. Beyond that an unknown path answers 404 and a known one 405 to another method.
What is not HTTP is refused before any path with 400, 408, 413, 431 or 501. Every refusal is
`{"error": "a sentence"}`.
"""

_REFUSALS = {
    "400": "What was sent cannot be used; the sentence says what was expected.",
    "401": "The user and password of HTTP Basic are missing or wrong.",
    "403": "A page of another site sent it, or the webhook's secret is another project's.",
    "413": "The body is larger than this path takes.",
    "415": "The body is not sent as application/json, or has a Content-Encoding.",
    "429": "Too many wrong logins came from this address.",
    "503": "The ledger is locked, full or broken, or the version that serves cannot be read; of "
    "/ready: what does not answer.",
}
_REFUSAL_HEADERS = {
    "401": {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}},
    "429": {"Retry-After": {"schema": {"type": "integer"}, "required": True}},
}
_LOGIN = ("401", "429")
_WITH_BODY = ("400", "403", "413", "415", "503", *_LOGIN)


@dataclass(frozen=True)
class _Operation:
    path: str
    meaning: str
    answer: Any
    meaning_of_answer: str
    takes: type[messages.Body] | None = None
    refusals: tuple[str, ...] = _LOGIN
    status: str = "200"
    media: str = "application/json"


_OPERATIONS = (
    _Operation(
        "/health",
        "Alive; Label Studio asks before every setup.",
        messages.Health,
        "The web is running.",
        refusals=(),
    ),
    _Operation(
        "/ready",
        "Ready to serve: ledger, Redis and registry answer within a second.",
        messages.Ready,
        "All of them answer.",
        refusals=("503",),
    ),
    _Operation(
        "/setup",
        "Register a project: its label config and options are checked and kept.",
        messages.Serving,
        "What serves.",
        takes=messages.Setup,
        refusals=_WITH_BODY,
    ),
    _Operation(
        "/predict",
        "Pre-annotate tasks; one entry a task, in order, [] where nothing is claimed.",
        messages.Predictions,
        "The predictions.",
        takes=messages.Predict,
        refusals=_WITH_BODY,
    ),
    _Operation(
        "/webhook",
        "Report an event: it is stored before it is answered. Only the ledger is needed, so "
        "Redis may be down.",
        messages.Kept | messages.Ignored,
        "Kept under a number, or ignored for a reason.",
        takes=messages.Event,
        refusals=_WITH_BODY,
        status="201",
    ),
    _Operation(
        "/versions",
        "The publications that serve or have served, of all connected projects.",
        messages.Versions,
        "Their names.",
        refusals=("503", *_LOGIN),
    ),
    _Operation(
        "/metrics",
        "What Prometheus scrapes: the ledger's sums, counts of all processes, latencies.",
        str,
        "Prometheus' text format.",
        media="text/plain",
    ),
    _Operation("/openapi.json", "This document.", Json, "The document."),
)


def openapi() -> Json:
    """The document. Built for each who asks, since that is rare."""
    kinds = [messages.Refusal, ProjectOptions]
    kinds += [kind for each in _OPERATIONS for kind in (each.answer, each.takes) if kind]
    schemas, definitions = TypeAdapter.json_schemas(
        [(kind, "validation", TypeAdapter(kind)) for kind in kinds],
        ref_template="#/components/schemas/{model}",
    )
    for model in definitions["$defs"].values():
        for field in model["properties"].values():
            # Ours, for tables and refusals; the description says it in words.
            field.pop("shown", None)
            field.pop("expected", None)

    def content(kind: Any, media: str = "application/json") -> Json:
        return {"content": {media: {"schema": schemas[kind, "validation"]}}}

    def describe(each: _Operation) -> Json:
        operation: Json = {"operationId": each.path.strip("/"), "summary": each.meaning}
        if "401" not in each.refusals:
            operation["security"] = []
        if each.takes:
            operation["requestBody"] = {"required": True, **content(each.takes)}
        answer = {"description": each.meaning_of_answer, **content(each.answer, each.media)}
        operation["responses"] = {each.status: answer} | {
            status: {"$ref": f"#/components/responses/{status}"} for status in each.refusals
        }
        return {"post" if each.takes else "get": operation}

    refusals = {
        status: {
            "description": meaning,
            "headers": _REFUSAL_HEADERS.get(status, {}),
            **content(messages.Refusal),
        }
        for status, meaning in _REFUSALS.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Committee", "version": "1", "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"basic": []}],
        "paths": {each.path: describe(each) for each in _OPERATIONS},
        "components": {
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
            "responses": refusals,
            "schemas": definitions["$defs"],
        },
    }
