"""The published document: it says what the routes do, and the routes do what it says."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance

from backend.settings import load_settings
from backend.web.app import build_app
from backend.web.openapi import openapi
from backend.workplace import Workplace
from tests.backend.workplaces import make_ledger
from tests.captures import captured

USER, PASSWORD = "lab", "correct-horse"
LOGIN = {"Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    loaded = load_settings(
        _env_file=None,
        data_dir=tmp_path_factory.mktemp("openapi"),
        label_studio_url="http://studio.test",
        label_studio_api_key="0" * 40,
        redis_url="redis://127.0.0.1:1/0",
        basic_auth_user=USER,
        basic_auth_pass=PASSWORD,
    )
    make_ledger(loaded.ledger_url)
    built = build_app(loaded)
    built.wsgi_app = _from_everywhere(built.wsgi_app)  # type: ignore[method-assign]
    yield built
    work: Workplace = built.extensions["committee"]
    work.close()


def _from_everywhere(wsgi: Callable[..., Any]) -> Callable[..., Any]:
    """Each request from an address of its own: the wrong logins tried are far too many for one."""
    addresses = count(1)

    def moved(environ: dict[str, Any], start_response: Any) -> Any:
        number = next(addresses)
        environ["REMOTE_ADDR"] = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        return wsgi(environ, start_response)

    return moved


@pytest.fixture(scope="module")
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(scope="module")
def api(app: Flask) -> BaseSchema:
    return schemathesis.openapi.from_wsgi("/openapi.json", app, headers=LOGIN)


def test_the_document_is_openapi_3_1(client: FlaskClient) -> None:
    published = client.get("/openapi.json", headers=LOGIN).json
    validate(published)
    assert published == openapi()


def test_the_document_needs_the_password(client: FlaskClient) -> None:
    assert client.get("/openapi.json").status_code == 401


def test_every_route_is_in_the_document_and_none_more(app: Flask) -> None:
    routes = {
        (rule.rule, method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
    }
    described = {
        (path, method) for path, methods in openapi()["paths"].items() for method in methods
    }
    assert described == routes


@pytest.mark.parametrize(
    ("name", "schema"),
    [("POST_setup", "Setup")]
    + [
        (f"POST_predict{kind}", "Predict")
        for kind in ("", "_interactive", "_with_existing_predictions")
    ]
    + [
        (f"POST_webhook_{action}", "Event")
        for action in (
            *("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED"),
            *("ANNOTATIONS_DELETED", "TASKS_CREATED", "TASKS_DELETED", "PROJECT_UPDATED"),
            "START_TRAINING",
        )
    ],
)
def test_what_label_studio_sends_is_what_the_document_describes(name: str, schema: str) -> None:
    sent = captured(name)
    if "extra_params" in sent:
        sent["extra_params"] = {"mode": "leader"}  # those captured were another backend's
    components = {"components": openapi()["components"]}
    OAS31Validator({"$ref": f"#/components/schemas/{schema}", **components}).validate(sent)


# Without a body there is nothing that a request could get wrong.
WAYS = [
    (path, method, mode)
    for path, operations in openapi()["paths"].items()
    for method, operation in operations.items()
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if mode is GenerationMode.POSITIVE or "requestBody" in operation
]


@pytest.mark.parametrize(("path", "method", "mode"), WAYS, ids=str)
@given(data=st.data())
@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_the_web_does_what_the_document_says(
    api: BaseSchema, path: str, method: str, mode: GenerationMode, data: st.DataObject
) -> None:
    case = data.draw(api[path][method].as_strategy(generation_mode=mode))
    # No schema can say that the text must be a label config, or the date after 1969:
    # what Label Studio really sends is held against the schemas above.
    excluded = [positive_data_acceptance]
    if path == "/ready":
        excluded.append(not_a_server_error)  # there is no Redis here, as its 503 says
    case.call_and_validate(headers=LOGIN, excluded_checks=excluded)
