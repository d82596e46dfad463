"""What each caller may do: a webhook's secret opens its own project's events, and nobody fills the
ledger with what only they say."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from werkzeug.test import TestResponse

from backend.actions.rounds import pause, retrain
from backend.errors import StudioRefused
from backend.label_studio.connection import Connection, FormerSettings
from backend.label_studio.webhook_secret import (
    name_in,
    name_of,
    new_name,
    webhook_header,
    webhook_key,
)
from backend.ledger import Event, Project
from backend.ledger.projects import MOST_UNCONFIRMED
from backend.rounds.schedule import check_project
from backend.web.app import BODY_LIMITS, body_limit
from backend.web.events import MOST_IDS
from backend.web.messages import MOST_TASKS
from backend.web.openapi import openapi
from backend.workplace import Workplace
from tests.backend.workplaces import PASSWORD, USER, brush_config, open_client, open_workplace

CONFIG = brush_config("Cell")
CREATED = 1700000000
YEAR_9999 = 253370764800
CONNECTION = Connection(
    *(1, f"1.{CREATED}", "http://b:9090", 5, 6, 7),
    FormerSettings("Sequential sampling", "", False, False, 0),
)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workplace]:
    with open_workplace(tmp_path) as opened:
        yield opened


@pytest.fixture
def client(work: Workplace) -> Iterator[FlaskClient]:
    with open_client(work.settings) as opened:
        yield opened


def connected(work: Workplace, studio_id: int) -> tuple[Project, str]:
    """A project as ``connect`` leaves it, and the header of its webhook."""
    name = new_name()
    row = work.ledger.projects.ensure(work.server, studio_id, CREATED, title="Urine")
    made = replace(CONNECTION, project_id=studio_id, webhook_secret=name)
    work.ledger.projects.update(row.id, connection=made.to_json())
    return row, webhook_header(webhook_key(work.settings), name)


def send(client: FlaskClient, path: str, body: Any, header: str | None = None) -> TestResponse:
    """POST, with the web's password unless a header is given."""
    if header is None:
        return client.post(path, json=body, auth=(USER, PASSWORD))
    return client.post(path, json=body, headers={"Authorization": header})


def event(studio_id: int, action: str = "ANNOTATION_CREATED", **more: Any) -> dict[str, Any]:
    return {"action": action, "project": f"{studio_id}.{CREATED}", **more}


def kept(work: Workplace, row: Project) -> list[str]:
    return [each.action for each in work.ledger.events.pending(row.id)]


# ---- the webhook's secret ------------------------------------------------------------------


def test_a_webhook_brings_events_by_its_own_secret(client: FlaskClient, work: Workplace) -> None:
    row, header = connected(work, 1)
    assert send(client, "/webhook", event(1), header).status_code == 201
    assert kept(work, row) == ["ANNOTATION_CREATED"]


def test_a_webhooks_secret_opens_no_other_route(client: FlaskClient, work: Workplace) -> None:
    _, header = connected(work, 1)
    for path in ("/setup", "/predict"):
        assert send(client, path, event(1), header).status_code == 401
    for path in ("/versions", "/openapi.json", "/webhook/", "/nothing-here"):
        assert client.get(path, headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize("body", [event(2), event(3), event(1) | {"project": f"1.{CREATED + 1}"}])
def test_a_webhooks_secret_opens_no_other_project(
    client: FlaskClient, work: Workplace, body: dict[str, Any]
) -> None:
    """Of one that is connected, one that nobody knows, and one that had the number before."""
    _, header = connected(work, 1)
    other, _ = connected(work, 2)
    answer = send(client, "/webhook", body, header)
    assert answer.status_code == 403
    assert "connect --project ID" in answer.json["error"]  # type: ignore[index]
    assert kept(work, other) == []
    assert len(work.ledger.projects.all()) == 2


def test_a_secret_that_connect_replaced_opens_nothing(client: FlaskClient, work: Workplace) -> None:
    row, old = connected(work, 1)
    _, new = connected(work, 1)
    assert send(client, "/webhook", event(1), old).status_code == 403
    assert send(client, "/webhook", event(1), new).status_code == 201
    work.ledger.projects.update(row.id, connection=None, connected=False)
    assert send(client, "/webhook", event(1), new).status_code == 403


def test_a_webhooks_secret_starts_no_training(client: FlaskClient, work: Workplace) -> None:
    row, header = connected(work, 1)
    answer = send(client, "/webhook", event(1, "START_TRAINING"), header)
    assert (answer.status_code, kept(work, row)) == (403, [])
    assert send(client, "/webhook", event(1, "START_TRAINING")).status_code == 201


def test_a_webhook_of_the_last_release_still_brings_events(
    client: FlaskClient, work: Workplace
) -> None:
    """It carries the web's password, and its connection names no secret."""
    row, _ = connected(work, 1)
    former = CONNECTION.to_json().replace(', "webhook_secret": ""', "")
    assert "webhook_secret" not in former
    assert Connection.from_json(former) == CONNECTION
    work.ledger.projects.update(row.id, connection=former)
    assert send(client, "/webhook", event(1)).status_code == 201
    assert kept(work, row) == ["ANNOTATION_CREATED"]
    # A secret that nobody gave is none.
    empty = webhook_header(webhook_key(work.settings), "")
    assert send(client, "/webhook", event(1), empty).status_code == 403


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header[:-1] + ("0" if header[-1] != "0" else "1"),
        lambda header: header.lower(),
        lambda header: header.partition(".")[0],
        lambda header: header + "0",
        lambda header: "Bearer " + "0" * 32 + "." + header.partition(".")[2],
        lambda header: header.replace("Bearer ", "Basic "),
        lambda header: header + "é",
        lambda header: "Bearer .",
    ],
)
def test_a_forged_secret_is_a_wrong_login_and_no_body_of_it_is_read(
    client: FlaskClient, work: Workplace, change: Any
) -> None:
    _, header = connected(work, 1)
    forged = change(header)
    limit = body_limit(work.settings)
    assert limit("/webhook", header) == BODY_LIMITS["/webhook"]
    assert limit("/predict", header) == limit("/webhook", forged) == 0
    assert send(client, "/webhook", event(1), forged).status_code == 401


def test_a_secret_of_another_installation_is_none(work: Workplace, tmp_path: Path) -> None:
    _, header = connected(work, 1)
    with open_workplace(tmp_path / "other") as other:
        assert name_in(webhook_key(other.settings), header) is None
    assert name_of(None) is name_of(CONNECTION.to_json()) is None


# ---- what a caller may create --------------------------------------------------------------


def test_events_and_predictions_begin_no_project(client: FlaskClient, work: Workplace) -> None:
    tasks = [{"id": 4, "data": {}}, {"id": 7, "data": {}}]
    for number in range(1, 201):
        answer = send(client, "/webhook", event(number))
        assert (answer.status_code, list(answer.json or {})) == (201, ["ignored"])
        body = {"project": f"{number}.{CREATED}", "tasks": tasks, "label_config": CONFIG}
        assert send(client, "/predict", body).json == {"results": [[], []]}
    assert work.ledger.projects.all() == []


def test_a_project_of_the_future_shadows_none(client: FlaskClient, work: Workplace) -> None:
    row, _ = connected(work, 1)
    future = {"id": 1, "created_at": "9999-01-01T00:00:00Z", "label_config": "<View/>"}
    for action in ("ANNOTATION_CREATED", "PROJECT_UPDATED", "START_TRAINING"):
        send(client, "/webhook", {"action": action, "project": future})
    answer = send(client, "/setup", {"project": f"1.{YEAR_9999}", "schema": CONFIG})
    assert answer.status_code == 400
    assert "in the future" in answer.json["error"]  # type: ignore[index]
    assert [each.id for each in work.ledger.projects.all()] == [row.id]


def test_a_project_that_only_setup_names_shadows_none(client: FlaskClient, work: Workplace) -> None:
    """Its creation may be later than the real one's."""
    row, _ = connected(work, 1)
    answer = send(client, "/setup", {"project": f"1.{CREATED + 5}", "schema": CONFIG})
    assert answer.status_code == 200
    retrain(work, 1)
    pause(work, 1)
    assert kept(work, row) == ["RETRAIN"]
    assert work.ledger.projects.get(row.id).paused


def test_a_clock_that_was_set_back_keeps_nobody_out_who_is_known(
    client: FlaskClient, work: Workplace
) -> None:
    ahead = int(time.time()) + 30 * 24 * 3600
    work.ledger.projects.ensure(work.server, 1, ahead, title="Urine")
    assert send(client, "/setup", {"project": f"1.{ahead}", "schema": CONFIG}).status_code == 200


def test_projects_that_only_setup_names_make_room_for_each_other(
    client: FlaskClient, work: Workplace
) -> None:
    row, _ = connected(work, 1)
    for number in range(2, 62):
        body = {"project": f"{number}.{CREATED}", "schema": CONFIG}
        assert send(client, "/setup", body).status_code == 200
        send(client, "/webhook", event(number))
    present = work.ledger.projects.all()
    assert [each.studio_id for each in present] == [1, *range(62 - MOST_UNCONFIRMED, 62)]
    assert present[0].id == row.id
    assert kept(work, present[-1]) == ["ANNOTATION_CREATED"]


def test_a_project_that_only_setup_named_is_forgotten_if_label_studio_has_none(
    client: FlaskClient, work: Workplace
) -> None:
    row, _ = connected(work, 1)
    send(client, "/setup", {"project": f"2.{CREATED}", "schema": CONFIG})
    invented = work.ledger.projects.of_studio(work.server, 2)

    def gone(_number: int) -> None:
        raise StudioRefused("not found", 404)

    studio = SimpleNamespace(project=gone, whoami=dict)
    asked = cast(Workplace, SimpleNamespace(ledger=work.ledger, studio=studio))
    for each in (row, invented):
        assert check_project(asked, each.id) is None
    (left,) = work.ledger.projects.all()
    assert (left.id, left.connected) == (row.id, False)
    assert left.last_error == "Label Studio has no project 1 any more."


def test_what_predict_says_of_labels_is_not_kept(client: FlaskClient, work: Workplace) -> None:
    row, _ = connected(work, 1)
    before = ledger_bytes(work)
    body = {"project": f"1.{CREATED}", "tasks": [], "label_config": "x" * 10_000_000}
    assert send(client, "/predict", body).json == {"results": []}
    project = {"id": 1, "created_at": "2023-11-14T22:13:20Z", "label_config": "x" * 4_000_000}
    assert send(client, "/webhook", {"action": "PROJECT_UPDATED", "project": project}).json == {
        "event": 1
    }
    assert work.ledger.projects.get(row.id).label_config == ""
    assert ledger_bytes(work) < before + 100_000


def ledger_bytes(work: Workplace) -> int:
    path = work.settings.ledger_path
    return sum(os.stat(each).st_size for each in path.parent.glob(f"{path.name}*"))  # noqa: PTH116


def test_a_label_config_larger_than_any_is_refused(client: FlaskClient) -> None:
    body = {"project": f"1.{CREATED}", "schema": " " * BODY_LIMITS["/setup"]}
    assert send(client, "/setup", body).status_code == 413


def test_of_many_ids_the_first_are_kept(client: FlaskClient, work: Workplace) -> None:
    row, _ = connected(work, 1)
    tasks = [{"id": number} for number in range(3 * MOST_IDS)]
    assert send(client, "/webhook", event(1, "TASKS_CREATED", tasks=tasks)).status_code == 201
    (pending,) = work.ledger.events.pending(row.id)
    assert pending.ids == list(range(MOST_IDS))


def test_whoever_has_the_secret_does_not_fill_the_ledger(
    client: FlaskClient, work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.ledger.events.MOST_WAITING", 3)
    monkeypatch.setattr("backend.ledger.events.MOST_KEPT", 2)
    row, header = connected(work, 1)
    other, of_other = connected(work, 2)
    for _ in range(5):
        assert send(client, "/webhook", event(1), header).status_code == 201
    assert len(kept(work, row)) == 3
    assert "enough" in send(client, "/webhook", event(1), header).get_data(as_text=True)
    for _ in range(2):
        send(client, "/webhook", event(2), of_other)
    assert len(kept(work, other)) == 2
    send(client, "/webhook", event(1, "START_TRAINING"))
    assert kept(work, row)[-1] == "START_TRAINING"
    work.ledger.events.handle([each.id for each in work.ledger.events.pending(row.id)])
    work.ledger.events.drop_old(3600)
    assert len(kept(work, other)) == 2
    with work.ledger.database.read() as db:
        assert sorted(db.scalars(select(Event.id))) == [4, 5, 6]


def test_a_predict_has_a_limit_of_tasks() -> None:
    """What is left of them is written to the ledger."""
    tasks = openapi()["components"]["schemas"]["Predict"]["properties"]["tasks"]
    assert tasks["maxItems"] == MOST_TASKS
