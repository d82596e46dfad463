"""What `status` shows of tasks that /predict could not pre-annotate."""

from __future__ import annotations

from backend.data_dir import announced_names, remember_name
from backend.insight.status import status
from backend.insight.status_text import describe_status
from backend.predict import _tell
from backend.rounds.schedule import _standing_error
from backend.workplace import Workplace


def test_status_shows_tasks_without_prediction_until_one_succeeds(work: Workplace) -> None:
    projects = work.ledger.projects
    row = projects.ensure(work.server, 7, 1795468845, title="Urine")
    _tell(work, row, ["no prediction for task 3: it is no image.", "and of another"])
    said = "/predict: no prediction for task 3: it is no image. (and 1 more)"
    assert f"last error   {said}" in describe_status(status(work.ledger))
    assert _standing_error(work, row.id) == said  # the next check keeps it
    _tell(work, projects.get(row.id), [])
    assert projects.get(row.id).last_error is None


def test_what_a_round_said_is_left_alone(work: Workplace) -> None:
    row = work.ledger.projects.ensure(work.server, 7, 1795468845)
    work.ledger.projects.update(row.id, last_error="fit: no memory")
    _tell(work, work.ledger.projects.get(row.id), ["no prediction for task 3: it is no image."])
    assert work.ledger.projects.get(row.id).last_error == "fit: no memory"


def test_names_that_label_studio_announced_are_kept(work: Workplace) -> None:
    folder = work.settings.data_dir
    assert announced_names(folder, work.server) == []
    for name in ("https://a.example", "https://b.example/ls", "https://a.example"):
        remember_name(folder, work.server, name)
    assert announced_names(folder, work.server) == ["https://b.example/ls", "https://a.example"]
    assert announced_names(folder, "http://another.test") == []
