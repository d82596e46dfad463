"""The doctor at a real Label Studio: each silent failure is brought about, found, and mended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from label_studio_sdk.types.webhook import Webhook
from redis import Redis
from sqlalchemy import update

from backend.actions.connect import connect_project
from backend.cli import cli
from backend.insight.findings import web as web_checks
from backend.insight.findings.examine import apply_fix, examine
from backend.insight.findings.finding import Finding, Installation
from backend.insight.findings.storage import check_redis
from backend.label_studio.bulk import Studio
from backend.label_studio.connection import basic_auth
from backend.label_studio.control import control_of
from backend.label_studio.queue_order import BY_RANK, TITLE, VIEW_TITLE, WITHOUT_MODEL, set_order
from backend.ledger import Event, Project, Publication, Round, upgrade
from backend.settings import load_settings
from backend.workplace import Workplace
from tests.backend import rows
from tests.backend.insight.findings.fake_web import PASSWORD, USER, Web
from tests.limits import scaled
from tests.live.conftest import BRUSH, MakeProject
from tests.live.harness.rows import backends_of, webhooks_of
from tests.live.harness.servers import (
    LabelStudio,
    ValkeyServer,
    free_port,
    start_label_studio,
)
from tests.live.harness.stack import Stack, draw_field, make_project

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

TASKS = 4

HEALTH_LIMIT_S = web_checks.HEALTH_LIMIT_S
"""What Label Studio gives our web."""


def wrong(findings: list[Finding]) -> dict[str, str]:
    return {f.code: f.severity for f in findings if f.severity != "ok"}


def publish(work: Workplace, row: Project, *, stored: int | None = None) -> str:
    """A publication that ranks every task of the project, as a round would leave it."""
    ids = [task.id for task in work.studio.tasks(row.studio_id)]
    round_ = Round(
        project_id=row.id,
        kind="rank",
        reason="a test's",
        stage="publish",
        state="succeeded",
        started_at=0.0,
        stage_started_at=0.0,
    )
    with work.ledger.database.write() as db:
        db.add(round_)
    publication = work.ledger.publications.prepare(
        row.id,
        1,
        round_.id,
        arm="predictive_entropy/image_mean",
        quantiles=[0.5],
        places=[rows.place(task_id, position) for position, task_id in enumerate(ids)],
    )
    name = str(publication.name)
    predictions = [
        {"task": task_id, "result": [], "score": (place + 0.5) / len(ids), "model_version": name}
        for place, task_id in enumerate(ids)
    ]
    assert work.studio.import_predictions(row.studio_id, predictions) == len(ids)
    set_order(work.studio, row.studio_id, name)
    work.ledger.publications.serve(publication.id, len(ids) if stored is None else stored)
    return name


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that others use as well makes our web slow, and the doctor would say so."""
    monkeypatch.setattr(web_checks, "HEALTH_LIMIT_S", scaled(HEALTH_LIMIT_S))


# A whole system, sound but for one thing


@pytest.fixture(scope="module")
def ranked(stack: Stack) -> int:
    """A connected project whose ranking is served."""
    made = make_project(stack, "doctor", TASKS)
    publish(stack.work, stack.work.ledger.projects.get(made.row_id))
    return made.id


def test_a_sound_system_is_well(stack: Stack, ranked: int):
    found = examine(stack.work, [ranked])
    assert wrong(found) == {}
    assert {"studio", "token", "ledger", "web", "redis", "workers", "disk"} <= {
        f.code for f in found if f.project is None
    }
    assert {"connection", "webhook", "order", "images", "locks"} == {
        f.code for f in found if f.project == ranked
    }


def test_looking_changes_nothing(stack: Stack, ranked: int):
    studio = stack.work.studio

    def state() -> list[Any]:
        backends = [b.model_copy(update={"updated_at": None}) for b in backends_of(studio, ranked)]
        return [
            studio.project(ranked),
            backends,
            webhooks_of(studio, ranked),
            studio.views(ranked),
        ]

    before = state()
    examine(stack.work, [ranked])
    assert state() == before


def hook_of(studio: Studio, project: int) -> Webhook:
    return webhooks_of(studio, project)[0]


def change_hook(**fields: Any) -> Callable[[Studio, int], object]:
    def change(studio: Studio, project: int) -> object:
        hook = hook_of(studio, project)
        return control_of(studio).webhooks.update(hook.id, url=hook.url, **fields)

    return change


def double_hook(studio: Studio, project: int) -> object:
    hook = hook_of(studio, project)
    return control_of(studio).webhooks.create(project=project, url=hook.url, headers=hook.headers)


def double_connection(studio: Studio, project: int) -> object:
    return control_of(studio).ml.create(
        project=project,
        url=backends_of(studio, project)[0].url,
        title="again",
        auth_method="BASIC_AUTH",
        basic_auth_user="committee",
        basic_auth_pass="throwaway-3",
        extra_params={},
    )


def change_project(**fields: Any) -> Callable[[Studio, int], object]:
    return lambda studio, project: studio.update_project(project, **fields)


def our_view(studio: Studio, project: int) -> dict[str, Any]:
    return next(v for v in studio.views(project) if v["data"]["title"] == VIEW_TITLE)


def turn_view(studio: Studio, project: int) -> object:
    view = our_view(studio, project)
    return studio.update_view(view["id"], project, {**view["data"], "ordering": ["tasks:id"]})


BREAK: dict[str, tuple[str, Callable[[Studio, int], object]]] = {
    "order-random": ("error", change_project(model_version=TITLE)),
    "sampling-off": ("error", change_project(sampling="Sequential sampling")),
    "predictions-hidden": ("error", change_project(show_collab_predictions=False)),
    "training-in-submit": ("warning", change_project(min_annotations_to_start_training=5)),
    "predictions-in-listing": ("warning", change_project(evaluate_predictions_automatically=True)),
    "webhook-missing": ("error", lambda s, p: control_of(s).webhooks.delete(hook_of(s, p).id)),
    "webhook-double": ("error", double_hook),
    "webhook-without-password": ("error", change_hook(headers={})),
    "webhook-password": ("error", change_hook(headers={"authorization": "Basic bm86bm8="})),
    # As the last release left it.
    "webhook-shares-password": (
        "warning",
        change_hook(headers={"Authorization": basic_auth("committee", "throwaway-3")}),
    ),
    "webhook-inactive": ("error", change_hook(is_active=False)),
    "webhook-empty": ("error", change_hook(send_payload=False)),
    "webhook-events": (
        "error",
        change_hook(send_for_all_actions=False, actions=["ANNOTATION_CREATED"]),
    ),
    "not-connected": ("error", lambda s, p: control_of(s).ml.delete(backends_of(s, p)[0].id)),
    "connection-double": ("error", double_connection),
    "view-missing": ("warning", lambda s, p: control_of(s).views.delete(str(our_view(s, p)["id"]))),
    "view-order": ("warning", turn_view),
}


# Label Studio clears the model_version itself when it is told to hide predictions.
WITH = {"predictions-hidden": {"order-random": "error"}}


@pytest.mark.parametrize("code", BREAK)
def test_it_is_found_alone_and_mended(stack: Stack, ranked: int, code: str):
    severity, break_it = BREAK[code]
    break_it(stack.work.studio, ranked)
    found = [f for f in examine(stack.work, [ranked]) if f.severity != "ok"]
    said = [apply_fix(stack.work, finding) for finding in found]
    assert wrong(found) == {code: severity, **WITH.get(code, {})}
    assert {(f.project, f.fixable) for f in found} == {(ranked, True)}
    assert all(sentence.startswith(f"Project {ranked}: ") for sentence in said)


def test_all_of_it_is_mended(stack: Stack, ranked: int):
    """The cases above follow each other: each finds nothing but its own, so those before it are
    mended; this one tells of the last."""
    assert wrong(examine(stack.work, [ranked])) == {}


def test_the_command_mends_and_tells_by_its_exit_status(
    stack: Stack, ranked: int, monkeypatch: pytest.MonkeyPatch
):
    settings = stack.settings
    for name, value in {
        "DATA_DIR": settings.data_dir,
        "BACKEND_URL": settings.backend_url,
        "LABEL_STUDIO_URL": stack.label_studio.url,
        "LABEL_STUDIO_API_KEY": stack.label_studio.api_key,
        "REDIS_URL": stack.valkey.url,
        "BASIC_AUTH_USER": stack.auth[0],
        "BASIC_AUTH_PASS": stack.auth[1],
    }.items():
        monkeypatch.setenv(name, str(value))
    stack.work.studio.update_project(ranked, model_version="")
    command = ["doctor", "--project", str(ranked), "--json"]
    sick = CliRunner().invoke(cli, command)
    assert sick.exit_code == 1
    errors = [f for f in json.loads(sick.stdout) if f["severity"] == "error"]
    assert [f["code"] for f in errors] == ["order-random"]
    mended = CliRunner().invoke(cli, [*command, "--fix"])
    assert mended.exit_code == 0
    assert "in the order of committee-v1.1" in mended.stderr
    for secret in (stack.auth[1], stack.label_studio.api_key):
        assert secret not in sick.output + mended.output


def test_all_connected_projects_are_looked_at_unless_one_is_named(stack: Stack, ranked: int):
    second = make_project(stack, "doctor second", 1).id
    found = examine(stack.work)
    assert {f.project for f in found} == {None, ranked, second}
    assert "sampling-without-model" not in wrong(found)


def test_lost_predictions_have_the_pool_ranked_anew(stack: Stack):
    made = make_project(stack, "doctor gone", 2)
    row = stack.work.ledger.projects.get(made.row_id)
    stack.work.studio.delete_model_version(made.id, publish(stack.work, row))
    found = [f for f in examine(stack.work, [made.id]) if f.code == "predictions-gone"]
    assert [(f.severity, f.fixable) for f in found] == [("error", True)]
    assert "ranked anew" in apply_fix(stack.work, found[0])
    assert made.serving() is None
    assert stack.work.studio.project(made.id).sampling == WITHOUT_MODEL
    assert wrong(examine(stack.work, [made.id])) == {}


def test_dropped_predictions_are_found_but_not_those_of_deleted_tasks(stack: Stack):
    made = make_project(stack, "doctor dropped", 3)
    name = publish(stack.work, stack.work.ledger.projects.get(made.row_id))
    control_of(stack.work.studio).tasks.delete(str(made.tasks[0]))
    assert wrong(examine(stack.work, [made.id])) == {}
    found = stack.work.studio.predictions(made.tasks[1])
    (prediction,) = [p for p in found if p["model_version"] == name]
    requests.delete(
        f"{stack.label_studio.url}/api/predictions/{prediction['id']}/",
        headers={"Authorization": f"Token {stack.label_studio.api_key}"},
        timeout=30,
    ).raise_for_status()
    assert wrong(examine(stack.work, [made.id])) == {"predictions-dropped": "error"}


def test_predictions_that_were_dropped_at_once_are_found(stack: Stack):
    made = make_project(stack, "doctor dropped at once", 2)
    publish(stack.work, stack.work.ledger.projects.get(made.row_id), stored=1)
    assert wrong(examine(stack.work, [made.id])) == {"predictions-dropped": "error"}


def test_a_publication_on_its_way_is_no_random_order(stack: Stack):
    made = make_project(stack, "doctor on its way", 2)
    row = stack.work.ledger.projects.get(made.row_id)
    publish(stack.work, row)
    name = publish(stack.work, row)
    with stack.work.ledger.database.write() as db:
        for number, state in ((2, "prepared"), (1, "serving")):
            db.execute(
                update(Publication)
                .where(
                    Publication.project_id == row.id,
                    Publication.version == 1,  # the first queue, without one, is superseded
                    Publication.n == number,
                )
                .values(state=state)
            )
    assert stack.work.studio.project(made.id).model_version == name
    assert wrong(examine(stack.work, [made.id])) == {}


def test_overlap_and_a_pause_and_failing_rounds_are_told(stack: Stack):
    made = make_project(stack, "doctor told", 1)
    stack.work.studio.update_project(made.id, maximum_annotations=2)
    stack.work.ledger.projects.update(
        made.row_id, paused=True, last_error="fit: the loss is not finite.", failures=3
    )
    found = examine(stack.work, [made.id])
    assert wrong(found) == {"overlap": "warning", "paused": "warning", "round-failing": "error"}
    (failing,) = [f for f in found if f.code == "round-failing"]
    assert "the loss is not finite" in failing.what
    stack.work.ledger.projects.update(made.row_id, failures=1)
    assert wrong(examine(stack.work, [made.id]))["last-error"] == "warning"


def test_labels_that_no_webhook_told_of_are_noticed(stack: Stack):
    made = make_project(stack, "doctor deaf", 1)
    studio, ledger = stack.work.studio, stack.work.ledger
    ledger.events.add(made.row_id, "TASKS_CREATED")
    control_of(studio).webhooks.delete(hook_of(studio, made.id).id)
    studio.annotate(made.tasks[0], [])
    assert "events-lost" not in wrong(examine(stack.work, [made.id]))
    with ledger.database.write() as db:
        ours = Event.project_id == made.row_id
        db.execute(update(Event).where(ours).values(received_at=Event.received_at - 1000))
    assert wrong(examine(stack.work, [made.id])) == {
        "webhook-missing": "error",
        "events-lost": "warning",
    }


def test_tasks_that_were_passed_over_are_noticed(stack: Stack):
    made = make_project(stack, "doctor passed", 30)
    publish(stack.work, stack.work.ledger.projects.get(made.row_id))
    for task_id in made.tasks[-10:]:
        stack.work.studio.annotate(task_id, [])
    found = examine(stack.work, [made.id])
    assert wrong(found) == {"passed-over": "warning"}
    (passed,) = [f for f in found if f.code == "passed-over"]
    assert passed.what.startswith("20 tasks")


# A web that answers as told: connections that fail


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


Place = Callable[..., Workplace]


@pytest.fixture
def place(tmp_path: Path, label_studio: LabelStudio, web: Web) -> Iterator[Place]:
    """``place(**settings)`` opens a workplace without workers and Redis."""
    opened: list[Workplace] = []

    def make(**fields: Any) -> Workplace:
        given: dict[str, Any] = {
            "data_dir": tmp_path / "data",
            "label_studio_url": label_studio.url,
            "label_studio_api_key": label_studio.api_key,
            "redis_url": f"redis://127.0.0.1:{free_port()}/0",
            "backend_url": web.url,
            "basic_auth_user": USER,
            "basic_auth_pass": PASSWORD,
            **fields,
        }
        settings = load_settings(_env_file=None, **given)
        upgrade(settings.ledger_url)
        opened.append(Workplace(settings))
        return opened[-1]

    yield make
    for work in opened:
        work.studio.close()
        work.close()


def of_project(work: Workplace, project: int) -> dict[str, str]:
    return wrong([f for f in examine(work, [project]) if f.project == project])


def mend_all(work: Workplace, project: int) -> None:
    for finding in examine(work, [project]):
        if finding.fixable:
            apply_fix(work, finding)


def test_a_password_that_changed_is_found_and_mended(place: Place, web: Web, project: MakeProject):
    made = project()
    connect_project(place(), made.id)
    web.password = basic_auth(USER, "changed")
    work = place(basic_auth_pass="changed")
    assert of_project(work, made.id) == {"connection-password": "error"}
    mend_all(work, made.id)
    assert of_project(work, made.id) == {}


def test_a_connection_without_password_is_found_and_mended(
    place: Place, web: Web, project: MakeProject
):
    made, work = project(), place()
    connect_project(work, made.id)
    (there,) = backends_of(work.studio, made.id)
    web.also = (None,)
    control_of(work.studio).ml.update(there.id, project=made.id, url=there.url, auth_method="NONE")
    web.also = ()
    assert of_project(work, made.id) == {"connection-without-password": "error"}
    mend_all(work, made.id)
    assert of_project(work, made.id) == {}


def test_a_slow_web_is_down_for_label_studio(
    place: Place, web: Web, project: MakeProject, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(web_checks, "HEALTH_LIMIT_S", HEALTH_LIMIT_S)
    made, work = project(), place()
    connect_project(work, made.id)
    web.slow_s = HEALTH_LIMIT_S + 0.3
    found = wrong(examine(work, [made.id]))
    assert found["connection-down"] == "error"
    assert found["web-slow"] == "error"


def test_an_address_that_changed_is_found_and_mended(place: Place, web: Web, project: MakeProject):
    made = project()
    connect_project(place(), made.id)
    moved = Web()
    work = place(backend_url=moved.url)
    assert of_project(work, made.id) == {
        "connection-elsewhere": "error",
        "webhook-missing": "error",
    }
    mend_all(work, made.id)
    assert of_project(work, made.id) == {}
    moved.close()


def test_a_project_that_nobody_connected_can_be_connected(place: Place, project: MakeProject):
    made, work = project(), place()
    assert of_project(work, made.id)["not-connected"] == "error"
    mend_all(work, made.id)
    assert of_project(work, made.id) == {}


def test_another_backend_before_us_takes_the_predictions(
    place: Place, web: Web, project: MakeProject
):
    made, work = project(), place()
    other = Web()
    other.also = (None,)
    theirs = control_of(work.studio).ml.create(project=made.id, url=other.url, title="theirs")
    connect_project(work, made.id)
    assert of_project(work, made.id) == {"backend-not-first": "error"}
    control_of(work.studio).ml.delete(theirs.id)
    control_of(work.studio).ml.create(project=made.id, url=other.url, title="theirs")
    assert of_project(work, made.id) == {"several-backends": "warning"}
    other.close()


def test_a_host_that_label_studio_does_not_know_is_told(place: Place, project: MakeProject):
    made = project()
    found = examine(place(backend_url="http://committee.invalid:9090"), [made.id])
    assert wrong(found)["backend-url-unknown"] == "error"


def test_a_fair_sample_is_asked_for_before_anything_is_ranked(place: Place, project: MakeProject):
    made, work = project(), place()
    connect_project(work, made.id)
    work.studio.update_project(made.id, sampling=BY_RANK)
    assert of_project(work, made.id) == {"sampling-without-model": "warning"}
    mend_all(work, made.id)
    assert work.studio.project(made.id).sampling == WITHOUT_MODEL


def test_options_that_are_not_known_are_told_by_name(place: Place, project: MakeProject):
    made, work = project(), place()
    connect_project(work, made.id)
    (there,) = backends_of(work.studio, made.id)
    control_of(work.studio).ml.update(
        there.id,
        project=made.id,
        url=there.url,
        auth_method="BASIC_AUTH",
        basic_auth_user=USER,
        basic_auth_pass=PASSWORD,
        extra_params={"arch": "unet"},
    )
    found = [f for f in examine(work, [made.id]) if f.code == "bad-options"]
    assert [f.severity for f in found] == ["error"]
    assert "arch" in found[0].what


TWO_IMAGES = """<View><Image name="left" value="$a"/><Image name="right" value="$b"/>
<BrushLabels name="tag" toName="left"><Label value="Cell"/></BrushLabels></View>"""
RECTANGLES = """<View><Image name="image" value="$image"/>
<RectangleLabels name="tag" toName="image"><Label value="Cell"/></RectangleLabels></View>"""


@pytest.mark.parametrize(
    ("config", "word"), [(TWO_IMAGES, "2 Image tags"), (RECTANGLES, "RectangleLabels")]
)
def test_a_labeling_configuration_without_use_is_told(
    place: Place, project: MakeProject, config: str, word: str
):
    made, work = project(label_config=config), place()
    found = [f for f in examine(work, [made.id]) if f.code == "label-config"]
    assert len(found) == 1
    assert word in found[0].what
    assert ("--options" in found[0].fix) == (config == TWO_IMAGES)


def test_images_that_cannot_be_used_are_told_by_kind(
    place: Place, project: MakeProject, studio: Studio
):
    made = project(
        rows=[
            {"image": "https://images.test/1.png"},
            {"image": "/data/upload/0/none.png"},
            {"image": ""},
        ]
    )
    studio.upload(made.id, [("field.png", draw_field(0)[0]), ("text.png", b"this is no image")])
    work = place()
    connect_project(work, made.id)
    found = [f for f in examine(work, [made.id]) if f.project == made.id]
    assert wrong(found) == {
        "task-without-image": "warning",
        "image-host": "error",
        "image-refused": "error",
        "image-unreadable": "error",
    }
    assert "ALLOWED_IMAGE_HOSTS" in next(f.fix for f in found if f.code == "image-host")


def test_a_deleted_project_is_gone(place: Place, project: MakeProject, studio: Studio):
    work = place()
    assert of_project(work, 999_999) == {"project-gone": "error"}


def test_no_project_at_all_is_a_warning(place: Place):
    assert wrong(examine(place()))["no-project"] == "warning"


# Label Studio itself


@pytest.mark.parametrize("kind", ["legacy token", "personal access token"])
def test_a_dead_token_is_told_by_its_kind(place: Place, access_token: str, kind: str):
    dead = "f" * 40 if kind == "legacy token" else access_token[:-4] + "AAAA"
    every = examine(place(label_studio_api_key=dead))
    found = [f for f in every if f.code == "token-dead"]
    assert found, every
    assert [f.severity for f in found] == ["error"]
    assert kind in found[0].what
    assert "LABEL_STUDIO_API_KEY" in found[0].fix
    assert dead not in str(found)


def test_blocked_private_addresses_are_told_by_their_settings(
    label_studio_template: Path, tmp_path: Path, place: Place, web: Web
):
    port = free_port()
    server = start_label_studio(tmp_path / "server", template=label_studio_template, port=port)
    work = place(label_studio_url=server.url, label_studio_api_key=server.api_key)
    made = control_of(work.studio).projects.create(title="guarded", label_config=BRUSH)
    connect_project(work, made.id)
    assert of_project(work, made.id) == {}
    server.stop()
    # Its own guard, which bans the loopback too.
    guard = {"LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "true"}
    guards = ("ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED")
    server = start_label_studio(tmp_path / "server", port=port, environment=guard)
    found = [f for f in examine(work, [made.id]) if f.project == made.id]
    assert wrong(found) == {"connection-down": "error", "private-address-blocked": "error"}
    blocked = [f for f in found if f.code == "private-address-blocked"]
    assert all(f"{name}=false" in found.fix for name, found in zip(guards, blocked, strict=True))
    server.stop()


# Redis


def test_a_redis_that_evicts_is_an_error(place: Place, valkey: ValkeyServer):
    work = place(redis_url=valkey.url)
    assert [f.code for f in check_redis(Installation(work))] == ["redis"]
    with Redis.from_url(valkey.url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        redis.config_set("maxmemory", "100mb")
        assert [f.code for f in check_redis(Installation(work))] == ["redis-evicts"]
        redis.config_set("requirepass", "another")
    work.redis.connection_pool.disconnect()
    assert [f.code for f in check_redis(Installation(work))] == ["redis-password"]
    work.redis.close()
