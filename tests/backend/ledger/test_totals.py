"""The sums for /metrics, on both databases."""

from __future__ import annotations

import pytest

from backend.ledger import Ledger, Project
from backend.ledger.shapes import Metrics
from backend.ledger.totals import read_totals

METRICS: Metrics = {
    "examples": 40,
    "foreground_dice": 0.75,
    "ece": None,
    "scores": {"1": 0.5},
    "audit": {
        "images": 1,
        "foreground_dice": {"value": 0.5, "low": None, "high": None},
        "dice": {},
        "scores": {"1": 0.5},
    },
}


def test_the_sums_of_a_ledger(ledger: Ledger, project: Project) -> None:
    failed = ledger.rounds.start(project.id, "train", "test", "collect")
    assert failed is not None
    ledger.rounds.fail(failed.id, "no labels")
    for number, measured in ((1, METRICS), (2, Metrics(audit=None))):
        ledger.versions.record(
            *(project.id, number, failed.id),
            state="promoted",
            reason="test",
            members=5,
            classes=["background", "cell"],
            metrics=measured,
        )
    started = ledger.rounds.start(project.id, "rank", "test", "choose")
    assert started is not None
    ledger.events.add(project.id, "ANNOTATION_CREATED", [1])
    totals = read_totals(ledger.database)
    assert [row.id for row in totals.projects] == [project.id]
    assert sorted(map(tuple, totals.rounds)) == [
        (project.id, "rank", "choose", "active", 1),
        (project.id, "train", "collect", "failed", 1),
    ]
    assert totals.active[project.id].stage == "choose"
    assert [tuple(row) for row in totals.parts] == [(project.id, "choose", "waiting", 1)]
    ((of, events, oldest),) = totals.events
    assert (of, events) == (project.id, 2)  # the failed round's end is one
    assert isinstance(oldest, float)
    assert [tuple(row) for row in totals.versions] == [(project.id, "promoted", 2)]
    newest = totals.promoted[project.id]
    assert (newest.number, newest.foreground_dice, newest.audit_images) == (2, None, None)
    assert newest.audit_dice == (None, None, None)
    ledger.versions.set_state(project.id, 2, "withdrawn", "rolled back")
    before = read_totals(ledger.database).promoted[project.id]
    assert (before.number, before.examples, before.ece) == (1, 40, None)
    assert before.foreground_dice == pytest.approx(0.75)
    assert (before.audit_images, before.audit_dice) == (1, (0.5, None, None))
    assert totals.serving == {}
    assert totals.timings == {}
