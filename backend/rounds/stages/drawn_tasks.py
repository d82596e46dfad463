"""An even sample of a large pool, drawn by the tasks' ids and never by a list of all of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backend.label_studio.bulk import IDS_PER_QUERY, Project, Studio, Task

LISTED_TASKS = 5000
"""A pool of so few tasks is listed whole: that takes ten pages, and drawing about as many."""

SPARE = 4
"""So many times as many ids are drawn as should be enough: some tasks name no image, and some were
labelled since they were counted."""


@dataclass(frozen=True)
class Span:
    """The ids among which a project's tasks are.

    Attributes:
        draws: how many of them are enough to find what is wanted.
    """

    first: int
    last: int
    draws: int


def span_to_draw_from(
    studio: Studio, project: Project, unlabelled: int, wanted: int
) -> Span | None:
    """The ids to draw from; None where listing the pool costs no more: where all that is unlabelled
    is wanted, or most ids between its tasks are those of other projects.

    Args:
        unlabelled: about how many tasks nobody has labelled.
        wanted: how many of these are to be drawn.
    """
    if unlabelled <= wanted:
        return None
    ends = studio.first_and_last(project.id)
    if ends is None:
        return None
    first, last = ends
    draws = wanted * (last - first + 1) / unlabelled
    if draws > project.task_number / 2:
        return None
    return Span(first, last, min(last - first + 1, SPARE * round(draws)))


def drawn_tasks(studio: Studio, project_id: int, span: Span, seed: int) -> Iterator[Task]:
    """Unlabelled tasks in an order of chance, each at most once: any beginning of it is an even
    sample of them. It ends after ``SPARE`` times as many draws as should be enough."""
    ids = random.Random(seed).sample(range(span.first, span.last + 1), span.draws)
    for start in range(0, len(ids), IDS_PER_QUERY):
        some = ids[start : start + IDS_PER_QUERY]
        yield from unlabelled_tasks(studio, project_id, some)


def unlabelled_tasks(studio: Studio, project_id: int, ids: Sequence[int]) -> list[Task]:
    """Those of the tasks that are there, neither labelled nor skipped, in the order of ``ids``."""
    found = {task.id: task for task in studio.tasks(project_id, ids=ids) if is_unlabelled(task)}
    return [found[task_id] for task_id in ids if task_id in found]


def is_unlabelled(task: Task) -> bool:
    return task.annotations == 0 and task.skipped == 0
