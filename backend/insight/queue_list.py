"""The next tasks of the queue, and why each stands there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.label_studio.bulk import Studio, Task
from backend.ledger import Ledger, Publication

NEXT = 50

LOOKED_AT = 4 * NEXT
"""Places from which the next ones are taken: those before them may be labelled already."""


@dataclass(frozen=True)
class QueueRow:
    """A task that is served soon.

    Attributes:
        position: counted from 1.
        why: a key of ``explain_text.WHYS``.
        uncertainty: the score that ranks, 0 to 1.
    """

    position: int
    task: int
    why: str
    uncertainty: float


@dataclass(frozen=True)
class QueueList:
    """The head of the queue that serves.

    Attributes:
        length: of the queue.
        known: Label Studio has said which tasks are labelled; else these may be among the rows.
    """

    publication: str
    version: int
    length: int
    rows: Sequence[QueueRow]
    known: bool


def queue_list(
    ledger: Ledger, serving: Publication, states: Mapping[int, Task] | None
) -> QueueList:
    """The next tasks of a queue.

    Args:
        states: of the tasks of ``places_to_ask``, as Label Studio has them now; one that it lacks
            was deleted. None: it was not asked.
    """
    places = ledger.publications.head(serving.id, LOOKED_AT)
    rows = [
        QueueRow(place.position + 1, place.task_id, place.why, place.uncertainty)
        for place in places
        if states is None or _waits(states.get(place.task_id))
    ]
    return QueueList(serving.name, serving.version, serving.length, rows[:NEXT], states is not None)


def places_to_ask(ledger: Ledger, serving: Publication) -> list[int]:
    """Task ids of the first places of a queue."""
    return [place.task_id for place in ledger.publications.head(serving.id, LOOKED_AT)]


def _waits(task: Task | None) -> bool:
    return task is not None and not task.annotations and not task.skipped


def skipped_by_all(studio: Studio, studio_id: int) -> list[int]:
    """Tasks that were skipped and never labelled.

    Raises:
        StudioUnreachable, StudioRefused: as the client met them.
    """
    return sorted(
        task_id
        for task_id, stamps in studio.stamps(studio_id).items()
        if stamps and all(stamp.skipped for stamp in stamps)
    )
