"""What app.py's routes take and answer, as OpenAPI 3.1: data, published at GET /openapi.json.

A test holds the paths equal to the routes, and another sends what these schemas describe, and
what they do not, and holds the answers against them.
"""

from __future__ import annotations

from typing import Any

from backend.options import ProjectOptions

Json = dict[str, Any]

_ABOUT = """\
The protocol of Label Studio's ML backends, and what each answer means here.

Every path but /health asks for HTTP Basic; without it every path and method answers 401, and 429
after ten wrong logins. Beyond that an unknown path answers 404 and a known one 405 to another
method. What is not HTTP is refused before any path with 400, 408, 413, 431 or 501. Every
refusal is `{"error": "a sentence"}`.
"""

# What can be wrong with any request that has a password, and with one that brings a body.
_LOGIN = ("401", "429")
_BODY = ("400", "408", "413", "415", "503")

_REFUSALS = {
    "400": "What was sent cannot be used; the sentence says what was expected.",
    "401": "The user and password of HTTP Basic are missing or wrong.",
    "404": "Nothing is here.",
    "405": "Another method is asked for; Allow names it.",
    "408": "The body did not arrive within a minute.",
    "413": "The body is larger than this path takes.",
    "415": "The body has a Content-Encoding.",
    "429": "Too many wrong logins came from this address.",
    "503": "The ledger is locked, full or broken, or the version that serves cannot be read.",
}


def openapi() -> Json:
    """The document. Built for each who asks, since that is rare."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Committee", "version": "1", "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"basic": []}],
        "paths": {
            "/health": {
                "get": _operation(
                    "health",
                    "Alive; Label Studio asks before every setup.",
                    {"200": _answer("It lives.", _object(status=_const("UP"), model_class=_TEXT))},
                    open_to_all=True,
                )
            },
            "/setup": {
                "post": _operation(
                    "setup",
                    "Meet a project: its labeling configuration and options are checked and kept.",
                    {"200": _answer("What serves.", _object(model_version=_TEXT))},
                    takes="Setup",
                )
            },
            "/predict": {
                "post": _operation(
                    "predict",
                    "Pre-annotate tasks; one entry a task, in order, [] where nothing is claimed.",
                    {
                        "200": _answer(
                            "The predictions.", _object(results=_list(_list(_ref("Prediction"))))
                        )
                    },
                    takes="Predict",
                )
            },
            "/webhook": {
                "post": _operation(
                    "webhook",
                    "Tell of an event: it is kept before it is answered. No other part is needed "
                    "for that, so Redis may be down.",
                    {
                        "201": _answer(
                            "Kept under a number, or ignored for a reason.",
                            {"oneOf": [_object(event=_NUMBER), _object(ignored=_TEXT)]},
                        )
                    },
                    takes="Event",
                )
            },
            "/versions": {
                "get": _operation(
                    "versions",
                    "The publications that serve or have served, of all connected projects.",
                    {"200": _answer("Their names.", _object(versions=_list(_TEXT)))},
                    refusals=("503",),
                )
            },
            "/openapi.json": {
                "get": _operation(
                    "openapi", "This document.", {"200": _answer("It.", {"type": "object"})}
                )
            },
        },
        "components": {
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
            "responses": {status: _refusal(status, said) for status, said in _REFUSALS.items()},
            "schemas": _schemas(),
        },
    }


# ---- the parts that the paths are made of --------------------------------------------------

_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "integer"}


def _const(value: str) -> Json:
    return {"const": value}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _object(**properties: Json) -> Json:
    """An object that has exactly these."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _at_least(required: Json, optional: Json) -> Json:
    """An object of Label Studio's, which sends more than we read."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
    }


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _answer(meaning: str, schema: Json) -> Json:
    return {"description": meaning, "content": _json(schema)}


def _refusal(status: str, said: str) -> Json:
    refusal = _answer(said, _ref("Error"))
    headers = {"401": ("WWW-Authenticate", _TEXT), "429": ("Retry-After", _NUMBER)}
    if status in headers:
        name, schema = headers[status]
        refusal["headers"] = {name: {"schema": schema, "required": True}}
    return refusal


def _operation(
    name: str,
    meaning: str,
    answers: Json,
    *,
    takes: str | None = None,
    refusals: tuple[str, ...] = (),
    open_to_all: bool = False,
) -> Json:
    if not open_to_all:
        refusals += _LOGIN
    operation: Json = {"operationId": name, "summary": meaning}
    if open_to_all:
        operation["security"] = []
    if takes is not None:
        operation["requestBody"] = {"required": True, "content": _json(_ref(takes))}
        refusals += _BODY
    operation["responses"] = answers | {
        status: {"$ref": f"#/components/responses/{status}"} for status in sorted(refusals)
    }
    return operation


def _schemas() -> Json:
    config: Json = {**_TEXT, "contentMediaType": "application/xml"}
    project_text: Json = {
        "type": "string",
        "pattern": r"^[1-9][0-9]{0,17}\.[0-9]{1,18}$",
        "description": "<id>.<unix seconds of its creation>",
    }
    project_object = _at_least(
        {
            "id": {"type": "integer", "minimum": 1, "maximum": 2**63 - 1},
            "created_at": {"type": "string", "format": "date-time"},
        },
        {
            "label_config": {
                "description": "The labeling configuration; what is no text is not read."
            }
        },
    )
    task = _at_least({"id": _NUMBER, "data": {"type": "object"}}, {})
    rows = {"description": "An object or a list of them; an integer id in each is what is read."}
    options = {"anyOf": [_options(), _TEXT, {"type": "null"}]}
    return {
        "Error": _object(error={"type": "string", "minLength": 1}),
        "Project": {"anyOf": [project_text, project_object]},
        "Setup": _at_least(
            {"project": _ref("Project"), "schema": config}, {"extra_params": options}
        ),
        "Predict": _at_least(
            {"project": _ref("Project"), "tasks": _list(task)}, {"label_config": config}
        ),
        "Event": _at_least(
            {"project": _ref("Project"), "action": _TEXT},
            {"annotation": rows, "annotations": rows, "tasks": rows},
        ),
        "Prediction": _object(
            result=_list({"type": "object"}),
            score={"type": "number", "minimum": 0, "maximum": 1},
            model_version=_TEXT,
        ),
    }


def _options() -> Json:
    schema = ProjectOptions.model_json_schema()
    for option in schema["properties"].values():
        # Ours, for the README; the description says it in words.
        option.pop("shown", None)
        option.pop("expected", None)
    return schema
