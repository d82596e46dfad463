"""Nothing of one project reaches another: two projects, two servers, one ledger, one registry."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flask.testing import FlaskClient
from redis import Redis
from rq.serializers import JSONSerializer

from backend.insight.status import status
from backend.jobs import jobs
from backend.jobs.clock import Clock
from backend.jobs.queue import open_queues
from backend.jobs.safe_job import SafeJob
from backend.ledger import Ledger
from backend.ledger.projects import project_slug
from backend.predict import predict_tasks
from backend.workplace import Workplace
from tests.backend.workplaces import PASSWORD, USER, brush_config, open_client, open_workplace
from tests.live.harness.servers import ValkeyServer
from training.committee.registry import Registry, UnknownVersion
from training.config import TrainConfig
from training.networks.build import build_network

HERE, THERE = "http://studio-a.test", "http://studio-b.test"
CREATED = 1795468845
CONFIG = brush_config("Cell")


@pytest.fixture
def here(tmp_path: Path, valkey: ValkeyServer) -> Iterator[Workplace]:
    with open_workplace(tmp_path, label_studio_url=HERE, redis_url=valkey.url) as work:
        yield work


@pytest.fixture
def there(here: Workplace, tmp_path: Path, valkey: ValkeyServer) -> Iterator[Workplace]:
    """Another Label Studio's workplace on the same ledger, registry and Valkey."""
    with open_workplace(tmp_path, label_studio_url=THERE, redis_url=valkey.url) as work:
        yield work


@pytest.fixture
def client(here: Workplace) -> Iterator[FlaskClient]:
    with open_client(here.settings) as opened:
        yield opened


def post(client: FlaskClient, path: str, body: Any) -> Any:
    answer = client.post(
        path, data=json.dumps(body), auth=(USER, PASSWORD), content_type="application/json"
    )
    assert answer.status_code in (200, 201), answer.text
    return answer.json


def serve(ledger: Ledger, project_id: int, version: int) -> str:
    """Make a publication of this version serve; its name."""
    round_ = ledger.rounds.start(project_id, "rank", "a test", "publish", {})
    assert round_ is not None
    publication = ledger.publications.prepare(
        project_id, version, round_.id, arm="", quantiles=[], places=[]
    )
    ledger.publications.serve(publication.id, 0)
    ledger.rounds.fail(round_.id, "the test needs it no more")
    return str(publication.name)


# Keys and names


def test_the_same_numbers_on_two_servers_are_two_projects(here: Workplace) -> None:
    ledger = here.ledger
    a = ledger.projects.ensure(HERE, 1, CREATED, title="ours", label_config=CONFIG)
    b = ledger.projects.ensure(THERE, 1, CREATED, title="theirs", label_config="")
    assert a.id != b.id
    assert a.slug != b.slug
    assert ledger.projects.get(a.id).label_config == CONFIG
    assert ledger.projects.of_studio(THERE, 1).id == b.id


def test_a_number_given_anew_is_another_project(here: Workplace) -> None:
    old = here.ledger.projects.ensure(HERE, 1, CREATED)
    new = here.ledger.projects.ensure(HERE, 1, CREATED + 1)
    assert (old.id, old.slug) != (new.id, new.slug)


def test_slugs_are_names_that_lead_nowhere_and_do_not_collide(tmp_path: Path) -> None:
    servers = (HERE, THERE, f"{HERE}/", "http://x/../../etc", "http://studio-a.test:8080", "a\0b")
    keys = itertools.product(servers, (1, 11, 12), (1, 11, 111))
    slugs = [project_slug(*key) for key in keys]
    assert len(set(slugs)) == len(slugs)
    for slug in slugs:
        folder = Registry(tmp_path).version_path(slug, 1)
        assert folder.resolve().parent.parent.parent == tmp_path.resolve()


def test_ids_that_run_into_each_other_do_not(here: Workplace) -> None:
    """1.23 and 12.3: numbers are joined by a sign that neither holds."""
    assert project_slug(HERE, 1, 23) != project_slug(HERE, 12, 3)


# The web


def test_an_event_of_one_project_is_not_anothers(client: FlaskClient, here: Workplace) -> None:
    """A webhook of project 1 that names annotations of project 2 only makes us look at 1."""
    a = here.ledger.projects.ensure(HERE, 1, CREATED)
    b = here.ledger.projects.ensure(HERE, 2, CREATED)
    stamp = "2026-11-23T21:20:45Z"
    body = {
        "action": "ANNOTATION_CREATED",
        "project": {"id": 1, "created_at": stamp, "label_config": CONFIG},
        "task": {"id": 900, "project": 2},
        "annotation": {"id": 77, "project": 2, "task": 900, "result": []},
    }
    post(client, "/webhook", body)
    owners = [p.id for p in here.ledger.projects.all() if here.ledger.events.pending(p.id)]
    assert b.id not in owners
    (owner,) = owners
    assert here.ledger.projects.get(owner).studio_id == 1
    assert a.server == here.ledger.projects.get(owner).server == HERE
    assert here.ledger.projects.get(b.id).label_config == ""


def test_setup_and_predict_tell_of_their_own_project_alone(
    client: FlaskClient, here: Workplace
) -> None:
    a = here.ledger.projects.ensure(HERE, 1, CREATED, label_config=CONFIG)
    here.ledger.projects.ensure(HERE, 2, CREATED, label_config=CONFIG)
    name = serve(here.ledger, a.id, version=0)
    asked = {"schema": CONFIG, "hostname": HERE}
    assert post(client, "/setup", {"project": f"1.{CREATED}", **asked}) == {"model_version": name}
    assert post(client, "/setup", {"project": f"2.{CREATED}", **asked}) == {
        "model_version": "untrained"
    }
    # Project 2 names tasks of project 1: it is answered by what project 2 has, which is nothing.
    tasks = [{"id": 5, "project": 1, "data": {"image": "/data/upload/1/x.png"}}]
    body = {"tasks": tasks, "project": f"2.{CREATED}", "label_config": CONFIG}
    assert post(client, "/predict", body) == {"results": [[]]}


def test_a_predict_looks_with_the_version_of_the_project_that_asks(here: Workplace) -> None:
    """Versions of both are numbered 1, and only project 1 has one."""
    a = here.ledger.projects.ensure(HERE, 1, CREATED, label_config=CONFIG)
    b = here.ledger.projects.ensure(HERE, 2, CREATED, label_config=CONFIG)
    config = TrainConfig(("background", "Cell"), members=1, network="unet")
    torch.manual_seed(1)
    weights = [build_network(config).state_dict()]
    here.registry.save_version(a.slug, 1, weights, config, {}, {"temperature": 1.0})
    serve(here.ledger, b.id, version=1)
    publication = here.ledger.publications.serving(b.id)
    assert publication is not None
    with pytest.raises(UnknownVersion, match=b.slug):
        predict_tasks(here, b, publication, [(5, {"image": "/data/upload/1/x.png"})])


def test_publications_evidence_and_rounds_are_told_by_project(here: Workplace) -> None:
    ledger = here.ledger
    a = ledger.projects.ensure(HERE, 1, CREATED)
    b = ledger.projects.ensure(THERE, 1, CREATED)
    serve(ledger, a.id, version=0)
    ledger.rounds.start(a.id, "rank", "only in A", "choose", {})
    assert ledger.publications.all(b.id) == []
    assert ledger.publications.serving(b.id) is None
    assert ledger.evidence.all(b.id) == []
    assert ledger.rounds.active(b.id) is None
    assert ledger.rounds.last(b.id) is None
    ledger.projects.forget(b.id)
    assert len(ledger.publications.all(a.id)) == 1
    assert ledger.rounds.active(a.id) is not None


def test_status_of_one_project_holds_nothing_of_another(here: Workplace) -> None:
    a = here.ledger.projects.ensure(HERE, 1, CREATED, title="Patients of ward 7")
    here.ledger.projects.ensure(HERE, 2, CREATED, title="Urine")
    here.ledger.projects.update(a.id, last_error="a sentence about ward 7")
    assert "ward 7" not in json.dumps(status(here.ledger, 2).to_json())


def test_versions_names_publications_by_number_alone(client: FlaskClient, here: Workplace) -> None:
    """Label Studio asks for versions without saying for which project: so a name tells no more
    than that some project has a version of this number."""
    a = here.ledger.projects.ensure(HERE, 1, CREATED, title="Patients of ward 7")
    name = serve(here.ledger, a.id, version=0)
    answer = client.get("/versions", auth=(USER, PASSWORD))
    assert answer.json == {"versions": [name]}
    assert "ward" not in answer.text
    assert a.slug not in answer.text


# Workers: the ledger of two servers


def jobs_in(redis: Redis, work: Workplace) -> set[tuple[str, int]]:
    ids = [job_id for queue in open_queues(work).values() for job_id in queue.get_job_ids()]
    found = (SafeJob.fetch(i, redis, serializer=JSONSerializer) for i in ids)
    return {(str(job.func_name).rpartition(".")[2], job.args[0]) for job in found}


def test_a_clock_serves_the_projects_of_its_own_server(
    here: Workplace, there: Workplace, redis: Redis
) -> None:
    """Project 1 there, asked of the server here, would be another laboratory's project 1."""
    a = here.ledger.projects.ensure(HERE, 1, CREATED)
    b = here.ledger.projects.ensure(THERE, 1, CREATED)
    for project in (a, b):
        assert here.ledger.rounds.start(project.id, "rank", "a test", "choose", {}) is not None
        here.ledger.events.add(project.id, "PREDICT_REST", [5])
    waiting = here.ledger.parts.waiting()
    parts = {here.ledger.rounds.get(part.round_id).project_id: part.id for part in waiting}
    Clock(here).tick()
    assert jobs_in(redis, here) == {("run_part", parts[a.id]), ("predict_rest", a.id)}
    redis.flushall()
    Clock(there).tick()
    assert jobs_in(redis, there) == {("run_part", parts[b.id]), ("predict_rest", b.id)}


def test_a_worker_leaves_another_servers_jobs_alone(
    here: Workplace,
    there: Workplace,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever queued them: both may share a Redis, and anybody with Redis can write any number."""
    b = here.ledger.projects.ensure(THERE, 1, CREATED)
    here.ledger.rounds.start(b.id, "rank", "a test", "choose", {})
    (part,) = here.ledger.parts.waiting()
    before = here.ledger.projects.get(b.id)
    monkeypatch.setattr(jobs, "load_settings", lambda: here.settings)
    jobs.run_part(part.id)
    jobs.check(b.id)
    jobs.clean(b.id)
    jobs.predict_rest(b.id, here.ledger.events.add(b.id, "PREDICT_REST", [5]))
    (after,) = here.ledger.parts.waiting()
    assert (after.state, after.attempts) == ("waiting", 0)
    assert here.ledger.projects.get(b.id) == before
    assert caplog.text.count(f"is of {THERE}") == 3
    # Its own workers take it.
    assert there.ledger.parts.take(part.id, "lab", THERE) is not None
