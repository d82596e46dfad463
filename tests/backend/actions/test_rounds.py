"""Asking for a round, pausing and resuming, as the commands do."""

from __future__ import annotations

import pytest

from backend.actions.rounds import RoundAsked, pause, resume, retrain
from backend.errors import BadRequest, UnknownProject
from backend.workplace import Workplace

STUDIO_ID = 7


@pytest.fixture
def work(work: Workplace) -> Workplace:
    """One connected project; no server answers."""
    row = work.ledger.projects.ensure(work.server, STUDIO_ID, 1795468845, title="Urine")
    work.ledger.projects.update(row.id, connected=True)
    return work


def project_id(work: Workplace) -> int:
    return int(work.ledger.projects.of_studio(work.server, STUDIO_ID).id)


def actions(work: Workplace) -> list[str]:
    return [event.action for event in work.ledger.events.pending(project_id(work))]


def test_retrain_asks_for_a_round_and_says_that_no_worker_will_take_it(work: Workplace) -> None:
    assert retrain(work, STUDIO_ID) == RoundAsked(active_round=None, workers=0)
    assert actions(work) == ["RETRAIN"]


def test_retrain_names_the_round_that_it_has_to_wait_for(work: Workplace) -> None:
    under_way = work.ledger.rounds.start(project_id(work), "train", "10 labels", "collect", {})
    assert under_way is not None
    work.ledger.processes.beat("host-1", "worker", "", "host", 1)
    assert retrain(work, STUDIO_ID) == RoundAsked(active_round=under_way.id, workers=1)


def test_retrain_refuses_a_project_that_is_not_connected(work: Workplace) -> None:
    with pytest.raises(UnknownProject, match="connect --project 8"):
        retrain(work, 8)
    work.ledger.projects.update(project_id(work), connected=False)
    with pytest.raises(BadRequest, match="connect --project 7"):
        retrain(work, STUDIO_ID)
    assert actions(work) == []


def test_a_pause_ends_with_a_clean_slate(work: Workplace) -> None:
    pause(work, STUDIO_ID)
    assert work.ledger.projects.get(project_id(work)).paused
    work.ledger.projects.update(project_id(work), failures=3, not_before=2e9)
    resume(work, STUDIO_ID)
    row = work.ledger.projects.get(project_id(work))
    assert (row.paused, row.failures, row.not_before) == (False, 0, 0.0)
    assert actions(work) == ["RESUMED"]
