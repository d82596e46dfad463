"""The loop, end to end: real Label Studio, Valkey and web, a tiny committee.

The tests of one project follow each other. What kill -9 does to a round is told in test_chaos.py.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from click.testing import CliRunner

from backend.cli import cli
from backend.label_studio.bulk import Studio
from backend.label_studio.control import control_of
from backend.ledger import Round
from backend.rounds.schedule import check_project
from tests.live.harness.rows import backends_of, webhooks_of
from tests.live.harness.servers import LabelStudio
from tests.live.harness.stack import Stack, TinyProject, make_project

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

INITIAL = 6


@pytest.fixture(scope="module")
def trained(stack: Stack) -> TinyProject:
    """A project whose first labels have started a round and whose publication serves."""
    project = make_project(stack, "loop trained", 16, retrain_every=INITIAL)
    project.label(*project.few(INITIAL))
    row = stack.await_round(project)
    assert (row.state, row.error) == ("succeeded", None)
    return project


@pytest.fixture
def bea(second_studio: Studio) -> Studio:
    return second_studio


def current(studio: Studio, project: TinyProject, task_id: int) -> dict[str, Any]:
    """The task's prediction of the publication that serves now."""
    serving = project.serving()
    assert serving is not None
    found = [p for p in studio.predictions(task_id) if p["model_version"] == serving.name]
    assert len(found) == 1
    return found[0]


def start_training(stack: Stack, project: TinyProject) -> requests.Response:
    """Press "Start training", as the browser does."""
    backend = backends_of(stack.work.studio, project.id)[0]
    return requests.post(
        f"{stack.label_studio.url}/api/ml/{backend.id}/train",
        headers={"Authorization": f"Token {stack.label_studio.api_key}"},
        json={},
        timeout=120,
    )


def ended(row: Round | None) -> bool:
    return row is not None and row.state != "active"


class TestTheFirstRound:
    def test_labels_start_it_by_webhook(self, stack: Stack, trained: TinyProject) -> None:
        row = stack.last_train(trained)
        assert row is not None
        assert row.reason.startswith(f"{INITIAL} labels changed")
        assert {entry["task"] for entry in row.manifest} == set(trained.few(INITIAL))
        assert row.problems == []
        # Later than the labels by the quiet that a burst needs, sooner than any reconcile.
        last = stack.work.ledger.events.last_at(trained.row_id)
        assert last is not None
        assert row.started_at < last + 60

    def test_its_publication_ranks_all_that_is_left_and_label_studio_follows_it(
        self, stack: Stack, trained: TinyProject, studio: Studio
    ) -> None:
        serving = trained.serving()
        assert serving is not None
        assert (serving.name, serving.length, serving.stored) == ("committee-v1.1", 10, 10)
        assert set(trained.ranking()) == set(trained.tasks) - set(trained.few(INITIAL))
        settings = studio.project(trained.id)
        assert (settings.model_version, settings.sampling) == (
            "committee-v1.1",
            "Uncertainty sampling",
        )

    def test_it_is_followed_by_no_other(self, stack: Stack, trained: TinyProject) -> None:
        """The states that the round read and the ones that a check reads are the same."""
        assert check_project(stack.work, trained.row_id) is None
        assert stack.work.ledger.projects.get(trained.row_id).changed == 0

    def test_a_labelled_task_is_mapped_and_no_prediction_is_asked_for(
        self,
        stack: Stack,
        trained: TinyProject,
        studio: Studio,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        stack.set_environment(monkeypatch)
        task_id = trained.few(INITIAL)[0]
        before = studio.predictions(task_id)
        arguments = ["map", "--task", str(task_id), "--output", str(tmp_path)]
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        assert studio.predictions(task_id) == before
        assert (tmp_path / f"task-{task_id}-map.png").read_bytes().startswith(b"\x89PNG")
        with np.load(tmp_path / f"task-{task_id}-map.npz") as arrays:
            np.testing.assert_array_equal(arrays["truth"], trained.masks[task_id])
        absent = CliRunner().invoke(cli, ["map", "--task", "999999"])
        assert absent.exit_code == 1
        assert "has no task 999999" in absent.output

    def test_its_images_are_counted_and_no_prediction_is_asked_for(
        self,
        stack: Stack,
        trained: TinyProject,
        studio: Studio,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        stack.set_environment(monkeypatch)
        stored = studio.model_versions(trained.id)
        arguments = ["counts", "--project", str(trained.id), "--output", str(tmp_path)]
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        assert studio.model_versions(trained.id) == stored
        assert "16 images by version 1" in done.stdout
        row = stack.last_train(trained)
        assert row is not None
        taught = {str(entry["task"]) for entry in row.manifest if not entry["audit"]}
        images = list(csv.DictReader((tmp_path / "images.csv").read_text().splitlines()))
        assert {int(image["task"]) for image in images} == set(trained.tasks)
        assert {image["task"] for image in images if image["role"] == "labelled"} == taught
        audits = [image["task"] for image in images if image["role"] == "audit"]
        assert sorted(audits) == sorted(str(e["task"]) for e in row.manifest if e["audit"])


class TestTheQueue:
    def test_two_users_at_once_are_served_the_ranking(
        self, trained: TinyProject, studio: Studio, bea: Studio
    ) -> None:
        ranking = trained.ranking()
        held: list[tuple[Studio, int]] = []
        served: list[int] = []
        for user in (studio, bea, studio, bea):
            # Each submits what they hold before they ask again; the other's stays locked.
            for holder, task_id in [pair for pair in held if pair[0] is user]:
                prediction = current(user, trained, task_id)
                holder.annotate(
                    task_id,
                    trained.result(task_id, prediction),
                    parent_prediction=prediction["id"],
                )
            row = user.next_task(trained.id)
            assert row is not None
            held = [pair for pair in held if pair[0] is not user] + [(user, row["id"])]
            served.append(row["id"])
        assert served == ranking[:4]

    def test_a_task_that_was_open_while_a_new_publication_came_can_be_submitted(
        self, stack: Stack, trained: TinyProject, studio: Studio, bea: Studio
    ) -> None:
        opened = bea.next_task(trained.id)  # the one that bea holds: it is locked for her
        assert opened is not None
        before = trained.serving()
        shown = current(bea, trained, opened["id"])
        stack.work.ledger.events.add(trained.row_id, "RETRAIN")
        row = stack.await_round(trained, 2)
        assert (row.state, row.error) == ("succeeded", None)
        after = trained.serving()
        assert before is not None
        assert after is not None
        assert after.name != before.name

        made = bea.annotate(
            opened["id"],
            trained.result(opened["id"], shown),
            parent_prediction=shown["id"],
        )
        assert made["parent_prediction"] == shown["id"]

    def test_the_new_order_is_served_from_then_on(
        self, trained: TinyProject, studio: Studio, bea: Studio
    ) -> None:
        # The owner still holds a task of the old order, which Label Studio keeps for them.
        held = studio.next_task(trained.id)
        assert held is not None
        studio.annotate(held["id"], trained.result(held["id"]))
        labelled = {task.id for task in studio.tasks(trained.id) if task.annotations}
        left = [task_id for task_id in trained.ranking() if task_id not in labelled]
        row = studio.next_task(trained.id)
        assert row is not None
        assert row["id"] == left[0]

    def test_setup_says_the_new_name_on_every_web_worker(
        self, stack: Stack, trained: TinyProject
    ) -> None:
        serving = trained.serving()
        assert serving is not None
        key = stack.work.studio.project(trained.id).key
        body = {
            "project": key,
            "schema": stack.work.studio.project(trained.id).label_config,
            "extra_params": stack.work.ledger.projects.get(trained.row_id).extra_params,
        }
        answers = [stack.post("/setup", body).json() for _ in range(40)]
        assert {answer["model_version"] for answer in answers} == {serving.name}

    def test_label_studio_lists_our_version_and_asks_for_nothing_twice(
        self, trained: TinyProject, studio: Studio
    ) -> None:
        """Opening a ranked task adds no second prediction of the same version."""
        task_id = trained.ranking()[-1]
        control_of(studio).tasks.get(str(task_id))
        current(studio, trained, task_id)


class TestWithoutAModel:
    def test_every_task_gets_an_empty_answer_and_the_order_is_uniform(
        self, stack: Stack, studio: Studio
    ) -> None:
        # A single image: two would be put in order without a model (test_start.py).
        project = make_project(stack, "loop untrained", 1)
        settings = studio.project(project.id)
        assert (settings.sampling, settings.model_version) == ("Uniform sampling", "")
        tasks = [{"id": task.id, "data": task.data} for task in studio.tasks(project.id)]
        answer = stack.post("/predict", {"tasks": tasks, "project": settings.key})
        assert (answer.status_code, answer.json()) == (200, {"results": [[]]})
        # Opened in the browser, Label Studio asks by itself, and saves nothing.
        served = studio.next_task(project.id)
        assert served is not None
        assert served["id"] in project.tasks
        assert studio.predictions(served["id"]) == []


class TestStartingByHand:
    def test_start_training_starts_a_round_however_few_the_labels(self, stack: Stack) -> None:
        project = make_project(stack, "loop started", 12)
        project.label(*project.few(3))
        assert start_training(stack, project).status_code == 200
        row = stack.wait(lambda: stack.last_train(project), "the round to start")
        assert row.reason == "asked for; 3 labels changed"
        stack.release(project)


class TestLostEvents:
    def test_labels_whose_webhook_is_gone_are_found_by_the_reconcile(
        self, stack: Stack, studio: Studio
    ) -> None:
        project = make_project(stack, "loop deaf", 12, retrain_every=4)
        for hook in webhooks_of(studio, project.id):
            control_of(studio).webhooks.delete(hook.id)
        project.label(*project.few(4))
        pending = stack.work.ledger.events.pending(project.row_id)
        assert {event.action for event in pending} <= {"ROUND_ENDED"}  # of the first order
        check_project(stack.work, project.row_id)
        row = stack.last_train(project)
        assert row is not None
        assert row.reason.startswith("4 labels changed")
        assert stack.await_round(project).state == "succeeded"


class TestAFailedRound:
    def test_it_leaves_the_old_publication_serving_and_says_why(
        self, stack: Stack, trained: TinyProject, studio: Studio, label_studio: LabelStudio
    ) -> None:
        before = trained.serving()
        number = _last_number(stack, trained)
        uploads = label_studio.data_dir / "media" / "upload" / str(trained.id)
        away = uploads.with_name("away")
        uploads.rename(away)
        try:
            _touch_every_annotation(studio, trained)
            stack.work.ledger.events.add(trained.row_id, "RETRAIN")
            row = stack.await_round(trained, number + 1)
        finally:
            _give_back(away, uploads)
        assert row.state == "failed"
        assert "A round needs labels on at least 2 images, got 0" in row.error
        after = trained.serving()
        assert before is not None
        assert after is not None
        assert after.name == before.name
        assert studio.project(trained.id).model_version == before.name
        project = stack.work.ledger.projects.get(trained.row_id)
        assert project.last_error == row.error
        assert project.not_before > row.ended_at

    def test_the_button_does_not_wait_and_mends_it(
        self, stack: Stack, trained: TinyProject
    ) -> None:
        number = _last_number(stack, trained)
        assert start_training(stack, trained).status_code == 200
        row = stack.await_round(trained, number + 1)
        assert (row.state, row.error) == ("succeeded", None)
        assert stack.work.ledger.projects.get(trained.row_id).last_error is None


def _last_number(stack: Stack, project: TinyProject) -> int:
    row = stack.last_train(project)
    assert row is not None
    assert ended(row)
    number: int = row.version
    return number


def _touch_every_annotation(studio: Studio, project: TinyProject) -> None:
    """Edit each, so that no example can come from the cache."""
    for task in studio.tasks(project.id):
        for annotation in studio.annotations(task.id):
            control_of(studio).annotations.update(annotation["id"], result=project.result(task.id))


def _give_back(away: Path, uploads: Path) -> None:
    # Label Studio may have made an empty folder of that name meanwhile.
    if uploads.exists():
        uploads.rmdir()
    away.rename(uploads)
