"""Fitting and assembling by the stages themselves, without a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from backend.ledger import Round
from backend.rounds.stages.assemble import assemble, labelled_images
from backend.rounds.stages.fit import fit
from backend.settings import Settings
from backend.workplace import Workplace
from tests.training.discs import CLASSES, disc_examples
from training.committee.folders import SHEET_FILE
from training.committee.out_of_fold import read_predicted
from training.committee.store.store import VersionTaken
from training.committee.version import read_version
from training.config import TrainConfig
from training.examples import Example
from training.networks.build import ForeignNetwork

SLUG = "server-1-2"
OWN = "tests.training.laboratory:small"
TINY = TrainConfig(CLASSES, members=2, network=OWN, crop_px=64, batch=4, steps=30)


def work_of(tmp_path: Path, **values: Any) -> Workplace:
    settings = Settings(data_dir=tmp_path, _env_file=None, **values)  # type: ignore[call-arg]
    return Workplace(settings)


def training_round(version: int, manifest: list[Any], config: str) -> Round:
    round_ = Round(
        project_id=1,
        kind="train",
        reason="",
        stage="fit",
        version=version,
        config=config,
        manifest=manifest,
        started_at=0.0,
        stage_started_at=0.0,
    )
    round_.id = 7
    return round_


def test_another_workers_own_network_is_not_imported(tmp_path: Path) -> None:
    config = replace(TINY, network="this:runs_code").to_json()
    round_ = training_round(1, [], config)
    work = work_of(tmp_path, network=OWN)
    work.ledger = cast(Any, FakeLedger(None))
    for stage in (fit, assemble):
        with pytest.raises(ForeignNetwork, match="set NETWORK=this:runs_code"):
            stage(work, round_, {"member": 0}, lambda _share: None)


class FakeLedger:
    """What ``assemble`` asks and tells; the real one needs a project of Label Studio."""

    def __init__(self, former: SimpleNamespace | None) -> None:
        self.former = former
        self.recorded: dict[str, Any] = {}
        self.projects = SimpleNamespace(get=lambda _id: SimpleNamespace(slug=SLUG))
        self.evidence = SimpleNamespace(all=lambda _id: [])
        self.results: dict[str, list[Any]] = {"collect": [], "fit": []}
        self.parts = SimpleNamespace(results=lambda _id, stage: self.results[stage])
        self.versions = SimpleNamespace(
            promoted=lambda _id: self.former, all=lambda _id: [], record=self._record
        )

    def _record(self, project_id: int, number: int, round_id: int, **values: Any) -> None:
        self.recorded = {"number": number, **values}


def test_a_former_version_that_cannot_be_read_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_of(tmp_path, network=OWN)
    ledger = FakeLedger(SimpleNamespace(number=1))
    work.ledger = cast(Any, ledger)
    examples = disc_examples(8)
    manifest = []
    for example in examples:
        work.registry.put_example(SLUG, example.key, example)
        manifest.append({"task": example.key, "digest": example.key, "audit": False})
    round_ = training_round(2, manifest, TINY.to_json())
    budget = {"steps": 30, "knee": 400, "images": 8, "seconds": 40.0, "step_s": 0.5}
    ledger.results["collect"] = [{"budget": {**budget, "chosen": False, "cost": "a key"}}]
    for member in range(2):
        done = fit(work, round_, {"member": member}, lambda _share: None)
        ledger.results["fit"].append(done.result)
    # A part that is run again finds its member there.
    again = fit(work, round_, {"member": 0}, lambda _share: None)
    assert again.result == {"member": 0}
    outcome = assemble(work, round_, {}, lambda _share: None)
    assert outcome.result == {"version": 2, "promoted": True}
    assert ledger.recorded["reason"].startswith("Version 1 cannot be read")
    # What a step took is kept, for the next round's budget.
    taken = sum(result["seconds"] for result in ledger.results["fit"])
    kept = ledger.recorded["metrics"]["budget"]
    assert kept["step_s"] == pytest.approx(taken / 60)
    assert (kept["steps"], kept["knee"]) == (30, 400)
    shown = ledger.recorded["metrics"]["labelled_images"]
    assert shown == dict.fromkeys(CLASSES, 8)
    # The version holds its picture, and is compiled already.
    sheet = work.registry.version_path(SLUG, 2) / SHEET_FILE
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert list(work.registry.version_path(SLUG, 2).glob("compiled-*.blob"))
    # So does it what was predicted of the labelled images.
    predicted = read_predicted(work.registry.version_path(SLUG, 2), examples[0].key)
    assert predicted.shape == examples[0].mask.shape
    # With the former one whole again, the two are compared.
    ledger.former = SimpleNamespace(number=2)
    ledger.results["collect"] = [{"labelled": 8}]  # by an earlier release
    assemble(work, training_round(3, manifest, TINY.to_json()), {}, lambda _share: None)
    assert "budget" not in ledger.recorded["metrics"]
    assert ledger.recorded["reason"].startswith("Foreground Dice changed by +0.000")
    # Where another attempt at this very version has written it already, that one counts.

    def taken(*_given: Any) -> Path:
        raise VersionTaken("there is another one")

    monkeypatch.setattr(work.registry, "save_version", taken)
    ledger.former = SimpleNamespace(number=1)
    assemble(work, round_, {}, lambda _share: None)
    assert ledger.recorded["metrics"] == read_version(work.registry.version_path(SLUG, 2)).metrics
    with pytest.raises(VersionTaken):
        assemble(work, training_round(3, manifest[1:], TINY.to_json()), {}, lambda _share: None)


def test_images_are_counted_for_each_class_that_they_show() -> None:
    masks = [[[0, 1], [1, 255]], [[1, 1], [1, 1]], [[0, 0], [0, 255]]]
    examples = [
        Example(str(i), np.zeros((2, 2, 3), np.uint8), np.array(mask, np.uint8))
        for i, mask in enumerate(masks)
    ]
    counts = labelled_images(examples, ("background", "cell", "cast"))
    assert counts == {"background": 2, "cell": 2, "cast": 0}
