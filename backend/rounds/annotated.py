"""Which annotations there are, without listing all of them again and again.

The ledger keeps the stamps that Label Studio last told. A check asks for the tasks that changed
since, and compares how many annotations there are with Label Studio's count of them. All are
listed anew where the counts differ (something was deleted), and once in ``LIST_AGAIN_S`` in any
case: changes that leave both the counts and the tasks' times as they were are noticed so late.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from backend.label_studio.bulk import Project as StudioProject
from backend.label_studio.bulk import Stamp
from backend.ledger import Project, StampsListing
from backend.workplace import Workplace

LIST_AGAIN_S = 3600.0
"""All annotated tasks are listed at least this often."""

OVERLAP_S = 300.0
"""A change is asked for again for so long: one that was made before another may be committed after
it. Then it is settled, and costs nothing any more."""

JUST_AFTER_S = 2e-6
"""Label Studio's times have microseconds."""

Stamps = dict[int, tuple[Stamp, ...]]
"""Task id to its annotations' stamps; tasks without any are not in it."""


def annotated_tasks(work: Workplace, row: Project, project: StudioProject) -> Stamps:
    """The state of every annotated or skipped task, as Label Studio holds it now.

    Args:
        row: the ledger's project.
        project: Label Studio's, read just now.

    Raises:
        StudioUnreachable, StudioRefused: as the client met them.
    """
    now = time.time()
    known: Stamps = {
        task_id: tuple(Stamp(*each) for each in stamps)
        for task_id, stamps in work.ledger.stamps.all(row.id).items()
    }
    before = work.ledger.stamps.listing(row.id)
    if before is not None and 0 <= now - before.listed_at < LIST_AGAIN_S:
        last, found = _ask(work, project, since=before.ask_from)
        stamps = known | found
        if project.annotations == _count(stamps) + before.unlisted:
            reached = _reached(before, last, now)
            if stamps != known or reached.ask_from != before.ask_from:
                _keep(work, known, stamps, reached)
            return stamps
    last, stamps = _ask(work, project)
    unlisted = (project.annotations or 0) - _count(stamps)
    nothing = StampsListing(
        project_id=row.id, changed_at=0.0, seen_at=now, ask_from=0.0, listed_at=now, unlisted=0
    )
    reached = _reached(before or nothing, last, now)
    reached.listed_at, reached.unlisted = now, unlisted
    _keep(work, known, stamps, reached)
    return stamps


def _ask(
    work: Workplace, project: StudioProject, since: float | None = None
) -> tuple[float, Stamps]:
    """When the last of them was changed, unix seconds, 0 for none; and the stamps."""
    last, stamps = 0.0, Stamps()
    from_ = None if since is None else datetime.fromtimestamp(since, UTC)
    for task_id, changed, found in work.studio.touched(project.id, from_):
        stamps[task_id] = found
        last = max(last, datetime.fromisoformat(changed).timestamp())
    return last, stamps


def _reached(before: StampsListing, last: float, now: float) -> StampsListing:
    """Up to where all is known, after changes until ``last`` were seen."""
    changed_at = max(last, before.changed_at)
    seen_at = before.seen_at if changed_at == before.changed_at else now
    settled = now - seen_at >= OVERLAP_S
    return StampsListing(
        project_id=before.project_id,
        changed_at=changed_at,
        seen_at=seen_at,
        ask_from=changed_at + JUST_AFTER_S if settled else max(0.0, changed_at - OVERLAP_S),
        listed_at=before.listed_at,
        unlisted=before.unlisted,
    )


def _keep(work: Workplace, known: Stamps, stamps: Stamps, reached: StampsListing) -> None:
    work.ledger.stamps.write(
        reached,
        changed={task_id: each for task_id, each in stamps.items() if known.get(task_id) != each},
        gone=known.keys() - stamps.keys(),
    )


def _count(stamps: Stamps) -> int:
    return sum(map(len, stamps.values()))
