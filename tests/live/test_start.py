"""Before the first version: a real Label Studio serves images first that differ from each other."""

from __future__ import annotations

import pytest

from backend.label_studio.bulk import Studio
from backend.label_studio.queue_order import BY_RANK
from backend.ledger import Publication
from backend.rounds.schedule import check_project
from tests.live.harness.stack import Stack, TinyProject, make_project

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

TASKS, LABELS = 14, 6


@pytest.fixture(scope="module")
def ordered(stack: Stack) -> TinyProject:
    """A project that was connected without a label, once its first queue serves."""
    project = make_project(stack, "start", TASKS, retrain_every=LABELS)
    stack.wait(project.serving, "the first queue")
    return project


def serving(project: TinyProject) -> Publication:
    found = project.serving()
    assert found is not None
    return found


def started(stack: Stack, project: TinyProject) -> int:
    """The last round that put the images in order without a version."""
    found = stack.work.ledger.rounds.last(project.row_id, kind="start")
    assert found is not None
    number: int = found.id
    return number


def test_all_tasks_are_ordered_before_any_label_and_nothing_is_claimed_of_them(
    stack: Stack, ordered: TinyProject, studio: Studio
) -> None:
    found = serving(ordered)
    assert (found.name, found.length, found.stored) == ("committee-v0.1", TASKS, TASKS)
    assert sorted(ordered.ranking()) == sorted(ordered.tasks)
    settings = studio.project(ordered.id)
    assert (settings.model_version, settings.sampling) == ("committee-v0.1", BY_RANK)
    for task_id in ordered.tasks:
        [prediction] = studio.predictions(task_id)
        assert (prediction["result"], prediction["model_version"]) == ([], "committee-v0.1")
    body = {
        "project": settings.key,
        "schema": settings.label_config,
        "extra_params": stack.work.ledger.projects.get(ordered.row_id).extra_params,
    }
    assert stack.post("/setup", body).json() == {"model_version": "committee-v0.1"}
    tasks = [{"id": task.id, "data": task.data} for task in studio.tasks(ordered.id)]
    answer = stack.post("/predict", {"tasks": tasks, "project": settings.key})
    assert answer.json() == {"results": [[]] * TASKS}


def test_label_studio_serves_exactly_that_order_and_labels_from_it_start_training(
    stack: Stack, ordered: TinyProject, studio: Studio
) -> None:
    ranking, first = ordered.ranking(), started(stack, ordered)
    served = []
    for _ in range(LABELS):
        row = studio.next_task(ordered.id)
        assert row is not None
        served.append(row["id"])
        [prediction] = studio.predictions(row["id"])
        made = studio.annotate(
            row["id"], ordered.result(row["id"]), parent_prediction=prediction["id"]
        )
        assert made["parent_prediction"] == prediction["id"]
    assert served == ranking[:LABELS]
    assert stack.last_train(ordered) is None
    ended = stack.await_round(ordered)
    assert (ended.state, ended.error, ended.version) == ("succeeded", None, 1)
    assert {entry["task"] for entry in ended.manifest} == set(served)
    assert serving(ordered).name == "committee-v1.1"
    assert set(ordered.ranking()) == set(ordered.tasks) - set(served)
    assert check_project(stack.work, ordered.row_id) is None
    assert started(stack, ordered) == first


def test_the_second_round_judges_what_the_first_version_had_not_seen(
    stack: Stack, ordered: TinyProject, studio: Studio
) -> None:
    ranking = stack.work.ledger.publications.ranking(serving(ordered).id)
    whys = {row.task_id: row.why for row in ranking}
    new = ordered.ranking()[:3]
    ordered.label(*new)
    stack.work.ledger.events.add(ordered.row_id, "RETRAIN")
    ended = stack.await_round(ordered, 2)
    assert (ended.state, ended.error) == ("succeeded", None)
    evidence = stack.work.ledger.evidence.all(ordered.row_id)
    assert {row.task_id for row in evidence} == set(new)
    assert {(row.round_id, row.version) for row in evidence} == {(ended.id, 1)}
    assert {row.task_id: row.chosen_for for row in evidence} == {
        task_id: whys[task_id] for task_id in new
    }
    assert all(row.judged > 0 for row in evidence)
    assert any(row.wrong > 0 for row in evidence)
