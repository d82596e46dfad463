"""Corners of the loop that once went round for ever, or lost the queue."""

from __future__ import annotations

import pytest

from backend.actions.connect import connect_project, disconnect_project
from backend.actions.versions import roll_back
from backend.errors import BadRequest
from backend.label_studio.bulk import Studio
from backend.label_studio.control import control_of
from backend.rounds.schedule import check_project
from tests.live.harness.stack import TINY, Stack, TinyProject, make_project

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

QUEUE = 3


@pytest.fixture(scope="module")
def short(stack: Stack) -> TinyProject:
    """A project whose queue is shorter than the labels that start a round."""
    project = make_project(stack, "corners short", 10, queue_length=QUEUE)
    project.label(*project.few(4))
    retrain(stack, project, 1)
    return project


def retrain(stack: Stack, project: TinyProject, number: int) -> None:
    stack.work.ledger.events.add(project.row_id, "RETRAIN")
    row = stack.await_round(project, number)
    assert (row.state, row.error) == ("succeeded", None)


def test_a_short_queue_is_not_ranked_again_until_it_is_used(
    stack: Stack, short: TinyProject
) -> None:
    assert len(short.ranking()) == QUEUE
    assert check_project(stack.work, short.row_id) is None
    first, second, _ = short.ranking()
    short.label(first)
    assert check_project(stack.work, short.row_id) is None
    short.label(second)
    row = check_project(stack.work, short.row_id)
    assert row is not None
    assert (row.kind, row.reason) == ("rank", "only 1 ranked tasks left")

    def published() -> bool:
        serving = short.serving()
        return serving is not None and serving.name == "committee-v1.2"

    stack.wait(published, "the second publication")


def test_a_purged_project_never_takes_a_name_that_label_studio_holds(
    stack: Stack, short: TinyProject, studio: Studio
) -> None:
    former = set(studio.model_versions(short.id))
    disconnect_project(stack.work, short.id, purge=True)
    connected = connect_project(stack.work, short.id, {**TINY})
    short.row_id = connected.project.id
    retrain(stack, short, 1)
    serving = short.serving()
    assert serving is not None
    assert serving.name not in former
    for task_id in short.ranking():
        names = [p["model_version"] for p in studio.predictions(task_id)]
        assert names.count(serving.name) == 1


def test_a_project_whose_tasks_are_all_labelled_comes_to_rest(
    stack: Stack, short: TinyProject, studio: Studio
) -> None:
    short.label(*(task.id for task in studio.tasks(short.id) if not task.annotations))
    retrain(stack, short, 2)
    assert check_project(stack.work, short.row_id) is None


def test_a_disconnected_project_is_not_taken_over_by_a_rollback(
    stack: Stack, short: TinyProject
) -> None:
    disconnect_project(stack.work, short.id)
    with pytest.raises(BadRequest, match="is not connected"):
        roll_back(stack.work, short.id, 1)


def test_tasks_deleted_during_a_round_are_left_out(stack: Stack, studio: Studio) -> None:
    project = make_project(stack, "corners deleted", 12)
    project.label(*project.few(4))
    stack.work.ledger.events.add(project.row_id, "RETRAIN")

    def scoring() -> bool:
        row = stack.last_train(project)
        return row is not None and row.stage in ("score", "publish")

    stack.wait(scoring, "the scoring")
    gone = [task.id for task in studio.tasks(project.id) if not task.annotations][:2]
    for task_id in gone:
        control_of(studio).tasks.delete(str(task_id))
    row = stack.await_round(project)
    assert (row.state, row.error) == ("succeeded", None)
    assert set(project.ranking()) == set(project.tasks) - set(project.few(4)) - set(gone)
