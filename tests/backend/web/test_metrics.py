"""/metrics: who may read it, what it says, and what stands in the dashboard and the alert rules."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from ruamel.yaml import YAML

from backend.ledger import Ledger
from backend.options import FALLBACK
from backend.redis_queue import QUEUES, TRAIN
from backend.settings import ROOT
from backend.web.latency import Latencies
from backend.workplace import Workplace
from tests.backend.web.dashboard.filled import fill
from tests.backend.workplaces import PASSWORD, USER, make_settings, open_client
from tests.live.harness.servers import ValkeyServer

TOKEN = "scrape-me-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BASIC = {"Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
MONITORING = ROOT / "docker" / "monitoring"

Samples = dict[str, list[tuple[dict[str, str], float]]]


@pytest.fixture
def client(tmp_path: Path, valkey: ValkeyServer, redis: Redis) -> Iterator[FlaskClient]:
    settings = make_settings(tmp_path, metrics_token=TOKEN, redis_url=valkey.url)
    with open_client(settings) as opened:
        yield opened


@pytest.fixture
def work(client: FlaskClient) -> Workplace:
    work: Workplace = client.application.extensions["committee"]
    return work


def scrape(client: FlaskClient) -> Samples:
    answer = client.get("/metrics", headers=BEARER)
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=")
    found: Samples = {}
    for family in text_string_to_metric_families(answer.get_data(as_text=True)):
        assert family.documentation, family.name
        found.setdefault(family.name, [])
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    """The only sample that has these labels."""
    (found,) = [number for of, number in samples[name] if labels.items() <= of.items()]
    return found


def test_the_token_opens_metrics_and_nothing_else(client: FlaskClient) -> None:
    assert client.get("/metrics", headers=BEARER).status_code == 200
    assert client.get("/metrics", headers=BASIC).status_code == 200
    assert client.get("/metrics").status_code == 401
    for wrong in (f"Bearer {TOKEN}x", f"bearer {TOKEN}", "Bearer ", "Bearer ÿ"):
        assert client.get("/metrics", headers={"Authorization": wrong}).status_code == 401
    assert client.get("/versions", headers=BEARER).status_code == 401
    assert client.post("/webhook", headers=BEARER, json={}).status_code == 401


def test_without_a_token_set_none_is_taken(tmp_path: Path) -> None:
    with open_client(make_settings(tmp_path)) as client:
        for header in ("Bearer ", "Bearer None", "Bearer"):
            assert client.get("/metrics", headers={"Authorization": header}).status_code == 401


def test_the_facts_of_the_ledger(client: FlaskClient, work: Workplace) -> None:
    row = fill(work, rounds=8, tasks=60)
    work.ledger.rounds.start(row.id, "train", "test", "collect")
    work.ledger.events.add(row.id, "ANNOTATION_CREATED", [1])
    work.ledger.processes.beat("web-1", "web", "here", "host", 1)
    samples = scrape(client)
    of = {"project": row.slug}
    promoted = work.ledger.versions.promoted(row.id)
    assert promoted is not None
    assert value(samples, "committee_project_info", number="7", **of) == 1
    assert value(samples, "committee_labels", **of) == 80
    ended = {"kind": "train", "stage": "publish", "outcome": "succeeded"}
    assert value(samples, "committee_rounds_total", **ended, **of) == 8
    assert value(samples, "committee_round_active_seconds", stage="collect", **of) >= 0
    assert value(samples, "committee_stage_seconds", stage="fit", **of) > 0
    assert value(samples, "committee_parts", stage="collect", state="waiting", **of) == 1
    assert value(samples, "committee_part_wait_seconds", **of) >= 0
    assert value(samples, "committee_events", **of) == 1
    assert value(samples, "committee_versions", state="kept", **of) == 1
    assert value(samples, "committee_version", **of) == promoted.number
    dice = promoted.metrics["foreground_dice"]
    assert value(samples, "committee_foreground_dice", **of) == pytest.approx(dice)
    audit = promoted.metrics["audit"]
    assert audit is not None
    assert value(samples, "committee_audit_images", **of) == audit["images"]
    low = audit["foreground_dice"]["low"]
    assert value(samples, "committee_audit_dice", end="low", **of) == pytest.approx(low)
    assert value(samples, "committee_queue_length", **of) == 60
    assert value(samples, "committee_ranking_by_chance", **of) == 0
    assert value(samples, "committee_processes", role="web") == 1
    assert value(samples, "committee_processes", role="worker") == 0
    assert value(samples, "committee_ledger_up") == 1


def test_a_fallback_to_chance_is_told(client: FlaskClient, work: Workplace) -> None:
    row = fill(work, rounds=1, tasks=2)
    with work.ledger.database.write() as db:
        serving = work.ledger.publications.serving(row.id)
        assert serving is not None
        serving.mode = FALLBACK
        db.merge(serving)
    assert value(scrape(client), "committee_ranking_by_chance", project=row.slug) == 1


def test_what_all_processes_count_is_told(
    client: FlaskClient, work: Workplace, valkey: ValkeyServer, redis: Redis, tmp_path: Path
) -> None:
    other = Workplace(make_settings(tmp_path / "worker", redis_url=valkey.url))
    for each in (work, other):
        each.counters.add("label_studio_errors", "unreachable")
        each.counters.observe("part_seconds", ("fit", "done"), 4.0)
    other.counters.observe("part_seconds", ("fit", "done"), 9000.0)
    other.counters.add("fallbacks", "project|1")
    other.close()
    redis.rpush("rq:queue:committee-train", "part-1-0")
    redis.hset("committee:counters", "label_studio_errors|500|x", "nonsense")
    redis.hset("committee:counters", b"\xff", "1")
    samples = scrape(client)
    assert value(samples, "committee_label_studio_errors_total", error="unreachable") == 2
    assert value(samples, "committee_fallbacks_total", project="project_1") == 1
    assert value(samples, "committee_mlflow_failures_total") == 0
    fit = {"stage": "fit", "outcome": "done"}
    assert value(samples, "committee_part_seconds_count", **fit) == 3
    assert value(samples, "committee_part_seconds_bucket", le="3.0", **fit) == 0
    assert value(samples, "committee_part_seconds_bucket", le="10.0", **fit) == 2
    assert value(samples, "committee_part_seconds_bucket", le="3600.0", **fit) == 2
    assert value(samples, "committee_part_seconds_sum", **fit) == 9008
    assert {labels["queue"]: jobs for labels, jobs in samples["committee_jobs_queued"]} == {
        **dict.fromkeys(QUEUES, 0),
        TRAIN: 1,
    }


def test_the_latency_of_requests_by_route_and_outcome(client: FlaskClient) -> None:
    assert client.post("/predict", headers=BASIC, json=[]).status_code == 400
    assert client.post("/webhook", json={}).status_code == 401
    client.get("/health")
    samples = scrape(client)
    assert value(samples, "committee_request_seconds_count", route="/predict", outcome="ok") == 0
    refused = {"outcome": "refused"}
    assert value(samples, "committee_request_seconds_count", route="/predict", **refused) == 1
    assert value(samples, "committee_request_seconds_count", route="/webhook", **refused) == 1
    assert value(samples, "committee_request_seconds_sum", route="/webhook", **refused) > 0


def test_the_processes_of_a_host_add_up_and_a_new_one_goes_on() -> None:
    shared = Latencies(2)
    for process in (0, 1, 1):
        shared.of_process(process).observe("/webhook", 201, 0.02)
    shared.observe("/health", 200, 1.0)
    found = {(route, outcome): (buckets, s) for route, outcome, buckets, s in shared.read()}
    buckets, seconds = found["/webhook", "ok"]
    assert (sum(buckets), buckets[2]) == (3, 3)
    assert seconds == pytest.approx(0.06)
    assert sum(sum(counts) for counts, _ in found.values()) == 3


def test_without_redis_and_ledger_the_rest_is_told(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, metrics_token=TOKEN)
    with open_client(settings) as client:
        assert settings.ledger_path is not None
        settings.ledger_path.write_bytes(b"no database at all" * 1000)
        samples = scrape(client)
    assert value(samples, "committee_redis_up") == 0
    assert value(samples, "committee_ledger_up") == 0
    assert "committee_labels" not in samples
    assert value(samples, "committee_request_seconds_count", route="/setup", outcome="ok") == 0


def test_a_scrape_reads_no_manifest_and_no_score_of_an_image(
    client: FlaskClient, work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(work, rounds=3, tasks=2)

    def refuse(_self: Ledger) -> None:
        raise AssertionError("a scrape must use the sums of backend.ledger.totals")

    for repository in ("rounds", "parts", "versions", "publications", "events"):
        monkeypatch.setattr(work.ledger, repository, property(refuse))
    assert value(scrape(client), "committee_ledger_up") == 1


def expressions() -> list[str]:
    """What the dashboard and the alert rules ask Prometheus."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [each["query"] for each in dashboard["templating"]["list"] if "query" in each]
    return [*panels, *variables, *(rule["expr"] for rule in alerts())]


def alerts() -> list[dict[str, Any]]:
    rules = YAML(typ="safe").load(MONITORING / "alerts.yaml")
    return list(chain.from_iterable(group["rules"] for group in rules["groups"]))


@pytest.fixture
def all_told(client: FlaskClient, work: Workplace) -> Samples:
    """A scrape in which every metric has a sample."""
    row = fill(work, rounds=4, tasks=2)
    work.ledger.rounds.start(row.id, "train", "test", "collect")
    work.ledger.projects.update(row.id, checked_at=1.0)
    work.ledger.events.add(row.id, "ANNOTATION_CREATED", [1])
    work.counters.add("label_studio_errors", "503")
    work.counters.add("fallbacks", row.slug)
    work.counters.observe("part_seconds", ("fit", "done"), 4.0)
    return scrape(client)


def test_the_dashboard_and_the_alerts_name_metrics_and_labels_that_exist(
    all_told: Samples,
) -> None:
    named: set[str] = set()
    for each in expressions():
        for name, inside in re.findall(r"\b(committee_\w+)(?:\{([^}]*)\})?", each):
            named.add(name)
            assert all_told.get(name), f"no sample of {name}: {each}"
            labels = set(re.findall(r"(\w+)\s*(?:=~|=)", inside))
            assert labels <= set(all_told[name][0][0]), each
    assert len(named) > 20


def test_every_metric_is_in_the_document_with_its_labels_and_none_more(all_told: Samples) -> None:
    page = (ROOT / "docs" / "METRICS.md").read_text()
    described = re.findall(r"^\| `(committee_\w+)` \| (\w+)(?:: ([^|]+))? \|", page, re.MULTILINE)
    assert len(described) > 30
    for name, kind, labels in described:
        sample = f"{name}_count" if kind == "histogram" else name
        of_page = {label.strip() for label in labels.split(",") if labels}
        assert set(all_told[sample][0][0]) == of_page, name
    families = {re.sub("_(total|bucket|sum|count)$", "", name) for name in all_told}
    assert families == {re.sub("_total$", "", name) for name, _, _ in described}


def test_each_alert_says_what_is_so_and_what_to_do() -> None:
    for rule in alerts():
        assert set(rule) >= {"alert", "expr", "labels", "annotations"}, rule
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"].endswith(".")
        assert "docs/" in rule["annotations"]["description"]
