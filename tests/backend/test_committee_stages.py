"""Fitting, assembling and scoring by the stages themselves, without a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from backend import stages
from backend.options import parse_options
from backend.settings import Settings
from backend.status import quality, quality_in_words
from backend.workplace import Workplace
from tests.training.discs import CLASSES, disc_examples
from training.config import TrainConfig
from training.network import ForeignNetwork
from training.own_network import BadNetwork
from training.registry import Registry

SLUG = "server-1-2"
OWN = "tests.training.laboratory:small"
TINY = TrainConfig(CLASSES, members=2, network="unet", crop_px=64, batch=4, steps=30)


def settings_of(tmp_path: Path, **values: Any) -> Settings:
    return Settings(data_dir=tmp_path, _env_file=None, **values)  # type: ignore[call-arg]


def work_of(tmp_path: Path, **values: Any) -> Workplace:
    return Workplace(settings_of(tmp_path, **values))


def test_the_environment_chooses_the_network_and_a_project_goes_first(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, network=OWN)
    chosen = stages.train_config(CLASSES, 3, parse_options({}), settings)
    assert (chosen.network, chosen.members) == (OWN, 3)
    own = parse_options({"network": "unet", "steps": 7})
    assert stages.train_config(CLASSES, 3, own, settings).network == "unet"
    assert stages.train_config(CLASSES, 3, own, settings).steps == 7


def test_the_weights_to_start_from_are_named_with_their_checksum(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"some weights")
    settings = settings_of(tmp_path, network=OWN, network_weights=weights)
    chosen = stages.train_config(CLASSES, 3, parse_options({}), settings)
    assert chosen.network_weights == str(weights)
    assert len(chosen.network_weights_sha256) == 64
    # They are of the environment's network, not of one that a project chooses.
    other = stages.train_config(CLASSES, 3, parse_options({"network": "unet"}), settings)
    assert other.network_weights == ""
    weights.unlink()
    with pytest.raises(BadNetwork, match="cannot be read"):
        stages.train_config(CLASSES, 3, parse_options({}), settings)


def test_steps_are_derived_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = work_of(tmp_path)
    measured = iter((310, 99))
    monkeypatch.setattr(stages, "steps_within", lambda seconds, config: next(measured))
    assert stages._budget(work, SLUG, TINY) == 310
    assert stages._budget(work, SLUG, TINY) == 310
    assert stages._budget(work_of(tmp_path), SLUG, TINY) == 310
    assert stages._budget(work, SLUG, replace(TINY, batch=2)) == 99
    kept = work.registry.root / SLUG / "steps.json"
    kept.write_text("{")  # damaged: derived anew, and the round goes on
    monkeypatch.setattr(stages, "steps_within", lambda seconds, config: 5)
    assert stages._budget(work, SLUG, TINY) == 5


def test_another_workers_own_network_is_not_imported(tmp_path: Path) -> None:
    config = replace(TINY, network="this:runs_code").to_json()
    round_ = {"project_id": 1, "id": 7, "config": config, "manifest": [], "version": 1}
    work = work_of(tmp_path, network=OWN)
    work.ledger = cast(Any, SimpleNamespace(project=lambda _id: {"slug": SLUG}))
    for stage in (stages.fit, stages.assemble):
        with pytest.raises(ForeignNetwork, match="set NETWORK=this:runs_code"):
            stage(work, round_, {"member": 0}, lambda _share: None)


class FakeLedger:
    """What ``assemble`` asks and tells; the real one needs a project of Label Studio."""

    def __init__(self, former: dict[str, Any] | None) -> None:
        self.former = former
        self.recorded: dict[str, Any] = {}

    def project(self, _id: int) -> dict[str, Any]:
        return {"slug": SLUG}

    def promoted_version(self, _id: int) -> dict[str, Any] | None:
        return self.former

    def evidence(self, _id: int) -> list[dict[str, Any]]:
        return []

    def versions(self, _id: int) -> list[dict[str, Any]]:
        return []

    def record_version(self, project_id: int, number: int, round_id: int, **values: Any) -> None:
        self.recorded = {"number": number, **values}


def test_a_former_version_that_cannot_be_read_holds_nothing_up(tmp_path: Path) -> None:
    work = work_of(tmp_path)
    ledger = FakeLedger({"number": 1})
    work.ledger = cast(Any, ledger)
    examples = disc_examples(8)
    manifest = []
    for example in examples:
        work.registry.put_example(SLUG, example.key, example)
        manifest.append({"task": example.key, "digest": example.key, "audit": False})
    round_ = {
        "project_id": 1,
        "id": 7,
        "config": TINY.to_json(),
        "manifest": manifest,
        "version": 2,
    }
    for member in range(2):
        stages.fit(work, round_, {"member": member}, lambda _share: None)
    outcome = stages.assemble(work, round_, {}, lambda _share: None)
    assert outcome.result == {"version": 2, "promoted": True}
    assert ledger.recorded["reason"].startswith("Version 1 cannot be read")
    shown = ledger.recorded["metrics"]["labelled_images"]
    assert shown == dict.fromkeys(CLASSES, 8)
    # The version holds its picture, and is compiled already.
    sheet = work.registry.sheet_path(SLUG, 2)
    assert sheet is not None
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert list(work.registry.version_path(SLUG, 2).glob("compiled-*.blob"))
    # With the former one whole again, the two are compared.
    ledger.former = {"number": 2}
    stages.assemble(work, {**round_, "version": 3}, {}, lambda _share: None)
    assert ledger.recorded["reason"].startswith("Foreground Dice changed by +0.000")


def test_what_a_version_is_worth_is_told_in_words() -> None:
    metrics = {
        "foreground_dice": 0.8123,
        "ece": 0.0121,
        "ece_uncalibrated": 0.034,
        "temperature": 1.4,
        "out_of_fold": True,
    }
    said = "out-of-fold foreground Dice 0.812, calibration error 0.012 (0.034 before)"
    assert quality_in_words(metrics) == said
    assert quality_in_words({}) == ""
    assert quality(metrics)["temperature"] == 1.4
    assert quality(metrics)["iou"] is None


def test_an_example_of_any_channels_comes_back(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    example = disc_examples(1)[0]
    five = replace(example, image=np.repeat(example.image[..., :1], 5, axis=2))
    registry.put_example(SLUG, "five", five)
    assert registry.get_example(SLUG, "five").image.shape[2] == 5
