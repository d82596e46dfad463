"""The web by Flask's test client, on a real ledger: protocol, password, sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from backend.ledger import Ledger, upgrade
from backend.settings import Settings, load_settings
from backend.web.app import build_app
from backend.workplace import Workplace
from tests.backend.workplaces import brush_config, make_ledger, make_settings, open_client
from tests.captures import captured

SERVER = "http://studio.test"
CONFIG = brush_config("Cell")
PROJECT = "1.1795468845"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, basic_auth_pass="secret")


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    make_ledger(settings.ledger_url)
    app = build_app(settings)
    with app.test_client() as opened:
        yield opened
    work: Workplace = app.extensions["committee"]
    work.close()


@pytest.fixture
def ledger(settings: Settings, client: FlaskClient) -> Iterator[Ledger]:
    opened = Ledger(settings.ledger_url)
    yield opened
    opened.close()


def post(client: FlaskClient, path: str, body: Any) -> TestResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, data=data, auth=("lab", "secret"), content_type="application/json")


def setup_body(**fields: Any) -> dict[str, Any]:
    return {"project": PROJECT, "schema": CONFIG, "hostname": SERVER, **fields}


def events(ledger: Ledger) -> list[tuple[str, list[int]]]:
    return [
        (event.action, event.ids)
        for project in ledger.projects.all()
        for event in ledger.events.pending(project.id)
    ]


def test_health_is_open_and_says_up(client: FlaskClient) -> None:
    answer = client.get("/health")
    assert (answer.status_code, answer.json["status"]) == (200, "UP")  # type: ignore[index]


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
def test_everything_else_needs_the_password(client: FlaskClient, path: str) -> None:
    for auth in (None, ("lab", "wrong"), ("other", "secret")):
        answer = client.post(path, data=b"{}", auth=auth)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert client.get("/versions").status_code == 401
    assert client.get("/nothing-here").status_code == 401


def test_setup_before_any_training_says_untrained(client: FlaskClient, ledger: Ledger) -> None:
    answer = post(client, "/setup", setup_body())
    assert answer.json == {"model_version": "untrained"}
    (project,) = ledger.projects.all()
    assert (project.studio_id, project.created) == (1, 1795468845)
    assert project.label_config == CONFIG


def test_setup_as_label_studio_sends_it_is_understood(client: FlaskClient) -> None:
    body = captured("POST_setup") | {"extra_params": {"mode": "leader"}}
    assert post(client, "/setup", body).status_code == 200


def test_what_label_studio_calls_itself_is_known_on_every_host(
    client: FlaskClient, settings: Settings, tmp_path: Path
) -> None:
    post(client, "/setup", setup_body(hostname="https://labels.example/ls"))
    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "another-host"})
    work = Workplace(elsewhere)
    assert work.studio_names() == ["https://labels.example/ls"]
    work.close()


def test_options_that_are_not_known_are_refused_by_name(client: FlaskClient) -> None:
    answer = post(client, "/setup", setup_body(extra_params={"arch": "unet"}))
    assert answer.status_code == 400
    assert "arch" in answer.json["error"]  # type: ignore[index]


def test_options_may_come_as_text(client: FlaskClient, ledger: Ledger) -> None:
    wrapped = json.dumps(json.dumps({"members": 3}))
    assert post(client, "/setup", setup_body(extra_params=wrapped)).status_code == 200
    assert ledger.projects.all()[0].extra_params == {"members": 3}


def test_setup_connects_a_project_again_that_was_disconnected(
    client: FlaskClient, ledger: Ledger
) -> None:
    post(client, "/setup", setup_body())
    ledger.projects.update(1, connected=False)
    post(client, "/setup", setup_body())
    assert ledger.projects.get(1).connected


def test_predict_without_a_version_claims_nothing_for_every_task(client: FlaskClient) -> None:
    tasks = [{"id": i, "data": {"image": "/data/upload/1/x.png"}} for i in (4, 7, 9)]
    answer = post(client, "/predict", {"tasks": tasks, "project": PROJECT, "label_config": CONFIG})
    assert answer.json == {"results": [[], [], []]}


@pytest.mark.parametrize(
    "name",
    [
        "POST_predict",
        "POST_predict_with_existing_predictions",
    ],
)
def test_predict_as_label_studio_sends_it_is_understood(client: FlaskClient, name: str) -> None:
    body = captured(name)
    answer = post(client, "/predict", body)
    assert answer.json == {"results": [[] for _ in body["tasks"]]}


@pytest.mark.parametrize("context", [{"result": []}, {"event": "capabilities"}, {}])
def test_a_smart_tool_is_answered_as_an_object_without_regions(
    client: FlaskClient, context: dict[str, Any]
) -> None:
    """Label Studio hands ``results[0]`` to its page, which takes an object only."""
    body = captured("POST_predict_interactive")
    expected = {"results": [{"result": []}]}
    assert post(client, "/predict", body).json == expected
    body["params"]["context"] = context
    assert post(client, "/predict", body).json == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ANNOTATION_CREATED", [("ANNOTATION_CREATED", [1])]),
        ("ANNOTATION_UPDATED", [("ANNOTATION_UPDATED", [1])]),
        ("ANNOTATIONS_CREATED", [("ANNOTATIONS_CREATED", [3, 4])]),
        ("ANNOTATIONS_DELETED", [("ANNOTATIONS_DELETED", [1])]),
        ("TASKS_CREATED", [("TASKS_CREATED", [13])]),
        ("TASKS_DELETED", [("TASKS_DELETED", [13])]),
        ("START_TRAINING", [("START_TRAINING", [])]),
    ],
)
def test_every_event_of_label_studio_is_in_the_ledger_before_201(
    client: FlaskClient, ledger: Ledger, name: str, expected: list[tuple[str, list[int]]]
) -> None:
    post(client, "/setup", setup_body())
    answer = post(client, "/webhook", captured(f"POST_webhook_{name}"))
    assert answer.status_code == 201
    assert events(ledger) == expected


def test_a_project_update_counts_when_its_labels_changed_and_never_for_our_own_patch(
    client: FlaskClient, ledger: Ledger
) -> None:
    body = captured("POST_webhook_PROJECT_UPDATED")
    post(client, "/setup", setup_body())
    assert post(client, "/webhook", body).status_code == 201
    assert events(ledger) == [("PROJECT_UPDATED", [])]
    # What it says is not kept: the check asks Label Studio.
    assert ledger.projects.get(1).label_config == CONFIG
    ledger.projects.update(1, label_config=body["project"]["label_config"])
    assert post(client, "/webhook", body).json == {"ignored": "nothing that matters here changed"}
    assert events(ledger) == [("PROJECT_UPDATED", [])]


@pytest.mark.parametrize("action", ["LABEL_LINK_CREATED", "SOMETHING_NEW"])
def test_what_does_not_concern_training_is_ignored_with_201(
    client: FlaskClient, ledger: Ledger, action: str
) -> None:
    post(client, "/setup", setup_body())
    answer = post(client, "/webhook", {"action": action, "project": PROJECT})
    assert answer.status_code == 201
    assert events(ledger) == []


def test_events_of_a_disconnected_project_are_ignored(client: FlaskClient, ledger: Ledger) -> None:
    post(client, "/setup", setup_body())
    ledger.projects.update(1, connected=False)
    answer = post(client, "/webhook", {"action": "START_TRAINING", "project": PROJECT})
    assert answer.status_code == 201
    assert events(ledger) == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b'{"a": NaN}', b"\xff\xfe", b"[" * 2000])
@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
def test_a_body_that_is_no_object_is_refused_in_a_sentence(
    client: FlaskClient, path: str, body: bytes
) -> None:
    answer = post(client, path, body)
    assert answer.status_code == 400
    assert answer.json["error"].endswith(".")  # type: ignore[index]


@pytest.mark.parametrize(
    "project",
    [
        *(None, 1, "1", "x.y", "1.2.3", "-1.5", f"{10**22}.1", f"1.{10**22}", {}, {"id": 1}, [1]),
        pytest.param(b"[" * 1015 + b"]" * 1015, id="nested"),
    ],
)
def test_a_project_that_cannot_be_read_is_named(client: FlaskClient, project: Any) -> None:
    text = project if isinstance(project, bytes) else json.dumps(project).encode()
    answer = post(client, "/webhook", b'{"action": "START_TRAINING", "project": %b}' % text)
    assert answer.status_code == 400
    assert "<id>.<created>" in answer.json["error"]  # type: ignore[index]


def test_an_unknown_label_that_is_no_label_is_refused_by_name(client: FlaskClient) -> None:
    answer = post(client, "/setup", setup_body() | {"extra_params": {"unknown_label": "Unknwon"}})
    assert answer.status_code == 400
    assert 'unknown_label names "Unknwon", and the labels are' in answer.json["error"]  # type: ignore[index]


@pytest.mark.parametrize("tasks", [None, {}, [1], [{"id": "1", "data": {}}], [{"id": 1}]])
def test_tasks_that_are_none_are_refused(client: FlaskClient, tasks: Any) -> None:
    answer = post(client, "/predict", {"tasks": tasks, "project": PROJECT})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "expected"),
    [
        ("GET", "/nothing-here", {}, 404, "/openapi.json lists all routes"),
        ("GET", "/predict", {}, 405, "/predict expects POST."),
        ("POST", "/versions", {}, 405, "/versions expects GET or HEAD."),
        ("GET", "/health", {"Connection": "Upgrade", "Upgrade": "websocket"}, 400, "plain HTTP"),
        ("GET", "/health", {"Host": "a" * 5000}, 400, "a Host that is a name"),
    ],
)
def test_what_is_no_route_of_ours_is_told_what_was_expected(
    client: FlaskClient, method: str, path: str, headers: dict[str, str], status: int, expected: str
) -> None:
    answer = client.open(path, method=method, headers=headers, auth=("lab", "secret"))
    assert answer.status_code == status
    assert expected in answer.json["error"]  # type: ignore[index]


def test_a_locked_ledger_answers_503_in_a_sentence(client: FlaskClient, settings: Settings) -> None:
    import sqlite3

    post(client, "/setup", setup_body())
    other = sqlite3.connect(settings.ledger_path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    answer = post(client, "/webhook", {"action": "START_TRAINING", "project": PROJECT})
    other.execute("ROLLBACK")
    other.close()
    assert answer.status_code == 503
    assert "ledger" in answer.json["error"]  # type: ignore[index]


def test_versions_lists_publications(client: FlaskClient) -> None:
    assert client.get("/versions", auth=("lab", "secret")).json == {"versions": []}


def test_without_a_label_studio_the_web_says_what_to_set(tmp_path: Path) -> None:
    alone = load_settings(_env_file=None, data_dir=tmp_path, basic_auth_pass="secret")
    upgrade(alone.ledger_url)
    with open_client(alone) as client:
        answer = client.post(
            "/webhook",
            json={"action": "START_TRAINING", "project": PROJECT},
            auth=("committee", "secret"),
        )
    assert answer.status_code == 503
    assert answer.json["error"].startswith("No Label Studio is known: set LABEL_STUDIO_URL")


def test_a_byte_order_mark_is_read_over_and_another_encoding_refused(client: FlaskClient) -> None:
    post(client, "/setup", setup_body())
    event = json.dumps({"action": "START_TRAINING", "project": PROJECT})
    assert post(client, "/webhook", event.encode("utf-8-sig")).status_code == 201
    answer = post(client, "/webhook", event.encode("utf-16"))
    assert (answer.status_code, "UTF-8" in answer.json["error"]) == (400, True)  # type: ignore[index]


@pytest.mark.parametrize("kind", [None, "text/plain", "multipart/form-data", "x" * 99])
@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
def test_what_is_not_sent_as_json_is_refused(
    client: FlaskClient, path: str, kind: str | None
) -> None:
    """A page of another site may send these types without asking."""
    answer = client.post(path, data=b"{}", auth=("lab", "secret"), content_type=kind)
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json["error"]  # type: ignore[index]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "null", "Host": ""},
        {"Origin": "http://localhost:8080"},  # another port of this machine, as Label Studio's
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    ],
)
@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
def test_a_page_of_another_site_is_refused_with_the_password_too(
    client: FlaskClient, ledger: Ledger, path: str, headers: dict[str, str]
) -> None:
    body = setup_body() | {"tasks": [], "action": "START_TRAINING"}
    answer = client.post(path, json=body, auth=("lab", "secret"), headers=headers)
    assert answer.status_code == 403
    assert "another site" in answer.json["error"]  # type: ignore[index]
    assert ledger.projects.all() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://committee.example", "Host": "committee.example"},
        {"Origin": "http://127.0.0.1:9090"},  # BACKEND_URL, before a proxy that changes Host
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_our_own_page_may_send(client: FlaskClient, headers: dict[str, str]) -> None:
    answer = client.post("/setup", json=setup_body(), auth=("lab", "secret"), headers=headers)
    assert answer.status_code == 200
