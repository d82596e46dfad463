"""When a check and a round are due."""

from __future__ import annotations

from typing import Any

import pytest

from backend.label_studio.bulk import Stamp
from backend.ledger import Event, Project
from backend.ledger.rounds import LONGEST_WAIT_S
from backend.rounds.schedule import (
    PATIENCE_S,
    QUIET_S,
    RECONCILE_S,
    check_is_due,
    count_changes,
    is_audit,
    label_states,
    stamp_digest,
)
from tests.backend import rows

NOW = 1_000_000.0


def project(**fields: Any) -> Project:
    return rows.project(**{"check_asked_at": NOW - 30, "checked_at": NOW - 29, **fields})


def event(age_s: float, action: str = "ANNOTATION_CREATED") -> Event:
    return rows.event(NOW - age_s, action)


def due(row: Project, *events: Event, active: bool = False) -> bool:
    return check_is_due(row, events, active, NOW)


def test_a_quiet_project_is_left_alone_until_it_is_reconciled() -> None:
    assert not due(project())
    assert due(project(checked_at=NOW - RECONCILE_S, check_asked_at=NOW - RECONCILE_S - 1))


def test_a_burst_of_labels_is_waited_out() -> None:
    assert not due(project(), event(30), event(QUIET_S - 1))
    assert due(project(), event(30), event(QUIET_S))


def test_a_steady_stream_of_labels_does_not_put_a_check_off_for_ever() -> None:
    seen = project(checked_at=NOW - PATIENCE_S - 1, check_asked_at=NOW - PATIENCE_S - 2)
    assert not due(seen, event(PATIENCE_S - 1), event(1))
    assert due(seen, event(PATIENCE_S), event(1))


@pytest.mark.parametrize("action", ["START_TRAINING", "RETRAIN", "CONNECTED"])
def test_the_button_does_not_wait(action: str) -> None:
    assert due(project(paused=True, not_before=NOW + 900), event(0, action))


def test_nothing_is_looked_at_while_a_round_is_under_way() -> None:
    assert not due(project(), event(90, "START_TRAINING"), active=True)


def test_a_paused_a_failing_and_a_disconnected_project_wait() -> None:
    assert not due(project(paused=True), event(90))
    assert not due(project(not_before=NOW + 1), event(90))
    assert not due(project(paused=True, checked_at=NOW - RECONCILE_S, check_asked_at=NOW - 900))
    assert not due(project(connected=False), event(90, "START_TRAINING"))


def test_a_failing_project_is_still_reconciled_so_that_it_gets_a_first_queue() -> None:
    quiet = {"checked_at": NOW - RECONCILE_S, "check_asked_at": NOW - RECONCILE_S - 1}
    assert due(project(not_before=NOW + 900, **quiet), event(1))


def test_a_check_that_was_asked_for_is_not_asked_for_again_until_it_is_overdue() -> None:
    asked = {"checked_at": NOW - 500, "check_asked_at": NOW - 5}
    assert not due(project(**asked), event(90))
    assert due(project(checked_at=NOW - 500, check_asked_at=NOW - 61), event(90))


@pytest.mark.parametrize("set_back_s", [3600.0, 86_400.0])
def test_a_clock_that_was_set_back_stops_no_check(set_back_s: float) -> None:
    ahead = {"checked_at": NOW + set_back_s, "check_asked_at": NOW + set_back_s}
    assert due(project(**ahead))
    assert due(project(**ahead), event(90))
    looked = {"checked_at": NOW - PATIENCE_S, "check_asked_at": NOW - PATIENCE_S - 1}
    assert due(project(**looked), event(-set_back_s))
    assert due(project(**looked, not_before=NOW + set_back_s + LONGEST_WAIT_S), event(90))
    # Asked for since, and not come yet.
    assert not due(project(checked_at=NOW + set_back_s, check_asked_at=NOW - 5), event(90))


def test_clocks_that_differ_a_little_ask_for_no_more_checks() -> None:
    assert not due(project(checked_at=NOW + 2, check_asked_at=NOW - 1))


def stamp(
    annotation_id: int, updated_at: str = "2026-11-23T21:22:13Z", skip: bool = False
) -> Stamp:
    return Stamp(annotation_id, updated_at, skip)


def test_a_skip_teaches_nothing() -> None:
    assert stamp_digest([stamp(1, skip=True)]) is None
    assert stamp_digest([stamp(1, skip=True), stamp(2)]) == stamp_digest([stamp(2)])
    assert label_states({5: (stamp(1, skip=True),), 6: (stamp(2),)}).keys() == {6}


def test_new_edited_and_deleted_labels_count_and_the_same_do_not() -> None:
    before = {1: (stamp(1),), 2: (stamp(2),), 3: (stamp(3),)}
    manifest = [{"task": t, "stamp": stamp_digest(s)} for t, s in before.items()]
    after = {1: (stamp(1),), 2: (stamp(2, "2026-11-24T00:00:00Z"),), 4: (stamp(4),)}
    assert count_changes(label_states(before), manifest) == 0
    assert count_changes(label_states(after), manifest) == 3


def test_a_second_annotator_changes_a_task_once() -> None:
    manifest = [{"task": 1, "stamp": stamp_digest([stamp(1)])}]
    assert count_changes(label_states({1: (stamp(1), stamp(9))}), manifest) == 1


def test_the_audit_set_is_stable_and_of_the_asked_size() -> None:
    chosen = {task for task in range(20_000) if is_audit("project-1", task, 0.05)}
    assert 900 < len(chosen) < 1100
    wider = {task for task in range(20_000) if is_audit("project-1", task, 0.1)}
    assert chosen < wider
    assert not any(is_audit("project-1", task, 0.0) for task in range(1000))
