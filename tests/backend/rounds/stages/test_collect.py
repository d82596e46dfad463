"""What a round is to train, settled before it trains."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from backend.errors import NotEnoughLabels
from backend.label_studio.label_config import build_label_config, parse_label_config
from backend.options import parse_options
from backend.rounds.stages import collect
from backend.settings import Settings
from backend.workplace import Workplace
from tests.training.discs import CLASSES
from training.config import TrainConfig
from training.fitting.folds import fold
from training.networks.own_network import BadNetwork

SLUG = "server-1-2"
OWN = "tests.training.laboratory:small"
TINY = TrainConfig(CLASSES, members=2, network="unet", crop_px=64, batch=4, steps=30)


def settings_of(tmp_path: Path, **values: Any) -> Settings:
    return Settings(data_dir=tmp_path, _env_file=None, **values)  # type: ignore[call-arg]


def test_labels_that_leave_a_member_nothing_are_refused_before_training() -> None:
    together = [str(key) for key in range(200) if fold(str(key), 5) == 2][:3]
    with pytest.raises(NotEnoughLabels, match="all 3 labelled ones fall into the same share"):
        collect.check_folds(together, 5)
    apart = next(str(key) for key in range(200) if fold(str(key), 5) == 4)
    collect.check_folds([*together, apart], 5)
    collect.check_folds(together[:1], 1)  # a lone member trains on all


def test_the_environment_chooses_the_network_and_a_project_goes_first(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, network=OWN)
    chosen = collect.train_config(CLASSES, 3, parse_options({}), settings)
    assert (chosen.network, chosen.members) == (OWN, 3)
    own = parse_options({"network": "unet", "steps": 7})
    assert collect.train_config(CLASSES, 3, own, settings).network == "unet"
    assert collect.train_config(CLASSES, 3, own, settings).steps == 7


def test_the_weights_to_start_from_are_named_with_their_checksum(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"some weights")
    settings = settings_of(tmp_path, network=OWN, network_weights=weights)
    chosen = collect.train_config(CLASSES, 3, parse_options({}), settings)
    assert chosen.network_weights == str(weights)
    assert len(chosen.network_weights_sha256) == 64
    # They are of the environment's network, not of one that a project chooses.
    other = collect.train_config(CLASSES, 3, parse_options({"network": "unet"}), settings)
    assert other.network_weights == ""
    weights.unlink()
    with pytest.raises(BadNetwork, match="cannot be read"):
        collect.train_config(CLASSES, 3, parse_options({}), settings)


def test_steps_are_derived_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Workplace(settings_of(tmp_path))
    measured = iter((310, 99))
    monkeypatch.setattr(collect, "steps_within", lambda seconds, config: next(measured))
    assert collect._budget(work, SLUG, TINY) == 310
    assert collect._budget(work, SLUG, TINY) == 310
    assert collect._budget(Workplace(settings_of(tmp_path)), SLUG, TINY) == 310
    assert collect._budget(work, SLUG, replace(TINY, batch=2)) == 99
    kept = work.registry.root / SLUG / "steps.json"
    kept.write_text("{")  # damaged: derived anew, and the round goes on
    monkeypatch.setattr(collect, "steps_within", lambda seconds, config: 5)
    assert collect._budget(work, SLUG, TINY) == 5


def test_examples_keep_the_digests_of_earlier_releases_but_those_of_tiffs() -> None:
    """TIFFs were read otherwise, some of them as noise."""
    classes = ("background", "a")
    config = parse_label_config(build_label_config([("a", "#ff0000")]))

    def digest(name: str, **options: Any) -> str:
        entry: Any = {"annotations": [(1, "2026-11-26")], "url": f"/data/upload/1/{name}"}
        return collect.Recipe(config, classes, parse_options(options)).digest(entry)

    def earlier(name: str) -> str:
        parts = [[[1, "2026-11-26"]], f"/data/upload/1/{name}", classes, "background", None, 1024]
        return hashlib.sha256(orjson.dumps([str(part) for part in parts])).hexdigest()[:32]

    assert digest("a.png") == earlier("a.png")
    assert digest("a.png", channels="2") not in (earlier("a.png"), digest("a.png", channels="1"))
    assert digest("a.png", channels="1,2") == digest("a.png", channels=" 1, 2")
    assert digest("a.TIF") != earlier("a.TIF")
