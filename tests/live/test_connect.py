"""Connecting a project of a real Label Studio, and the order that it then serves."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from backend.errors import StudioRefused
from backend.label_studio.bulk import Studio
from backend.label_studio.connection import (
    CannotConnect,
    Connection,
    basic_auth,
    connect,
    disconnect,
)
from backend.label_studio.control import control_of
from backend.label_studio.queue_order import (
    BY_RANK,
    ORDERING,
    TITLE,
    VIEW_TITLE,
    WITHOUT_MODEL,
    set_order,
)
from backend.label_studio.webhook_secret import name_in, webhook_header
from tests.limits import wait_until
from tests.live.conftest import BRUSH, MakeProject
from tests.live.harness.rows import backends_of, webhooks_of
from tests.live.harness.servers import OWNER, LabelStudio, free_port, start_label_studio
from tests.served import Served

pytestmark = pytest.mark.live

USER, PASSWORD = "committee", "throw: away"
KEY = b"of these tests"
CHANGES_EACH_TIME = {"updated_at": None, "headers": {}}


class Backend(Served):
    """The least that Label Studio takes for an ML backend; ``seen`` keeps what it was sent.

    ``asks`` for the password unless told otherwise.
    """

    def __init__(self, user: str = USER, password: str = PASSWORD) -> None:
        backend = self
        expected = basic_auth(user, password)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.loads(content) if content else None
                sent = self.headers.get("Authorization", "")
                webhook = self.path == "/webhook" and name_in(KEY, sent) is not None
                authorized = webhook or sent == expected
                backend.seen.append((self.path, authorized, body))
                if self.path != "/health" and backend.asks and not authorized:
                    self.answer(401, {"detail": "who are you?"})
                elif self.path == "/webhook":
                    self.answer(201, {})
                else:
                    self.answer(200, backend.answers[self.path])

            def answer(self, status: int, body: object) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output clean."""

        self.seen: list[tuple[str, bool, Any]] = []
        self.asks = True
        self.answers: dict[str, object] = {
            "/health": {"status": "UP"},
            "/setup": {"model_version": None},
            "/predict": {"results": [[]]},
            "/versions": {"versions": []},
        }
        super().__init__(Handler)

    def events(self) -> list[str]:
        """The actions of the webhook calls that were authenticated."""
        return [body["action"] for path, ok, body in self.seen if path == "/webhook" and ok]


@pytest.fixture
def backend() -> Iterator[Backend]:
    server = Backend()
    yield server
    server.close()


def join(studio: Studio, project_id: int, backend: Backend, **more: Any) -> Connection:
    given: dict[str, Any] = {"user": USER, "password": PASSWORD, "webhook_key": KEY, **more}
    return connect(studio, project_id, backend_url=backend.url, **given)


def without_secret(connection: Connection) -> Connection:
    """What stays when it is made again."""
    return replace(connection, webhook_secret="")


def publish(studio: Studio, project_id: int, version: str, ranking: list[int]) -> None:
    """Predictions of ``version`` whose scores put ``ranking`` in order, then the order itself."""
    rows = [
        {
            "task": task_id,
            "result": [],
            "score": (place + 0.5) / len(ranking),
            "model_version": version,
        }
        for place, task_id in enumerate(ranking)
    ]
    random.Random(3).shuffle(rows)
    assert studio.import_predictions(project_id, rows) == len(rows)
    set_order(studio, project_id, version)


def shuffled(studio: Studio, project_id: int, seed: int) -> list[int]:
    ids = [task.id for task in studio.tasks(project_id)]
    random.Random(seed).shuffle(ids)
    return ids


def test_connecting_leaves_one_backend_with_basic_auth(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=2)
    connection = join(studio, made.id, backend, options={"mode": "leader"})
    (there,) = backends_of(studio, made.id)
    assert there.id == connection.backend_id
    assert (there.title, there.url, there.state) == (TITLE, backend.url, "CO")
    assert (there.auth_method, there.basic_auth_user) == ("BASIC_AUTH", USER)
    assert there.basic_auth_pass_is_set is True
    assert there.is_interactive is False
    assert there.extra_params == {"mode": "leader"}
    setups = [(ok, body) for path, ok, body in backend.seen if path == "/setup"]
    assert all(ok for ok, _ in setups)
    assert setups[0][1]["project"] == made.key
    assert setups[0][1]["extra_params"] == {"mode": "leader"}


def test_connecting_leaves_one_webhook_that_is_authenticated(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=2)
    connection = join(studio, made.id, backend)
    (hook,) = webhooks_of(studio, made.id)
    assert hook.id == connection.webhook_id
    assert hook.url == f"{backend.url}/webhook"
    assert hook.headers == {"Authorization": webhook_header(KEY, connection.webhook_secret)}
    task = next(studio.tasks(made.id))
    studio.annotate(task.id, [])
    wait_until(lambda: "ANNOTATION_CREATED" in backend.events(), 5, "the webhook call")
    assert backend.events().count("ANNOTATION_CREATED") == 1
    assert all(ok for path, ok, _ in backend.seen if path == "/webhook")


def test_connecting_sets_what_pre_annotations_and_the_queue_need(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(
        tasks=2,
        show_collab_predictions=False,
        evaluate_predictions_automatically=True,
        min_annotations_to_start_training=7,
    )
    connection = join(studio, made.id, backend)
    now = studio.project(made.id)
    assert now.settings["show_collab_predictions"] is True
    assert now.settings["evaluate_predictions_automatically"] is False
    assert now.settings["min_annotations_to_start_training"] == 0
    assert (now.sampling, now.model_version) == (WITHOUT_MODEL, "")
    (view,) = studio.views(made.id)
    assert view["id"] == connection.view_id
    assert view["data"]["title"] == VIEW_TITLE
    assert view["data"]["ordering"] == ORDERING
    hidden = view["data"]["hiddenColumns"]["explore"]
    shown = {name for name, _ in studio.columns(made.id)} - set(hidden)
    assert shown == {"tasks:data.image", "tasks:predictions_score", "tasks:annotators"}


def test_connecting_twice_is_connecting_once(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=2, sampling="Sequential sampling")
    first = join(studio, made.id, backend, options={"members": 3})
    hook, there, view = (
        webhooks_of(studio, made.id),
        backends_of(studio, made.id),
        studio.views(made.id),
    )
    again = join(studio, made.id, backend)
    remembered = join(studio, made.id, backend, previous=first)
    assert without_secret(first) == without_secret(again) == without_secret(remembered)
    assert first.former.sampling == "Sequential sampling"
    without_time = [
        row.model_copy(update=CHANGES_EACH_TIME) for row in webhooks_of(studio, made.id)
    ]
    assert without_time == [row.model_copy(update=CHANGES_EACH_TIME) for row in hook]
    (now,) = backends_of(studio, made.id)
    assert now.extra_params == there[0].extra_params == {"members": 3}
    assert studio.views(made.id) == view


def test_the_webhook_that_label_studio_made_by_itself_is_mended_and_doubles_go(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=1)
    control_of(studio).ml.create(
        project=made.id,
        url=backend.url + "/",
        title="by hand",
        auth_method="BASIC_AUTH",
        basic_auth_user=USER,
        basic_auth_pass=PASSWORD,
    )
    (bare,) = webhooks_of(studio, made.id)
    assert bare.headers == {}
    control_of(studio).webhooks.create(project=made.id, url=f"{backend.url}/webhook")
    control_of(studio).webhooks.create(
        project=made.id, url=f"{backend.url}/webhook/", is_active=False
    )
    theirs = control_of(studio).webhooks.create(project=made.id, url="http://127.0.0.1:9/webhook")
    connection = join(studio, made.id, backend)
    ours, other = webhooks_of(studio, made.id)
    assert ours.id == bare.id
    assert ours.headers == {"Authorization": webhook_header(KEY, connection.webhook_secret)}
    assert other == theirs
    (there,) = backends_of(studio, made.id)
    assert (there.title, there.url) == (TITLE, backend.url)


def test_somebody_elses_backend_stays(project: MakeProject, studio: Studio, backend: Backend):
    made = project(tasks=1)
    theirs = Backend()
    try:
        other = control_of(studio).ml.create(
            project=made.id,
            url=theirs.url,
            title=TITLE,
            auth_method="BASIC_AUTH",
            basic_auth_user=USER,
            basic_auth_pass=PASSWORD,
        )
        connection = join(studio, made.id, backend)
        assert {b.id for b in backends_of(studio, made.id)} == {
            other.id,
            connection.backend_id,
        }
        disconnect(studio, connection)
        assert [b.id for b in backends_of(studio, made.id)] == [other.id]
        assert [w.url for w in webhooks_of(studio, made.id)] == [f"{theirs.url}/webhook"]
    finally:
        theirs.close()


def test_a_backend_that_moved_keeps_its_connection(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=1, sampling="Sequential sampling")
    before = join(studio, made.id, backend, options={"members": 3})
    moved = Backend()
    try:
        after = join(studio, made.id, moved)
        assert (after.backend_id, after.webhook_id) == (before.backend_id, before.webhook_id)
        assert after.former == before.former
        (there,) = backends_of(studio, made.id)
        assert (there.url, there.extra_params) == (moved.url, {"members": 3})
        (hook,) = webhooks_of(studio, made.id)
        assert hook.url == f"{moved.url}/webhook"
    finally:
        moved.close()


def test_an_unreachable_backend_is_refused_and_leaves_nothing(project: MakeProject, studio: Studio):
    made = project(tasks=1)
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(CannotConnect, match="BACKEND_URL"):
        connect(*(studio, made.id), backend_url=url, user=USER, password=PASSWORD, webhook_key=KEY)
    assert webhooks_of(studio, made.id) == []
    assert backends_of(studio, made.id) == []
    assert studio.project(made.id).sampling == made.sampling


def _says_which_settings_to_change(server: LabelStudio, backend: Backend) -> None:
    with Studio(server.url, server.api_key) as studio:
        made = control_of(studio).projects.create(title="guarded", label_config=BRUSH)
        with pytest.raises(CannotConnect, match="ML_BLOCK_LOCAL_IP=false"):
            join(studio, made.id, backend)
        assert webhooks_of(studio, made.id) == []
        assert backends_of(studio, made.id) == []


def test_a_server_that_guards_webhooks_says_which_settings_to_change(
    unusual_label_studio: LabelStudio, backend: Backend
) -> None:
    """It has taken the backend by then, which must not stay."""
    _says_which_settings_to_change(unusual_label_studio, backend)


@pytest.mark.soak
@pytest.mark.parametrize(
    "guards", [{}, {"LABEL_STUDIO_SSRF_PROTECTION_ENABLED": "false"}], ids=["both", "backends"]
)
def test_a_server_that_guards_backends_says_which_settings_to_change(
    label_studio_template: Path, tmp_path: Path, backend: Backend, guards: dict[str, str]
) -> None:
    environment = {"LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "true", **guards}
    server = start_label_studio(tmp_path, template=label_studio_template, environment=environment)
    _says_which_settings_to_change(server, backend)
    server.stop()


def test_a_wrong_password_is_refused(project: MakeProject, studio: Studio, backend: Backend):
    made = project(tasks=1)
    with pytest.raises(CannotConnect):
        join(studio, made.id, backend, password="wrong")
    assert backends_of(studio, made.id) == []


def test_password_and_creators_token_go_wherever_an_account_points_the_connection(
    project: MakeProject, studio: Studio, second_studio: Studio, backend: Backend
):
    """Which is why docs/SECURITY.md says that they keep no account of Label Studio out."""
    made = project(tasks=1)
    connection = join(studio, made.id, backend)
    theirs = Backend()
    theirs.asks = False
    (there,) = backends_of(second_studio, made.id)
    assert PASSWORD not in str(there)
    control_of(second_studio).ml.update(connection.backend_id, project=made.id, url=theirs.url)
    setups = [(right, sent) for path, right, sent in theirs.seen if path == "/setup"]
    assert True in {right for right, _ in setups}
    assert {sent["access_token"] for _, sent in setups} == {OWNER.api_key}
    theirs.close()


def test_disconnecting_restores_what_was_and_keeps_the_labels(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(
        tasks=3,
        sampling="Sequential sampling",
        show_collab_predictions=False,
        evaluate_predictions_automatically=True,
        min_annotations_to_start_training=7,
    )
    connection = join(studio, made.id, backend)
    ranking = shuffled(studio, made.id, seed=1)
    publish(studio, made.id, "committee-v1.1", ranking)
    studio.annotate(ranking[0], [])
    disconnect(studio, connection)
    now = studio.project(made.id)
    changed = {
        name: (value, now.settings[name])
        for name, value in made.settings.items()
        if now.settings[name] != value
    }
    counts = {"finished_task_number", "total_annotations_number", "useful_annotation_number"}
    counts |= {"num_tasks_with_annotations", "total_predictions_number", "queue_done"}
    assert set(changed) <= counts
    assert (
        backends_of(studio, made.id),
        webhooks_of(studio, made.id),
        studio.views(made.id),
    ) == (
        [],
        [],
        [],
    )
    assert len(studio.annotations(ranking[0])) == 1
    assert studio.model_versions(made.id) == {"committee-v1.1": 3}
    disconnect(studio, connection)
    assert studio.project(made.id) == now


def test_what_was_before_survives_reconnecting_and_a_lost_record(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=2)
    rows = [
        {"task": task.id, "result": [], "score": 0.5, "model_version": "their-model"}
        for task in studio.tasks(made.id)
    ]
    studio.import_predictions(made.id, rows)
    studio.update_project(made.id, sampling="Sequential sampling", model_version="their-model")
    first = join(studio, made.id, backend)
    assert first.former.model_version == "their-model"
    publish(studio, made.id, "committee-v1.1", shuffled(studio, made.id, seed=1))
    # As after a loss of DATA_DIR: nothing remembered on our side.
    again = join(studio, made.id, backend)
    assert again.former == first.former
    now = studio.project(made.id)
    assert (now.sampling, now.model_version) == (BY_RANK, "committee-v1.1")
    disconnect(studio, again)
    now = studio.project(made.id)
    assert (now.sampling, now.model_version) == ("Sequential sampling", "their-model")


def test_our_own_settings_are_never_taken_for_the_former_ones(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=2, sampling="Sequential sampling")
    first = join(studio, made.id, backend)
    publish(studio, made.id, "committee-v1.1", shuffled(studio, made.id, seed=1))
    # Somebody deleted the connection in Label Studio's own settings, and our record is gone.
    control_of(studio).ml.delete(first.backend_id)
    again = join(studio, made.id, backend)
    assert (again.former.sampling, again.former.model_version) == ("Sequential sampling", "")


def test_disconnecting_leaves_what_somebody_changed_since(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=2, sampling="Uniform sampling")
    connection = join(studio, made.id, backend)
    studio.update_project(made.id, sampling="Sequential sampling")
    disconnect(studio, connection)
    assert studio.project(made.id).sampling == "Sequential sampling"


def test_disconnecting_a_deleted_project_is_no_error(
    studio: Studio, project: MakeProject, backend: Backend
):
    made = project(tasks=1)
    connection = join(studio, made.id, backend)
    gone = Connection(**{**vars(connection), "project_id": 999_999})
    disconnect(studio, gone)
    renumbered = Connection(**{**vars(connection), "project_key": f"{made.id}.1"})
    disconnect(studio, renumbered)
    assert len(backends_of(studio, made.id)) == 1


def test_the_ranking_is_what_one_user_is_served(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=12)
    join(studio, made.id, backend)
    ranking = shuffled(studio, made.id, seed=5)
    publish(studio, made.id, "committee-v1.1", ranking)
    assert served(studio, made.id, 12) == ranking


def test_the_ranking_is_what_two_users_are_served_between_them(
    project: MakeProject, studio: Studio, second_studio: Studio, backend: Backend
):
    made = project(tasks=20)
    join(studio, made.id, backend)
    # Both have annotated here before: Label Studio may treat a project of several otherwise.
    ranking = shuffled(studio, made.id, seed=6)
    studio.annotate(ranking.pop(), [])
    second_studio.annotate(ranking.pop(), [])
    publish(studio, made.id, "committee-v1.1", ranking)
    got: list[int] = []
    hands = [studio, second_studio]
    held = [open_task(hand, made.id) for hand in hands]
    got += held
    turns = random.Random(2)
    for _ in range(len(ranking) - 2):
        who = turns.randrange(2)
        hands[who].annotate(held[who], [])
        held[who] = open_task(hands[who], made.id)
        got.append(held[who])
    assert got == ranking


def test_unranked_tasks_come_after_the_ranked_ones(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=8)
    join(studio, made.id, backend)
    ids = shuffled(studio, made.id, seed=7)
    publish(studio, made.id, "committee-v1.1", ids[:5])
    got = served(studio, made.id, 8)
    assert got[:5] == ids[:5]
    assert sorted(got) == sorted(ids)


def test_a_new_publication_takes_over_and_an_open_task_can_still_be_submitted(
    project: MakeProject, studio: Studio, second_studio: Studio, backend: Backend
):
    made = project(tasks=8)
    join(studio, made.id, backend)
    first = shuffled(studio, made.id, seed=8)
    publish(studio, made.id, "committee-v1.1", first)
    row = second_studio.next_task(made.id)
    assert row is not None
    assert row["id"] == first[0]
    (prediction,) = second_studio.predictions(row["id"])

    rest = first[:0:-1]
    publish(studio, made.id, "committee-v1.2", [*rest, row["id"]])
    submitted = second_studio.annotate(row["id"], [], parent_prediction=prediction["id"])
    assert submitted["parent_prediction"] == prediction["id"]
    assert served(studio, made.id, len(rest)) == rest


def test_a_publication_broken_off_between_two_posts_is_not_seen_and_the_next_one_serves(
    project: MakeProject, studio: Studio, backend: Backend, monkeypatch: pytest.MonkeyPatch
):
    made = project(tasks=4)
    join(studio, made.id, backend)
    first = shuffled(studio, made.id, seed=9)
    publish(studio, made.id, "committee-v1.1", first)
    call, posts = studio.call, 0

    def killed(method: str, path: str, **more: Any) -> Any:
        nonlocal posts
        posts += path.endswith("/import/predictions")
        if posts == 3:
            raise KeyboardInterrupt
        return call(method, path, **more)

    with monkeypatch.context() as during:
        during.setattr("backend.label_studio.bulk.BYTES_PER_POST", 1)  # each row goes alone
        during.setattr(studio, "call", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(studio, made.id, "committee-v1.2", first[::-1])
    assert studio.model_versions(made.id) == {"committee-v1.1": 4, "committee-v1.2": 2}
    assert studio.project(made.id).model_version == "committee-v1.1"
    assert served(studio, made.id, 1) == first[:1]

    rest = first[:0:-1]
    publish(studio, made.id, "committee-v1.3", rest)
    studio.delete_model_version(made.id, "committee-v1.2")  # as `clean` does
    assert studio.project(made.id).model_version == "committee-v1.3"
    assert served(studio, made.id, 3) == rest


@pytest.mark.parametrize("step", ["update_project", "create_view"])
def test_a_connect_that_is_refused_at_its_end_leaves_nothing(
    project: MakeProject,
    studio: Studio,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
):
    made = project(tasks=1, show_collab_predictions=False, min_annotations_to_start_training=7)

    def refuse(*_: Any, **__: Any) -> Any:
        monkeypatch.undo()
        raise StudioRefused("refused by the test", 500)

    monkeypatch.setattr(studio, step, refuse)
    with pytest.raises(StudioRefused, match="refused by the test"):
        join(studio, made.id, backend)
    assert (backends_of(studio, made.id), webhooks_of(studio, made.id)) == ([], [])
    assert [view for view in studio.views(made.id) if view["data"]["title"] == VIEW_TITLE] == []
    after = studio.project(made.id)
    ours = ("sampling", "model_version", "show_collab_predictions")
    for name in (*ours, "evaluate_predictions_automatically", "min_annotations_to_start_training"):
        assert after.settings[name] == made.settings[name], name


def test_the_data_manager_view_lists_the_same_order_unranked_last(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=9)
    connection = join(studio, made.id, backend)
    ids = shuffled(studio, made.id, seed=9)
    publish(studio, made.id, "committee-v1.1", sorted(ids))
    publish(studio, made.id, "committee-v1.2", ids[:6])
    backend.answers["/setup"] = {"model_version": "committee-v1.2"}
    backends_of(studio, made.id)
    rows = studio.get(
        "/api/tasks/", {"view": connection.view_id, "project": made.id, "include": "id"}
    )["tasks"]
    listed = [row["id"] for row in rows]
    assert listed[:6] == ids[:6]
    assert sorted(listed) == sorted(ids)


def test_a_reordered_view_is_mended_and_keeps_its_columns(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=1)
    connection = join(studio, made.id, backend)
    hidden = {"explore": ["tasks:id"], "labeling": []}
    data = {"title": VIEW_TITLE, "ordering": ["-tasks:id"], "hiddenColumns": hidden}
    studio.update_view(connection.view_id, made.id, data)
    assert set_order(studio, made.id, None) == connection.view_id
    (view,) = studio.views(made.id)
    assert view["data"]["ordering"] == ORDERING
    assert view["data"]["hiddenColumns"] == hidden


def test_a_version_without_predictions_cannot_order(project: MakeProject, studio: Studio):
    made = project(tasks=1, sampling="Sequential sampling")
    with pytest.raises(StudioRefused, match="Model version"):
        set_order(studio, made.id, "committee-v9.1")
    assert studio.project(made.id).sampling == "Sequential sampling"


def test_without_a_model_every_task_is_served_once(
    project: MakeProject, studio: Studio, backend: Backend
):
    made = project(tasks=6)
    join(studio, made.id, backend)
    assert sorted(served(studio, made.id, 6)) == [t.id for t in studio.tasks(made.id)]


def open_task(studio: Studio, project_id: int) -> int:
    row = studio.next_task(project_id)
    assert row is not None
    return int(row["id"])


def served(studio: Studio, project_id: int, count: int) -> list[int]:
    """The next ``count`` tasks, each submitted before the next is asked for."""
    got = []
    for _ in range(count):
        got.append(open_task(studio, project_id))
        studio.annotate(got[-1], [])
    return got
