"""Annotations are asked for by what changed, and a listing finds what that cannot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from backend.label_studio.bulk import Project as StudioProject
from backend.label_studio.bulk import Stamp
from backend.ledger import Project
from backend.rounds.annotated import LIST_AGAIN_S, OVERLAP_S, Stamps, annotated_tasks
from backend.workplace import Workplace
from tests.backend.workplaces import open_workplace

START = 1_790_000_000.0


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


class Laboratory:
    """A Label Studio of which only annotations are asked, and our clock beside its own."""

    def __init__(self, work: Workplace) -> None:
        self.work, self.now = work, START
        self.changed: dict[int, float] = {}
        self.stamps: Stamps = {}
        self.asked: list[int | None] = []
        self.row: Project = work.ledger.projects.ensure(work.server, 7, 1)

    def touched(
        self, _project: int, since: datetime | None = None
    ) -> Iterator[tuple[int, str, tuple[Stamp, ...]]]:
        from_ = 0.0 if since is None else since.timestamp()
        found = [task for task in self.stamps if self.changed[task] >= from_]
        self.asked.append(None if since is None else len(found))
        for task in found:
            yield task, iso(self.changed[task]), self.stamps[task]

    def annotate(self, task: int, number: int, *, at: float | None = None) -> None:
        self.changed[task] = self.now if at is None else at
        stamp = Stamp(number, iso(self.changed[task]), False)
        self.stamps[task] = (*self.stamps.get(task, ()), stamp)

    def found(self, *, later_s: float = 0.0) -> Stamps:
        """What we know after a sync; what was asked for it is in ``asked``."""
        self.now += later_s
        self.asked.clear()
        count = sum(map(len, self.stamps.values()))
        project = StudioProject(7, "", 1, "", "", "", 1, 9, {}, count)
        return annotated_tasks(self.work, self.row, project)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Laboratory]:
    with open_workplace(tmp_path) as work:
        laboratory = Laboratory(work)
        work.studio = cast(Any, laboratory)
        monkeypatch.setattr(time, "time", lambda: laboratory.now)
        for task in range(1, 6):
            laboratory.annotate(task, task)
        assert laboratory.found() == laboratory.stamps
        assert laboratory.asked == [None]
        yield laboratory


def test_what_did_not_change_is_not_asked_for_again_once_it_is_settled(lab: Laboratory) -> None:
    assert lab.found(later_s=120) == lab.stamps
    assert lab.asked == [5]  # an older change may have been committed since
    lab.found(later_s=OVERLAP_S)
    assert lab.found(later_s=120) == lab.stamps
    assert lab.asked == [0]


def test_new_and_edited_annotations_come_by_the_times_of_their_tasks(lab: Laboratory) -> None:
    lab.found(later_s=2 * OVERLAP_S)
    lab.annotate(9, 20)
    lab.changed[2] = lab.now
    lab.stamps[2] = (Stamp(2, iso(lab.now), False),)
    assert lab.found(later_s=60) == lab.stamps
    assert lab.asked == [2]


def test_one_that_was_committed_late_is_found(lab: Laboratory) -> None:
    lab.found(later_s=2 * OVERLAP_S)
    lab.annotate(8, 21)
    lab.found(later_s=1)
    lab.annotate(9, 22, at=lab.now - 20)  # its transaction took its time
    assert lab.found(later_s=60) == lab.stamps
    assert lab.asked == [2]


def test_a_deletion_is_noticed_by_the_count_and_found_by_a_listing(lab: Laboratory) -> None:
    lab.found(later_s=2 * OVERLAP_S)
    del lab.stamps[3]
    assert lab.found(later_s=60).keys() == {1, 2, 4, 5}
    assert lab.asked == [0, None]
    assert lab.found(later_s=60).keys() == {1, 2, 4, 5}
    assert lab.asked == [0]


def test_what_leaves_times_and_counts_as_they_were_is_found_within_the_hour(
    lab: Laboratory,
) -> None:
    lab.found(later_s=2 * OVERLAP_S)
    lab.stamps[3] = (Stamp(33, iso(START), False),)
    assert lab.found(later_s=60) != lab.stamps
    assert lab.found(later_s=LIST_AGAIN_S) == lab.stamps


def test_a_count_that_never_agrees_costs_one_listing(lab: Laboratory) -> None:
    project = StudioProject(7, "", 1, "", "", "", 1, 9, {}, 6)  # and five can be listed
    for expected in ([5, None], [5], [5]):
        lab.asked.clear()
        assert annotated_tasks(lab.work, lab.row, project) == lab.stamps
        assert lab.asked == expected
