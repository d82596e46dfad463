"""A project's counts without a server: a real ledger and registry, a Label Studio from memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from backend.cli import cli
from backend.commands import shared
from backend.commands.replay.strokes import label_config, strokes
from backend.errors import BadRequest, ImageRefused, StudioUnreachable, UnknownProject
from backend.insight.counts.project import ALL, NO_GROUP, ProjectCounts, count_project
from backend.insight.counts.text import describe_counts
from backend.label_studio.bulk import Project as StudioProject
from backend.label_studio.bulk import Studio, Task
from backend.label_studio.client import Json
from backend.ledger import Project
from backend.rounds.schedule import is_audit
from backend.settings import Settings
from backend.workplace import Workplace
from tests.backend.workplaces import make_settings
from tests.training.discs import CLASSES, disc_example
from training.config import TrainConfig
from training.examples import image_digest
from training.fitting.folds import fold
from training.images import encode_png
from training.networks.build import build_network
from training.particles.instances import instances

OWN = "tests.training.laboratory:small"
UNKNOWN = "Unknown"
URL = "http://studio.invalid"
CREATED = 1_700_000_000
TASKS = range(1, 17)
LEARNT: tuple[int, ...] = (2, 3)


class MemoryStudio(Studio):
    """Sixteen tasks of drawn discs, and their annotations."""

    def __init__(self) -> None:
        super().__init__(URL, "f" * 40)
        self.submitted: dict[int, list[Json]] = {}
        self.fetched: list[int] = []
        self.gone: set[int] = set()
        self.patient = "A"

    def tasks(self, project_id: int, ids: Iterable[int] | None = None) -> Iterator[Task]:
        for task_id in TASKS:
            data = {
                "image": f"/data/upload/{task_id}.png",
                "patient": self.patient if task_id < 9 else "B",
            }
            if task_id == 16:
                del data["patient"]
            held = self.submitted.get(task_id, [])
            skipped = sum(each["was_cancelled"] for each in held)
            yield Task(task_id, cast(Json, data), len(held) - skipped, skipped)

    def project(self, project_id: int) -> StudioProject:
        config = label_config(CLASSES, UNKNOWN)
        return StudioProject(project_id, "discs", CREATED, config, "", "", 1, 0, {})

    def annotations_of(
        self, project_id: int, task_ids: Iterable[int]
    ) -> Iterator[tuple[int, list[Json]]]:
        for task_id in sorted(task_ids):
            yield task_id, self.submitted.get(task_id, [])

    def fetch(self, url: str) -> bytes:
        task_id = int(url.rpartition("/")[2].removesuffix(".png"))
        if task_id in self.gone:
            raise ImageRefused(f"{url} is gone.")
        self.fetched.append(task_id)
        return encode_png(disc_example("", task_id).image)

    def label(self, task_id: int, **fields: Any) -> None:
        mask = disc_example("", task_id).mask
        made = {"id": task_id, "was_cancelled": False, "parent_prediction": None}
        made |= {"result": strokes(mask, CLASSES, UNKNOWN, None), **fields}
        self.submitted.setdefault(task_id, []).append(made)


@pytest.fixture
def studio() -> MemoryStudio:
    return MemoryStudio()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path / "data", label_studio_url=URL, network=OWN, engine="torch")


@pytest.fixture
def work(work: Workplace, studio: MemoryStudio) -> Workplace:
    work.studio = studio
    work.images = cast(Any, studio)
    return work


@pytest.fixture
def project(work: Workplace) -> Project:
    """Project 7: every second task is an audit, a version learnt from two others."""
    row = work.ledger.projects.ensure(URL, 7, CREATED, extra_params={})
    options = {"unknown_label": UNKNOWN, "audit_fraction": 0.5, "min_particle_px": 1}
    work.ledger.projects.update(row.id, connected=True, extra_params=options)
    return work.ledger.projects.get(row.id)


def save_a_version(work: Workplace, row: Project, members: int = 2) -> None:
    config = TrainConfig(CLASSES, members=members, network=OWN)
    weights = []
    for member in range(members):
        torch.manual_seed(member)
        weights.append(build_network(config).state_dict())
    entries = [{"task": task, "digest": "d", "audit": False} for task in LEARNT]
    entries.append({"task": audits(row)[-1], "digest": "d", "audit": True})
    round_ = work.ledger.rounds.start(row.id, "train", "asked for", "collect", {})
    assert round_ is not None
    work.registry.save_version(
        row.slug, 1, weights, config, {"entries": entries}, {"temperature": 1.0}
    )
    work.ledger.versions.record(
        row.id,
        1,
        round_.id,
        state="promoted",
        reason="the first",
        members=members,
        classes=CLASSES,
        metrics={},
    )


def audits(row: Project) -> list[int]:
    """Those of the tasks that taught nothing."""
    return [task for task in TASKS if is_audit(row.slug, task, 0.5) and task not in LEARNT]


def plain(found: ProjectCounts) -> dict[int, list[float]]:
    return {image.task: image.predicted.counts.tolist() for image in found.images}


def test_every_image_is_predicted_once_and_learnt_ones_out_of_fold(
    work: Workplace, project: Project, studio: MemoryStudio, tmp_path: Path
) -> None:
    save_a_version(work, project)
    told: list[tuple[int, int]] = []
    found = count_project(work, 7, tmp_path, progress=lambda *done: told.append(done))
    assert sorted(studio.fetched) == list(TASKS)
    assert told[-1] == (16, 16)
    committee = work.registry.load(project.slug, 1)
    for task in (1, *LEARNT):
        image = disc_example("", task).image
        mask = committee.predict(image).mask()
        if task in LEARNT:
            member = fold(str(task), 2)
            mask = committee.ensemble.logits(image, member).argmax(dim=0).numpy().astype(np.uint8)
        counts = np.bincount(instances(mask).classes, minlength=3)
        assert plain(found)[task] == counts.tolist()
    # A second run asks for no image again, one of other options for all of them.
    again = count_project(work, 7, tmp_path)
    assert (plain(again), len(studio.fetched)) == (plain(found), 16)
    options = {**(project.extra_params or {}), "min_particle_px": 5}
    work.ledger.projects.update(project.id, extra_params=options)
    count_project(work, 7, tmp_path)
    assert len(studio.fetched) == 32


def test_what_was_counted_before_label_studio_went_away_is_kept(
    work: Workplace,
    project: Project,
    studio: MemoryStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_a_version(work, project)
    # One image after the other, as large ones are.
    monkeypatch.setattr("training.committee.committee.BATCH_PX", {"cpu": 1})
    fetch = studio.fetch

    def stop(url: str) -> bytes:
        if len(studio.fetched) == 10:
            raise StudioUnreachable("away")
        return fetch(url)

    monkeypatch.setattr(studio, "fetch", stop)
    with pytest.raises(StudioUnreachable):
        count_project(work, 7, tmp_path)
    (kept,) = tmp_path.glob("predicted-v1-*.jsonl")
    lines = kept.read_text().splitlines()
    assert 0 < len(lines) <= 10
    kept.write_text("\n".join([*lines[:-1], lines[-1][:20]]))  # as when the power went
    monkeypatch.setattr(studio, "fetch", fetch)
    assert len(count_project(work, 7, tmp_path).images) == 16
    assert len(studio.fetched) == 10 + 16 - len(lines) + 1
    count_project(work, 7, tmp_path)
    assert len(studio.fetched) == 10 + 16 - len(lines) + 1


def test_audits_correct_the_counts_and_what_became_of_each_is_told(
    work: Workplace,
    project: Project,
    studio: MemoryStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.quality.counts.FEWEST_SHOWN", 4)
    first, second, third, fourth, fifth, *rest = audits(project)
    save_a_version(work, project)
    studio.label(first)
    studio.label(first, id=900)
    studio.label(second, parent_prediction=5)
    changed = strokes(disc_example("", third).mask, CLASSES, UNKNOWN, None)
    studio.label(third, result=[{**part, "origin": "prediction-changed"} for part in changed])
    nothing = np.full((72, 88), 255, np.uint8)
    studio.label(fourth, result=strokes(nothing, CLASSES, UNKNOWN, None))
    studio.label(fifth, was_cancelled=True)
    studio.label(LEARNT[0])
    found = count_project(work, 7, tmp_path, "patient")
    became = found.audits
    assert (became.counted, became.prepared, became.shared) == (3, 2, 1)
    assert (became.waiting, became.skipped, became.unknown) == (len(rest), 1, 1)
    assert (found.learnt, found.out_of_fold) == (2, True)
    roles = {image.task: image.role for image in found.images}
    # As the labelled images are, each image by its own member too.
    image = disc_example("", first).image
    committee = work.registry.load(project.slug, 1)
    member = committee.ensemble.logits(image, fold(str(first), 2)).argmax(dim=0).numpy()
    (alone,) = [each.by_member for each in found.images if each.task == first]
    assert alone is not None
    assert (
        alone.counts.tolist()
        == np.bincount(instances(member.astype(np.uint8)).classes, minlength=3).tolist()
    )
    assert all(each.by_member is not None for each in found.images)
    for each in found.images:
        if each.task in LEARNT and each.by_member is not None:
            assert each.by_member.counts.tolist() == each.predicted.counts.tolist()
    assert (roles[first], roles[LEARNT[0]], roles[fourth]) == ("audit", "labelled", "pool")
    dark = [row for row in found.rows if (row.measure, row.class_name) == ("count", "dark")]
    assert [row.group for row in dark] == [ALL, NO_GROUP, "A", "B"]
    assert [row.pool.images for row in dark] == [16, 1, 8, 7]
    truth = [len(instances(disc_example("", t).mask == 1).classes) for t in (first, second, third)]
    assert dark[0].pool.counted == pytest.approx(np.mean(truth))
    assert dark[0].pool.corrected is None
    assert "of 3 audits show it" in dark[0].pool.reason
    # A second pass only where there are audits enough for an interval.
    monkeypatch.setattr("training.quality.counts.FEWEST_SHOWN", 5)
    assert all(each.by_member is None for each in count_project(work, 7, tmp_path).images)


def test_images_that_go_between_the_two_passes_are_said(
    work: Workplace,
    project: Project,
    studio: MemoryStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.quality.counts.FEWEST_SHOWN", 1)
    save_a_version(work, project)
    studio.label(audits(project)[0])

    def gone(done: int, of: int) -> None:
        studio.gone = set(TASKS) if done == of else studio.gone

    # Two images were predicted by one member in the first pass: they taught the version.
    found = count_project(work, 7, tmp_path, progress=gone)
    assert (len(found.images), len(found.unreadable)) == (2, 14)


def test_a_group_called_like_one_of_ours_has_a_name_of_its_own(
    work: Workplace, project: Project, studio: MemoryStudio, tmp_path: Path
) -> None:
    save_a_version(work, project)
    studio.patient = ALL
    groups = {row.group for row in count_project(work, 7, tmp_path, "patient").rows}
    assert groups == {ALL, NO_GROUP, f"patient: {ALL}", "B"}


def test_an_audit_that_taught_the_version_is_none(
    work: Workplace,
    project: Project,
    studio: MemoryStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{__name__}.LEARNT", LEARNT + tuple(audits(project)[:1]))
    save_a_version(work, project, members=1)
    studio.label(LEARNT[-1])
    found = count_project(work, 7, tmp_path)
    assert (found.audits.learnt, found.audits.counted) == (1, 0)
    assert (found.learnt, found.out_of_fold) == (3, False)


def test_images_that_the_version_from_elsewhere_learnt_from_are_left_out(
    work: Workplace, project: Project, studio: MemoryStudio, tmp_path: Path
) -> None:
    save_a_version(work, project)
    known, other = audits(project)[:2]
    (current,) = work.ledger.versions.all(project.id)
    work.ledger.versions.record(
        project.id,
        2,
        current.round_id,
        state="rejected",
        reason="as another test has it",
        members=2,
        classes=CLASSES,
        metrics={"started_from": {"images": [image_digest(disc_example("", known).image)]}},
    )
    for task in (known, other):
        studio.label(task)
    found = count_project(work, 7, tmp_path)
    assert (found.elsewhere, len(found.images), found.audits.counted) == (1, 15, 1)
    assert known not in plain(found)
    assert "1 images are among those" in describe_counts(found)


def test_images_that_cannot_be_read_are_left_out_and_named(
    work: Workplace, project: Project, studio: MemoryStudio, tmp_path: Path
) -> None:
    save_a_version(work, project)
    studio.gone = {4, 9}
    found = count_project(work, 7, tmp_path)
    assert (len(found.images), [task for task, _ in found.unreadable]) == (14, [4, 9])
    studio.gone = set()
    assert len(count_project(work, 7, tmp_path).images) == 16
    studio.gone = set(TASKS)
    with pytest.raises(ImageRefused, match="has no image that can be read"):
        count_project(work, 7, tmp_path / "other")


def test_what_cannot_be_counted_is_said_in_a_sentence(
    work: Workplace, project: Project, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="has no version yet"):
        count_project(work, 7, tmp_path)
    with pytest.raises(UnknownProject):
        count_project(work, 8, tmp_path)
    save_a_version(work, project)
    with pytest.raises(BadRequest, match=r"holds the key 'slide' \(they hold image, patient\)"):
        count_project(work, 7, tmp_path, "slide")
    (tmp_path / "file").touch()
    with pytest.raises(BadRequest, match="cannot be written to"):
        count_project(work, 7, tmp_path / "file" / "below")


def test_the_command_writes_its_files_and_prints_what_they_rest_on(
    work: Workplace,
    project: Project,
    studio: MemoryStudio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_a_version(work, project)
    for task in audits(project):
        studio.label(task, parent_prediction=1)
    studio.gone = {4}
    monkeypatch.setattr("training.quality.counts.FEWEST_SHOWN", 5)
    monkeypatch.setattr("training.quality.counts.MOST_BEYOND", 1.0)
    monkeypatch.setattr(shared, "load_settings", lambda: work.settings)
    monkeypatch.setattr(shared, "Workplace", lambda settings: work)
    arguments = ["counts", "--project", "7", "--group-by", "patient", "--output", str(tmp_path)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "a person corrected a pre-annotation" in done.stdout
    assert "1 images could not be read" in done.stdout
    rows = list(csv.DictReader((tmp_path / "counts.csv").read_text().splitlines()))
    dark = next(row for row in rows if (row["class"], row["group"]) == ("dark", ALL))
    low, high = float(dark["corrected_low_total"]), float(dark["corrected_high_total"])
    truth = [len(instances(disc_example("", t).mask == 1).classes) for t in TASKS if t != 4]
    assert low <= sum(truth) <= high
    images = list(csv.DictReader((tmp_path / "images.csv").read_text().splitlines()))
    assert len(images) == 16
    assert images[-1]["unreadable"].endswith("is gone.")
    assert {image["dark counted"] != "" for image in images if image["role"] == "audit"} == {True}
    assert (tmp_path / "counts.png").read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    told = json.loads(done.stdout)
    assert (told["images"], told["audits"]["counted"]) == (
        15,
        len(audits(project)) - (4 in audits(project)),
    )
    assert len(told["rows"]) == 2 * 2 * 4
