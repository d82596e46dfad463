"""The status: the numbers of a version in words, and the keys that scripts read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.insight.next_step import NextStep
from backend.insight.status import (
    ActionEntry,
    AuditStatus,
    ProcessStatus,
    ProjectStatus,
    Quality,
    RoundStatus,
    Status,
    quality,
    status,
    unread_regions,
)
from backend.insight.status_text import describe_quality, describe_status
from backend.ledger import Ledger, upgrade
from backend.ledger.shapes import Metrics


def test_a_versions_quality_is_described() -> None:
    metrics: Metrics = {
        "foreground_dice": 0.8123,
        "ece": 0.0121,
        "ece_uncalibrated": 0.034,
        "temperature": 1.4,
        "out_of_fold": True,
    }
    described = "out-of-fold foreground Dice 0.812, calibration error 0.012 (0.034 before)"
    assert describe_quality(quality(metrics)) == described
    assert describe_quality(quality({})) == ""
    assert quality(metrics).temperature == 1.4
    assert quality(metrics).iou is None


def a_round(**fields: object) -> RoundStatus:
    given: dict[str, object] = {
        "id": 3,
        "kind": "train",
        "reason": "10 labels changed",
        "state": "active",
        "stage": "fit",
        "started": 1.0,
        "progress": 0.25,
        "eta_s": 62.0,
        "eta_error": 0.12,
        "again_in_s": None,
        "error": None,
        "problems": [],
        "timings": {"collect": 2.0},
    }
    return RoundStatus(**{**given, **fields})  # type: ignore[arg-type]  # the test's own


GROUP = {
    "labelled": 12,
    "measured": 9,
    "foreground_dice": 0.8123,
    "ece": 0.02,
    "reliability": [(0.5, 0.6, 100)],
}


def a_project(**fields: object) -> ProjectStatus:
    given: dict[str, object] = {
        "server": "http://studio",
        "project": 7,
        "title": "Urine",
        "connected": True,
        "paused": False,
        "round": a_round(),
        "version": 2,
        "quality": quality({"foreground_dice": 0.5}),
        "audit": AuditStatus(None, None, None, "foreground Dice 0.4 on 3 images"),
        "training": "270 steps a member",
        "elsewhere": "3 labelled images are among those that it had learnt from",
        "groups": {"Zeiss": GROUP},
        "advice": "more labels hardly pay",
        "publication": "committee-v2.1",
        "first_queue": None,
        "labelled": 12,
        "changed": 3,
        "ranked_left": 40,
        "retrain_every": 10,
        "last_error": None,
        "next": NextStep("running", "Round 3 learns from the labels."),
        "actions": [ActionEntry(1.0, "ada", "owner", "retrain", None, "Asked.")],
    }
    return ProjectStatus(**{**given, **fields})  # type: ignore[arg-type]  # the test's own


PROCESS = ProcessStatus("web", "http://here", "host", 12, 1.0, "up")


def test_the_json_keys_are_those_that_scripts_read() -> None:
    found = Status([a_project()], [PROCESS]).to_json()
    assert list(found) == ["projects", "processes"]
    (project,), (process,) = found["projects"], found["processes"]
    assert set(project) == {
        *("server", "project", "title", "connected", "paused", "round", "version", "quality"),
        *("audit", "training", "advice", "publication", "first_queue", "labelled", "changed"),
        *("ranked_left", "retrain_every", "last_error", "next", "actions", "elsewhere", "groups"),
    }
    assert set(project["round"]) == {
        *("id", "kind", "reason", "state", "stage", "started", "progress", "eta_s"),
        *("eta_error", "again_in_s", "error", "problems", "timings"),
    }
    assert set(project["quality"]) == {
        *("foreground_dice", "dice", "iou", "temperature", "ece", "ece_uncalibrated"),
        *("out_of_fold", "bf16_agreement"),
    }
    assert set(project["audit"]) == {"audit", "audit_gain", "chance_gain", "words"}
    (action,) = project["actions"]
    assert set(action) == {"at", "who", "login", "what", "version", "outcome"}
    assert set(process) == {"role", "address", "host", "pid", "started", "health"}


def test_a_round_under_way_is_described_with_its_time_left() -> None:
    shown = describe_status(Status([a_project()], [PROCESS]))
    left = "about 62 s to go (usually within 12%)"
    assert f"round        3 (train): fit, 25%, {left}; started because 10 labels" in shown
    assert "next         Round 3 learns from the labels." in shown
    assert "(collect 2 s)" in shown
    assert "version      2: out-of-fold foreground Dice 0.500" in shown
    assert "training     270 steps a member" in shown
    assert "advice       more labels hardly pay" in shown
    assert "elsewhere    3 labelled images are among those that it had learnt from" in shown
    group = "'Zeiss': 12 labelled, foreground Dice 0.812 on 9, calibration error 0.020"
    assert f"group        {group}" in shown
    assert "web     up               http://here  (host pid 12)" in shown


def test_a_round_that_failed_is_described_with_its_error() -> None:
    ended = a_round(state="failed", stage=None, error="no labels", progress=None, eta_s=None)
    shown = describe_status(Status([a_project(round=ended)], []))
    assert "3 (train) failed: no labels (collect 2 s)" in shown


@pytest.mark.parametrize(("count", "more"), [(5, False), (7, True)])
def test_few_problems_of_a_round_are_listed(count: int, more: bool) -> None:
    problems = [f"Task {number}: no image" for number in range(count)]
    shown = describe_status(Status([a_project(round=a_round(problems=problems))], []))
    assert "Task 4: no image" in shown
    assert "Task 5: no image" not in shown
    assert ("and 2 more (--json lists all)" in shown) == more


def test_an_empty_installation_says_what_to_do(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    upgrade(url)
    ledger = Ledger(url)
    shown = describe_status(status(ledger))
    ledger.close()
    assert "No project is connected: `python -m backend connect --project ID`." in shown
    assert "start them by `make run`" in shown


def test_quality_takes_all_that_a_version_measured() -> None:
    metrics: Metrics = {"dice": {"cell": 0.5}, "bf16_agreement": 0.99}
    assert quality(metrics) == Quality(
        foreground_dice=None,
        dice={"cell": 0.5},
        iou=None,
        temperature=None,
        ece=None,
        ece_uncalibrated=None,
        out_of_fold=None,
        bf16_agreement=0.99,
    )


def test_what_the_last_training_did_not_understand_is_told_by_kind() -> None:
    regions = [("read", "", 9), ("label", "Zelle", 41), ("broken", "", 2)]
    asked: list[object] = []

    def recent(project_id: int, limit: int, kind: str) -> list[object]:
        asked.append((project_id, kind))
        return [SimpleNamespace(id=5)] if project_id == 1 else []

    ledger: Any = SimpleNamespace(
        rounds=SimpleNamespace(recent=recent),
        parts=SimpleNamespace(results=lambda round_id, stage: [{"regions": regions}, {}]),
    )
    [sentence, broken] = unread_regions(ledger, 1)
    assert broken.startswith("2 regions carry a shape that cannot be read: ")
    assert sentence.startswith("41 regions carry the label 'Zelle', which the labeling")
    assert unread_regions(ledger, 2) == []
    assert asked == [(1, "train"), (2, "train")]
