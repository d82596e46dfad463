"""A large pool's candidates are drawn by their ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from backend.label_studio.bulk import Studio, Task
from backend.ledger import START
from backend.rounds.stages.choose import choose
from backend.rounds.stages.drawn_tasks import Span, drawn_tasks, span_to_draw_from
from tests.backend.small_studio import CREATED_S, LABEL_CONFIG, small_studio
from tests.backend.workplaces import TOKEN, open_workplace

MANY = 1_000_000


def test_a_round_on_a_million_tasks_asks_for_some_thousand(tmp_path: Path) -> None:
    with small_studio(MANY, annotated=300) as studio:
        given = {"label_studio_url": studio.url, "candidates": 600}
        with open_workplace(tmp_path, **given) as work:
            row = work.ledger.projects.ensure(work.server, 1, CREATED_S, label_config=LABEL_CONFIG)
            round_ = work.ledger.rounds.start(row.id, START, "new", "choose", {})
            assert round_ is not None
            outcome = choose(work, round_, {}, lambda _share: None)
        assert studio.rows_sent < 2000
    tasks = [task_id for part in outcome.next_payloads for task_id, _ in part["tasks"]]  # type: ignore[typeddict-item]
    assert outcome.result["drawn"] == tasks
    assert (outcome.result["pool"], outcome.result["unlabelled"]) == (MANY, MANY - 300)
    assert len(set(tasks)) == 600
    assert 300 < min(tasks) < 0.02 * MANY
    assert max(tasks) > 0.98 * MANY


class ManyTasks:
    """A Label Studio that is only asked for tasks by their ids; those from 1 to 10 are labelled."""

    def tasks(self, _project: int, ids: Sequence[int]) -> Iterator[Task]:
        for task_id in sorted(ids):
            yield Task(task_id, {}, int(task_id <= 10), 0)


def test_every_unlabelled_task_is_drawn_alike() -> None:
    studio, span = cast(Any, ManyTasks()), Span(1, 40, 40)
    assert sorted(task.id for task in drawn_tasks(studio, 1, span, 0)) == list(range(11, 41))
    firsts = [next(drawn_tasks(studio, 1, span, seed)).id for seed in range(3000)]
    shares = np.bincount(firsts, minlength=41)[11:] / 3000
    # Of 30 tasks each; four standard deviations of so many draws.
    assert np.abs(shares - 1 / 30).max() < 4 * (1 / 30 / 3000) ** 0.5


def test_a_pool_is_listed_where_drawing_would_cost_more() -> None:
    with small_studio(MANY) as studio, Studio(studio.url, TOKEN) as client:
        project = client.project(1)
        assert span_to_draw_from(client, project, MANY, 1000) == Span(1, MANY, 4000)
        # Nearly all are labelled, or the round takes all that are left.
        assert span_to_draw_from(client, project, 1500, 1000) is None
        assert span_to_draw_from(client, project, 1000, 1000) is None
