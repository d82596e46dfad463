"""Versions whose files are not what was saved, and what looks in their place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backend.fallback import damage_of, describe_damage, load_whole, whole_version
from backend.ledger import Project
from backend.predict import REST_TASKS, predict_tasks
from backend.rounds.stages.choose import version_that_ranks
from backend.settings import Settings
from backend.workplace import Workplace
from tests.backend import rows
from tests.backend.workplaces import brush_config, make_settings
from tests.training.discs import CLASSES
from training.committee.checksums import DamagedVersion, UnknownVersion
from training.config import TrainConfig
from training.networks.build import build_network

LABEL_CONFIG = brush_config("dark", "bright")
CONFIG = TrainConfig(CLASSES, members=2, network="unet", crop_px=64)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, label_studio_url="http://127.0.0.1:1", engine="torch")


@pytest.fixture
def project(work: Workplace) -> Project:
    """With versions 1 to 4, of which 3 was made and never promoted."""
    row = work.ledger.projects.ensure(work.server, 7, 1795468845, title="Urine")
    round_ = work.ledger.rounds.start(row.id, "train", "a test's", "collect", {})
    assert round_ is not None
    for number in (1, 2, 3, 4):
        torch.manual_seed(number)
        weights = [build_network(CONFIG).state_dict() for _ in range(2)]
        work.registry.save_version(row.slug, number, weights, CONFIG, {}, {"temperature": 1.0})
        work.ledger.versions.record(
            row.id,
            number,
            round_.id,
            state="kept" if number == 3 else "promoted",
            reason="a test's",
            members=2,
            classes=CLASSES,
            metrics={},
        )
    return row


def folder(work: Workplace, project: Project, number: int) -> Path:
    return work.registry.version_path(project.slug, number)


def truncate(version: Path) -> None:
    path = version / "member-01.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def alter(version: Path) -> None:
    path = version / "member-00.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


def lose(version: Path) -> None:
    (version / "config.json").unlink()


def empty_the_list(version: Path) -> None:
    (version / "version.json").write_text("")


def put_a_folder(version: Path) -> None:
    (version / "metrics.json").unlink()
    (version / "metrics.json").mkdir()


EVERY_DAMAGE = [truncate, alter, lose, empty_the_list, put_a_folder, shutil.rmtree]


def test_a_whole_version_looks_itself(work: Workplace, project: Project) -> None:
    assert damage_of(work, project, 4) is None
    assert whole_version(work, project, 4) == 4
    assert load_whole(work, project, 4).version == 4


@pytest.mark.parametrize("damage", EVERY_DAMAGE)
def test_the_promoted_one_before_a_damaged_version_looks(
    work: Workplace, project: Project, damage: Callable[[Path], None]
) -> None:
    damage(folder(work, project, 4))
    said = damage_of(work, project, 4)
    assert said is not None
    assert whole_version(work, project, 4) == 2  # 3 was never good enough
    assert load_whole(work, project, 4).version == 2
    ranks, problems = version_that_ranks(work, project)
    assert ranks.number == 2
    assert problems == [describe_damage(4, said, 2)]
    assert "version 2 predicts new images until a round makes another" in problems[0]


def test_a_restored_version_looks_again_by_itself(work: Workplace, project: Project) -> None:
    version = folder(work, project, 4)
    kept = version.rename(version.with_name("away"))
    assert load_whole(work, project, 4).version == 2
    kept.rename(version)
    assert load_whole(work, project, 4).version == 4
    assert version_that_ranks(work, project)[1] == []


def test_without_any_whole_version_the_sentence_is_of_the_one_that_ranks(
    work: Workplace, project: Project
) -> None:
    for number in (1, 2):
        shutil.rmtree(folder(work, project, number))
    truncate(folder(work, project, 4))
    assert whole_version(work, project, 4) is None
    with pytest.raises(DamagedVersion, match=r"member-01\.safetensors should have the SHA-256"):
        load_whole(work, project, 4)
    with pytest.raises(DamagedVersion, match="Version 4 is damaged, so no new image is predicted"):
        version_that_ranks(work, project)
    shutil.rmtree(folder(work, project, 4))
    with pytest.raises(UnknownVersion, match="no version 4"):
        load_whole(work, project, 4)


def test_what_predict_has_no_time_for_is_queued_in_pieces(
    work: Workplace, project: Project
) -> None:
    work.ledger.projects.ensure(work.server, 7, 1795468845, label_config=LABEL_CONFIG)
    row = work.ledger.projects.get(project.id)
    tasks = [(task_id, {"image": "/data/upload/1/a.png"}) for task_id in range(2 * REST_TASKS + 3)]
    publication = rows.publication(4)
    assert predict_tasks(work, row, publication, tasks, within_s=0) == [[] for _ in tasks]
    queued = [event.ids for event in work.ledger.events.pending(project.id)]
    assert [len(ids) for ids in queued] == [REST_TASKS, REST_TASKS, 3]
    assert [task_id for ids in queued for task_id in ids] == [task_id for task_id, _ in tasks]


def test_what_label_studio_gives_no_image_of_now_is_queued(
    work: Workplace, project: Project
) -> None:
    work.ledger.projects.ensure(work.server, 7, 1795468845, label_config=LABEL_CONFIG)
    row = work.ledger.projects.get(project.id)
    tasks = [(task_id, {"image": "/data/upload/1/a.png"}) for task_id in (5, 6)]
    publication = rows.publication(4)
    assert predict_tasks(work, row, publication, tasks) == [[], []]
    (event,) = work.ledger.events.pending(project.id)
    assert event.ids == [5, 6]
