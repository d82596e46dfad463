"""A project that is purged leaves nothing in DATA_DIR."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from rq import Queue

from backend.actions.connect import disconnect_project
from backend.actions.purge import remove_strays
from backend.data_dir import clicks_folder, registry_cache
from backend.errors import BadRequest
from backend.jobs.clock import Clock
from backend.jobs.parts import do_part
from backend.ledger import Outcome, Project, Round
from backend.ledger.shapes import NoPayload
from backend.rounds.stages import RUN
from backend.workplace import Workplace
from training.committee.removals import LOCK_FILE, removals_held
from training.config import TrainConfig
from training.examples import Example
from training.networks.build import skeleton

CONFIG = TrainConfig(("background", "Cell"), members=1, network="unet")


def filled(work: Workplace, number: int) -> Project:
    """A project of which the registry holds all that it can hold."""
    row = work.ledger.projects.ensure(work.server, number, 1, title=f"Ward {number}")
    pixels = np.zeros((4, 4, 3), np.uint8)
    weights = [skeleton(CONFIG).state_dict()]
    work.registry.save_version(row.slug, 1, weights, CONFIG, {}, {"temperature": 1.0})
    work.registry.put_example(row.slug, "d1", Example(f"{number}", pixels, pixels[..., 0]))
    work.registry.put_round(row.slug, 1, "member-00.safetensors", b"weights")
    clicks = clicks_folder(work.settings.data_dir) / row.slug
    clicks.mkdir(parents=True)
    (clicks / "1.bin").write_bytes(b"probabilities")
    return row


def files(work: Workplace) -> dict[Path, bytes]:
    """All files of DATA_DIR but the ledger's, which has a test of its own, and an empty lock."""
    found = (path for path in work.settings.data_dir.rglob("*") if path.is_file())
    return {
        path: path.read_bytes()
        for path in found
        if not path.name.startswith("ledger.sqlite3") and path.name != LOCK_FILE
    }


def test_no_file_is_left_of_a_project_that_is_purged(work: Workplace) -> None:
    filled(work, 3)
    before = files(work)
    purged = filled(work, 4)
    assert any(purged.slug in str(path) for path in files(work))
    disconnect_project(work, 4, purge=True)
    assert files(work) == before
    assert not [path for path in work.settings.data_dir.rglob("*") if purged.slug in path.name]


def test_what_could_not_be_removed_is_said_and_can_be_asked_for_again(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = filled(work, 4)

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        with pytest.raises(BadRequest, match=r"Not all of .*Permission denied.* again"):
            disconnect_project(work, 4, purge=True)
    with removals_held(work.registry.root), pytest.raises(BadRequest, match="backup"):
        disconnect_project(work, 4, purge=True)
    disconnect_project(work, 4, purge=True)
    assert not (work.registry.root / row.slug).exists()


def test_what_this_host_kept_of_a_project_that_was_purged_on_another_one_goes(
    work: Workplace,
) -> None:
    kept, purged = filled(work, 3), filled(work, 4)
    caches = [clicks_folder(work.settings.data_dir), registry_cache(work.settings.data_dir) / "aa"]
    for row in (kept, purged):  # as of an object store
        (caches[1] / row.slug / "examples").mkdir(parents=True)
        (caches[1] / row.slug / "examples/d1.npz").write_bytes(b"an image")
    work.ledger.projects.forget(purged.id)
    remove_strays(work.settings, work.ledger)
    assert [[path.name for path in cache.iterdir()] for cache in caches] == [[kept.slug]] * 2


def test_a_worker_looks_for_it_too(work: Workplace) -> None:
    purged = filled(work, 4)
    work.ledger.projects.forget(purged.id)
    Clock(work)._clean(cast(Queue, None))  # no project is connected, so nothing is queued
    assert not (clicks_folder(work.settings.data_dir) / purged.slug).exists()


def test_a_job_that_was_under_way_leaves_nothing_of_a_purged_project(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = filled(work, 4)
    round_ = work.ledger.rounds.start(row.id, "train", "asked for", "collect", {})
    assert round_ is not None
    part = work.ledger.parts.take(work.ledger.parts.of_round(round_.id)[0].id, "lab-1-0")
    assert part is not None

    def collect(
        work: Workplace, _round: Round, _payload: NoPayload, _tick: Callable[[float], None]
    ) -> Outcome:
        disconnect_project(work, 4, purge=True)
        work.registry.put_round(row.slug, round_.id, "late", b"written after the purge")
        return Outcome()

    monkeypatch.setitem(RUN, "collect", collect)  # type: ignore[arg-type]
    do_part(work, part)
    assert not (work.registry.root / row.slug).exists()
