"""A task's map without a server: a real ledger and registry, a Label Studio from memory."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from backend.cli import cli
from backend.commands import shared
from backend.commands.replay.strokes import label_config, strokes
from backend.errors import BadRequest, ImageRefused, StudioRefused, UnknownProject
from backend.insight.task_map import find_task, write_task_map
from backend.label_studio.bulk import Project as StudioProject
from backend.label_studio.bulk import Studio, Task
from backend.label_studio.client import Json
from backend.ledger import Project
from backend.settings import Settings
from backend.workplace import Workplace
from tests.backend.workplaces import make_settings
from tests.command_page import json_keys
from tests.training.discs import CLASSES, disc_example
from training.config import TrainConfig
from training.networks.build import build_network

OWN = "tests.training.laboratory:small"
UNKNOWN = "Unknown"
URL = "http://studio.invalid"
CREATED = 1_700_000_000
DISC = disc_example("a", 3)


class MemoryStudio(Studio):
    """Holds tasks by project and annotations by task; asking for one task is a mistake."""

    def __init__(self) -> None:
        super().__init__(URL, "f" * 40)
        self.held: dict[int, list[int]] = {}
        self.submitted: dict[int, list[Json]] = {}

    def tasks(self, project_id: int, ids: Iterable[int] | None = None) -> Iterator[Task]:
        if project_id not in self.held:
            raise StudioRefused("there is no such project", 404)
        for task_id in self.held[project_id]:
            if ids is None or task_id in ids:
                yield Task(task_id, {"image": f"/data/upload/{task_id}.png"}, 0, 0)

    def task(self, task_id: int) -> Task:
        raise AssertionError("Label Studio would ask the backend for a prediction")

    def project(self, project_id: int) -> StudioProject:
        config = label_config(CLASSES, UNKNOWN)
        return StudioProject(project_id, "discs", CREATED, config, "", "", 1, 0, {})

    def annotations(self, task_id: int) -> list[Json]:
        if not any(task_id in tasks for tasks in self.held.values()):
            raise StudioRefused("there is no such task", 404)
        return self.submitted.get(task_id, [])


def annotation(number: int, project: int, result: list[Any], cancelled: bool = False) -> Json:
    return {"id": number, "project": project, "was_cancelled": cancelled, "result": result}


def png_of(image: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def studio() -> MemoryStudio:
    return MemoryStudio()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path / "data", label_studio_url=URL, network=OWN, engine="torch")


@pytest.fixture
def work(work: Workplace, studio: MemoryStudio) -> Workplace:
    work.studio = studio
    work.images = cast(Any, SimpleNamespace(fetch=lambda url: png_of(DISC.image)))
    return work


def connected(work: Workplace, studio_id: int, server: str = URL) -> Project:
    row = work.ledger.projects.ensure(server, studio_id, CREATED, extra_params={})
    work.ledger.projects.update(row.id, connected=True, extra_params={"unknown_label": UNKNOWN})
    return work.ledger.projects.get(row.id)


def promote_a_version(work: Workplace, row: Project) -> None:
    config = TrainConfig(CLASSES, members=2, network=OWN)
    weights = []
    for member in range(2):
        torch.manual_seed(member)
        weights.append(build_network(config).state_dict())
    round_ = work.ledger.rounds.start(row.id, "train", "asked for", "collect", {})
    assert round_ is not None
    work.registry.save_version(row.slug, 1, weights, config, {}, {"temperature": 1.0})
    work.ledger.versions.record(
        row.id,
        1,
        round_.id,
        state="promoted",
        reason="the first",
        members=2,
        classes=CLASSES,
        metrics={},
    )


@pytest.fixture
def project(work: Workplace, studio: MemoryStudio) -> Project:
    """Project 7 with the tasks 40 and 41, and a version; other projects beside it."""
    connected(work, 3)  # deleted in Label Studio since
    connected(work, 7, "http://another.invalid")
    studio.held = {5: [30], 7: [40, 41]}
    connected(work, 5)
    row = connected(work, 7)
    promote_a_version(work, row)
    return row


def test_a_task_is_found_in_whichever_project_holds_it(work: Workplace, project: Project) -> None:
    row, task = find_task(work, 41)
    assert (row.id, task.id) == (project.id, 41)
    assert find_task(work, 30)[0].studio_id == 5


def test_an_annotated_task_is_drawn_with_its_error(
    work: Workplace, project: Project, studio: MemoryStudio, tmp_path: Path
) -> None:
    mask = DISC.mask.copy()
    mask[:9, :9] = 255
    broken = {"id": "r", "type": "brushlabels", "to_name": "image", "value": {}}
    studio.submitted[40] = [
        annotation(1, 7, [], cancelled=True),
        annotation(2, 7, [*strokes(mask, CLASSES, UNKNOWN, None), broken]),
    ]
    written = write_task_map(work, 40, tmp_path / "out")
    assert [path.name for path in written.files] == ["task-40-map.png", "task-40-map.npz"]
    assert written.files[0].read_bytes().startswith(b"\x89PNG")
    with np.load(written.files[1]) as arrays:
        np.testing.assert_array_equal(arrays["image"], DISC.image)
        np.testing.assert_array_equal(arrays["truth"], mask)
    assert len(written.arms) == 30
    assert len(written.problems) == 2  # by kind, and each
    assert written.problems[1].startswith("annotation 2: Region r ")


def test_a_task_without_an_annotation_has_no_truth(
    work: Workplace, project: Project, studio: MemoryStudio, tmp_path: Path
) -> None:
    studio.submitted[41] = [annotation(1, 7, [], cancelled=True)]
    written = write_task_map(work, 41, tmp_path)
    with np.load(written.files[1]) as arrays:
        assert "truth" not in arrays
    assert written.problems == []


def test_what_cannot_be_drawn_is_said_in_a_sentence(
    work: Workplace, project: Project, studio: MemoryStudio, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="has no task 99 that our user may see"):
        write_task_map(work, 99, tmp_path)
    with pytest.raises(BadRequest, match="Project 5 has no version yet"):
        write_task_map(work, 30, tmp_path)
    studio.held[8] = [50, 51]
    studio.submitted[50] = [annotation(1, 8, [])]
    with pytest.raises(UnknownProject, match=r"in project 8 that is not connected.*--project 8"):
        write_task_map(work, 50, tmp_path)
    with pytest.raises(UnknownProject, match="in a project that is not connected"):
        write_task_map(work, 51, tmp_path)
    work.images = cast(Any, SimpleNamespace(fetch=lambda url: b"no image"))
    with pytest.raises(ImageRefused, match=r"40\.png: expected a PNG"):
        write_task_map(work, 40, tmp_path)
    work.images = cast(Any, SimpleNamespace(fetch=lambda url: png_of(DISC.image)))
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match="cannot be written to"):
        write_task_map(work, 40, tmp_path / "file" / "below")


def test_another_refusal_of_label_studio_is_not_taken_for_a_missing_task(
    work: Workplace, project: Project, studio: MemoryStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise StudioRefused("no token", 401)

    monkeypatch.setattr(studio, "annotations", refuse)
    with pytest.raises(StudioRefused, match="no token"):
        find_task(work, 99)
    monkeypatch.setattr(studio, "tasks", refuse)
    with pytest.raises(StudioRefused, match="no token"):
        find_task(work, 40)


def test_the_command_prints_files_and_scores(
    work: Workplace, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "load_settings", lambda: work.settings)
    monkeypatch.setattr(shared, "Workplace", lambda settings: work)
    arguments = ["map", "--output", str(tmp_path), "--task"]
    done = CliRunner().invoke(cli, [*arguments, "41"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[:2] == [str(tmp_path / f"task-41-map.{kind}") for kind in ("png", "npz")]
    assert lines[-1].startswith("least_confidence, probability")
    found = json.loads(CliRunner().invoke(cli, [*arguments, "41", "--json"]).stdout)
    assert json_keys()["backend map"] == found.keys()
    assert found["files"] == lines[:2]
    done = CliRunner().invoke(cli, [*arguments, "99"])
    assert done.exit_code == 1
    assert "has no task 99" in done.output
