"""What of connecting needs no server: the record, the header, whose backend is whose."""

from __future__ import annotations

import base64
import sys
from typing import Any, ClassVar

import orjson
import pytest
from defusedxml.ElementTree import fromstring

from backend.errors import StudioRefused
from backend.label_studio.bulk import Studio
from backend.label_studio.client import Json
from backend.label_studio.connection import (
    DEFAULT_SAMPLING,
    CannotConnect,
    Connection,
    FormerSettings,
    basic_auth,
    connect,
    disconnect,
)
from backend.label_studio.label_config import (
    add_smart_controls,
    build_label_config,
    parse_label_config,
    unread_controls,
)
from backend.label_studio.queue_order import BY_RANK, TITLE, WITHOUT_MODEL
from backend.label_studio.reserved_controls import without_controls
from backend.label_studio.webhook_secret import name_of, webhook_header

FORMER = FormerSettings("Sequential sampling", "theirs", False, True, 7)
KEY = b"of this test"
CONNECTION = Connection(3, "3.1700000000", "http://b:9090", 5, 6, 7, FORMER)


PROJECT = {
    "id": 3,
    "title": "cells",
    "created_at": "2023-11-14T22:13:20Z",
    "label_config": "<View/>",
    "maximum_annotations": 1,
    "task_number": 0,
}


class MemoryStudio(Studio):
    """One project in memory, behind both the slim client and the SDK.

    What Label Studio adds by itself is left out. ``rows`` holds backends, webhooks and views by
    id; ``refuse`` is the status that a backend is refused with; the change after
    ``changes_left`` further ones is refused with 500.
    """

    ROUTES: ClassVar = {"/api/ml": "ml", "/api/webhooks": "hooks", "/api/dm/views": "views"}

    def __init__(self, **settings: object) -> None:
        super().__init__("http://nowhere.invalid", "f" * 40)
        self.settings: Json = {
            "sampling": DEFAULT_SAMPLING,
            "model_version": "",
            "show_collab_predictions": True,
            "evaluate_predictions_automatically": False,
            "min_annotations_to_start_training": 0,
            **settings,
        }
        self.rows: dict[str, dict[int, Json]] = {"ml": {}, "hooks": {}, "views": {}}
        self.versions: dict[str, int] = {}
        self.refuse: int | None = None
        self.changes_left = sys.maxsize
        self._next_id = 0

    def call(self, method: str, path: str, *, content: bytes | None = None, **_: object) -> Any:
        body = orjson.loads(content) if content else {}
        path = path.partition("?")[0].rstrip("/")
        if method != "GET":
            self.changes_left -= 1
            if self.changes_left == -1:
                raise StudioRefused("refused by the test", 500)
        if path == "/api/projects/3/model-versions":
            return self.versions
        if path == "/api/dm/columns":
            return {"columns": []}
        if path == "/api/projects/3":
            self.settings |= body
            return {**PROJECT, **self.settings}
        if path in self.ROUTES:
            rows = self.rows[self.ROUTES[path]]
            return list(rows.values()) if method == "GET" else self.add(self.ROUTES[path], body)
        parent, _slash, number = path.rpartition("/")
        rows = self.rows[self.ROUTES[parent]]
        if method == "DELETE":
            del rows[int(number)]
            return None
        self._refuse(self.ROUTES[parent])
        rows[int(number)] |= body
        return rows[int(number)]

    def _refuse(self, kind: str) -> None:
        if kind == "ml" and self.refuse:
            raise StudioRefused("refused by the test", self.refuse)

    def add(self, kind: str, row: Json) -> Json:
        self._refuse(kind)
        self._next_id += 1
        self.rows[kind][self._next_id] = {"id": self._next_id, **row}
        return self.rows[kind][self._next_id]


def join(studio: Studio, url: str = "http://b:9090/", **more: object) -> Connection:
    given: Any = {"backend_url": url, "user": "u", "password": "p", "webhook_key": KEY, **more}
    return connect(studio, 3, **given)


def test_a_connection_survives_json():
    assert Connection.from_json(CONNECTION.to_json()) == CONNECTION


def test_a_connection_of_another_shape_is_refused():
    with pytest.raises(TypeError):
        Connection.from_json(CONNECTION.to_json().replace("view_id", "tab"))


def test_basic_auth_is_what_label_studio_itself_sends():
    scheme, _, value = basic_auth("committee", "se:cret").partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(value) == b"committee:se:cret"


def test_each_connecting_gives_the_webhook_a_new_secret_and_never_the_password():
    studio = MemoryStudio()
    secrets = []
    for _ in range(2):
        made = join(studio)
        (hook,) = studio.rows["hooks"].values()
        assert hook["headers"] == {"Authorization": webhook_header(KEY, made.webhook_secret)}
        assert made.webhook_secret == name_of(made.to_json())
        secrets.append(made.webhook_secret)
    assert len(set(secrets)) == 2


@pytest.mark.parametrize(
    ("status", "advice"), [(403, "ML_BLOCK_LOCAL_IP=false"), (400, "BACKEND_URL")]
)
def test_a_refusal_says_what_to_do_and_leaves_no_webhook(status: int, advice: str):
    studio = MemoryStudio()
    studio.refuse = status
    with pytest.raises(CannotConnect, match=advice):
        join(studio)
    assert studio.rows["hooks"] == {}


def test_a_webhook_that_was_there_before_a_refusal_stays():
    studio = MemoryStudio()
    studio.add("hooks", {"url": "http://b:9090/webhook"})
    studio.refuse = 400
    with pytest.raises(CannotConnect):
        join(studio)
    assert len(studio.rows["hooks"]) == 1


def test_a_refusal_leaves_the_webhook_with_the_secret_that_the_ledger_knows():
    studio = MemoryStudio()
    made = join(studio)
    studio.refuse = 400
    with pytest.raises(CannotConnect):
        join(studio)
    (hook,) = studio.rows["hooks"].values()
    assert hook["headers"] == {"Authorization": webhook_header(KEY, made.webhook_secret)}


def test_other_refusals_keep_their_own_words():
    studio = MemoryStudio()
    studio.refuse = 500
    with pytest.raises(StudioRefused, match="refused by the test"):
        join(studio)


@pytest.mark.parametrize("changes", range(5))  # webhook, backend, settings, order, view
def test_a_connect_that_is_refused_at_any_step_leaves_nothing_behind(changes: int):
    studio = MemoryStudio(min_annotations_to_start_training=7, show_collab_predictions=False)
    before = dict(studio.settings)
    studio.changes_left = changes
    with pytest.raises(StudioRefused, match="refused by the test"):
        join(studio)
    assert studio.changes_left < 0
    assert studio.rows == {"ml": {}, "hooks": {}, "views": {}}
    assert studio.settings == before
    join(studio)
    assert [len(rows) for rows in studio.rows.values()] == [1, 1, 1]


def test_a_connection_that_cannot_be_mended_stays():
    studio = MemoryStudio()
    join(studio)
    studio.changes_left = 3
    with pytest.raises(StudioRefused, match="refused by the test"):
        join(studio)
    assert [len(rows) for rows in studio.rows.values()] == [1, 1, 1]


def test_the_address_is_kept_without_its_last_slash():
    studio = MemoryStudio()
    assert join(studio).backend_url == "http://b:9090"
    (hook,) = studio.rows["hooks"].values()
    assert hook["url"] == "http://b:9090/webhook"


def test_options_are_kept_unless_given():
    studio = MemoryStudio()
    first = join(studio, options={"members": 3})
    join(studio)
    assert studio.rows["ml"][first.backend_id]["extra_params"] == {"members": 3}
    join(studio, options={})
    assert studio.rows["ml"][first.backend_id]["extra_params"] == {}


def test_a_publication_that_serves_keeps_serving_when_connected_again():
    studio = MemoryStudio(sampling=BY_RANK, model_version="committee-v2.3")
    studio.versions = {"committee-v2.3": 500}
    join(studio)
    assert studio.settings["model_version"] == "committee-v2.3"
    assert studio.settings["sampling"] == BY_RANK


def test_a_publication_whose_predictions_are_gone_serves_no_more():
    studio = MemoryStudio(sampling=BY_RANK, model_version="committee-v2.3")
    join(studio)
    assert (studio.settings["model_version"], studio.settings["sampling"]) == ("", WITHOUT_MODEL)


def test_the_record_of_another_project_of_the_same_number_is_ignored():
    studio = MemoryStudio(sampling=WITHOUT_MODEL)
    stale = Connection(3, "3.1600000000", "http://old:9090", 1, 1, 1, FORMER)
    theirs = studio.add("ml", {"url": "http://theirs:9090", "title": "theirs"})
    assert theirs["id"] == stale.backend_id
    made = join(studio, previous=stale)
    assert made.former.sampling == WITHOUT_MODEL
    assert studio.rows["ml"][theirs["id"]]["title"] == "theirs"


def test_an_edited_description_is_no_error():
    studio = MemoryStudio()
    first = join(studio)
    row = studio.rows["ml"][first.backend_id]
    row["description"] = row["description"].replace("{", "(")
    assert join(studio).backend_id == first.backend_id


def test_two_backends_of_ours_become_one():
    studio = MemoryStudio()
    first = join(studio)
    row = dict(studio.rows["ml"][first.backend_id])
    del row["id"]
    studio.add("ml", row)
    assert join(studio).backend_id == first.backend_id
    assert list(studio.rows["ml"]) == [first.backend_id]


def test_disconnecting_gives_back_a_version_only_if_it_still_has_predictions():
    studio = MemoryStudio(model_version="theirs")
    connection = join(studio)
    assert connection.former.model_version == "theirs"
    disconnect(studio, connection)
    assert studio.settings["model_version"] == ""
    studio.versions = {"theirs": 4}
    disconnect(studio, connection)
    assert studio.settings["model_version"] == "theirs"


def test_disconnecting_leaves_a_view_that_somebody_made_theirs():
    studio = MemoryStudio()
    connection = join(studio)
    studio.rows["views"][connection.view_id]["data"]["title"] = "mine now"
    disconnect(studio, connection)
    assert len(studio.rows["views"]) == 1
    assert studio.rows["ml"] == {}


def test_the_connections_title_is_not_taken_for_a_former_version():
    studio = MemoryStudio(model_version=TITLE, sampling=BY_RANK)
    former = join(studio).former
    assert (former.model_version, former.sampling) == ("", DEFAULT_SAMPLING)


def test_smart_controls_come_with_click_and_go_with_disconnect() -> None:
    xml = build_label_config([("Cell", "#ff0000")])
    theirs = xml.replace(
        "</View>", '<RectangleLabels name="box" toName="image"><Label value="Cell"/>'
        "</RectangleLabels>\n</View>"
    )  # fmt: skip
    config = parse_label_config(theirs)
    ours = add_smart_controls(theirs, config)
    assert add_smart_controls(ours, config) == ours
    assert without_controls(ours) == theirs
    assert parse_label_config(ours) == config
    assert unread_controls(ours, config) == unread_controls(theirs, config)
    root = fromstring(ours)
    assert [(e.tag, e.get("smartOnly")) for e in root[-2:]] == [
        ("KeyPointLabels", "true"),
        ("RectangleLabels", "true"),
    ]
    assert [dict(e.attrib) for e in root[-1]] == [{"value": "Cell", "background": "#ff0000"}]

    studio = MemoryStudio(label_config=theirs)
    connection = join(studio, click=True, label_config=ours)
    assert Connection.from_json(connection.to_json()).click
    assert [row["is_interactive"] for row in studio.rows["ml"].values()] == [True]
    assert studio.settings["label_config"] == ours
    disconnect(studio, connection)
    assert studio.settings["label_config"] == theirs


def test_controls_that_annotations_use_stay_and_a_sentence_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    xml = build_label_config([("Cell", "#ff0000")])
    ours = add_smart_controls(xml, parse_label_config(xml))
    studio = MemoryStudio()
    connection = join(studio, click=True, label_config=ours)

    def refuse(*_: Any, **fields: Any) -> None:
        assert set(fields) == {"label_config"}
        raise StudioRefused("refused by the test", 400)

    monkeypatch.setattr(studio, "update_project", refuse)
    studio.settings |= {"model_version": "", "sampling": DEFAULT_SAMPLING}
    disconnect(studio, connection)
    assert "stay in the labeling configuration of project 3" in caplog.text
    assert studio.rows["ml"] == {}
