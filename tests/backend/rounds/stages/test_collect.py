"""What a round is to train, settled before it trains."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from backend.errors import NotEnoughLabels
from backend.label_studio.label_config import build_label_config, parse_label_config
from backend.label_studio.regions import to_regions
from backend.ledger import Project
from backend.options import parse_options
from backend.rounds.example_notes import ExampleNote
from backend.rounds.stages import collect
from backend.settings import Settings
from backend.workplace import Workplace
from tests.training.discs import CLASSES
from training.config import TrainConfig
from training.fitting.budget import FIELD_PX, Budget
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


class FakeLedger:
    """The versions of a project, newest last; ``all`` gives them as the ledger does."""

    def __init__(self) -> None:
        self.made: list[SimpleNamespace] = []
        self.versions = SimpleNamespace(all=lambda _id: self.made[::-1])


class Rounds:
    """Rounds of one project as they get their budgets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
        self.work = Workplace(settings_of(folder, **values))
        self.ledger = FakeLedger()
        self.work.ledger = cast(Any, self.ledger)
        self.measured: list[float] = []
        monkeypatch.setattr(collect, "seconds_per_step", lambda _config: self.measured.pop())

    def budget(
        self, images: int = 20, chosen: int | None = None, config: TrainConfig = TINY
    ) -> Budget:
        row = cast(Project, SimpleNamespace(id=1, slug=SLUG))
        return collect._budget(self.work, row, config, chosen, images, images * FIELD_PX)

    def play(self, step_s: float, **of: Any) -> int:
        """The steps of a round whose members then take so long for each."""
        budget = self.budget(**of)
        stored = {**asdict(budget), "step_s": step_s}
        self.ledger.made.append(SimpleNamespace(metrics={"budget": stored}))
        return budget.steps


def test_a_first_round_on_a_busy_machine_is_not_kept_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(tmp_path, monkeypatch)
    rounds.measured = [0.4]
    assert rounds.play(0.15) == 100
    assert rounds.play(0.16) == 270
    assert rounds.play(0.4) == 270  # one busy round
    assert rounds.play(0.4) == 270
    assert rounds.play(0.4) == 100  # the machine is slower, it seems
    assert rounds.budget().describe().startswith("100 steps a member (40 s at 0.4 s a step; 740")


def test_a_failed_first_round_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(tmp_path, monkeypatch)
    rounds.measured = [0.1, 0.2]
    assert [rounds.budget().steps, rounds.budget().steps] == [200, 400]


def test_steps_grow_with_the_labels_where_there_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(tmp_path, monkeypatch, fit_seconds=400)
    rounds.measured = [0.1]
    assert [rounds.play(0.1, images=n) for n in (10, 20, 40, 160)] == [600, 740, 910, 1380]


def test_another_cost_of_a_step_is_measured_and_other_seconds_count_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(tmp_path, monkeypatch)
    rounds.measured = [0.1, 0.15]
    assert rounds.play(0.15) == 270
    assert rounds.play(0.1, config=replace(TINY, batch=2)) == 400
    rounds.work = Workplace(settings_of(tmp_path, fit_seconds=44))  # 15 % more or less, but asked
    rounds.work.ledger = cast(Any, rounds.ledger)
    assert rounds.budget().steps == 290


def test_the_option_goes_before_all_else_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(tmp_path, monkeypatch)
    chosen = rounds.budget(chosen=7)  # and nothing is measured
    assert (chosen.steps, chosen.chosen, chosen.step_s) == (7, True, None)
    assert chosen.describe().startswith("7 steps a member (as the option `steps` says; 740 would")
    assert rounds.play(0.15, chosen=3000) == 3000
    assert rounds.play(0.15) == 270  # without it, at the speed that was found under it


def test_what_release_0_2_kept_is_its_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(tmp_path, monkeypatch)
    rounds.ledger.made.append(SimpleNamespace(metrics={}))  # a version of 0.2.0
    kept = rounds.work.registry.root / SLUG / "steps.json"
    kept.parent.mkdir(parents=True)
    key = "unet 3x64px batch 4 thaw 0.75 threads 1 in 40 s"
    kept.write_text(json.dumps({key: 310}))
    assert rounds.play(0.16) == 310
    assert rounds.play(0.16) == 250
    kept.write_text("{")  # damaged: measured anew, and the round goes on
    rounds.ledger.made.clear()
    rounds.measured = [0.2]
    assert rounds.play(0.2) == 200


def test_of_annotations_without_number_the_first_count() -> None:
    config = parse_label_config(build_label_config([("dark", "#ff0000")]))
    many = [{"id": n, "result": []} for n in range(collect.MOST_ANNOTATIONS + 1)]
    many[-1]["result"] = "no list"  # which would be said
    image = np.zeros((2, 2, 3), np.uint8)
    read = collect.mask_of(many, image, config, parse_options(None), ("background", "dark"))
    assert read.problems == ["it has 65 annotations, of which the first 64 count."]
    assert (read.mask == 0).all()


def test_an_example_is_made_anew_where_it_is_read_otherwise() -> None:
    config = parse_label_config(build_label_config([("a", "#ff0000")]))

    def digest(**options: Any) -> str:
        entry: Any = {"annotations": [(1, "2026-11-26")], "url": "/data/upload/1/a.png"}
        return collect.Recipe(config, ("background", "a"), parse_options(options)).digest(entry)

    assert digest(channels="1,2") == digest(channels=" 1, 2")
    of_options = [digest(), digest(channels="1"), digest(channels="2"), digest(aliases={"b": "a"})]
    assert len(set(of_options)) == 4


def test_an_example_keeps_a_note_of_who_made_its_label_and_how_long_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"label_studio_url": "http://127.0.0.1:9", "label_studio_api_key": "a" * 40}
    work = Workplace(settings_of(tmp_path, **known))
    image = np.zeros((40, 40, 3), np.uint8)
    decoded = SimpleNamespace(image=image, part="")
    monkeypatch.setattr(collect, "read_decoded", lambda *_: decoded)
    config = parse_label_config(build_label_config([("dark", "#ff0000")]))
    recipe = collect.Recipe(config, ("background", "dark"), parse_options(None))
    people = [
        {
            "id": number,
            "was_cancelled": False,
            "updated_at": "2026-11-28T03:00:00Z",
            "created_at": "2026-11-28T03:00:00Z",
            "completed_by": who,
            "lead_time": 12.0,
            "parent_prediction": number if number == 2 else None,
            "result": to_regions(
                mask,
                mask.astype(np.float32),
                config,
                recipe.classes,
                per="class",
                min_particle_px=1,
            ),
        }
        for number, who, mask in (
            (1, 5, np.tri(40, dtype=np.uint8)),
            (2, 3, np.ones((40, 40), np.uint8)),
        )
    ]
    entry: Any = {"task": 8, "url": "/data/upload/1/a.png", "digest": None}
    problems, note, _part = collect._make_example(work, SLUG, entry, people, recipe)
    assert problems == []
    assert (note.seconds, note.assisted) == (12.0, True)
    assert note.pairs == [(3, 5, pytest.approx(2 * 820 / (820 + 1600)))]
    kept = work.registry.example_note(SLUG, entry["digest"])
    assert ExampleNote.from_text(kept) == note
