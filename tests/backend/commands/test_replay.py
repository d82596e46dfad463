"""Replay without servers: what it would draw, ask for and refuse, and how it judges."""

from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from PIL import Image

from backend.commands.replay.annotator import order_fault
from backend.commands.replay.command import replay_command
from backend.commands.replay.plan import (
    ReplayPlan,
    project_options,
    project_title,
    unknown_label,
)
from backend.commands.replay.play import judge, replay
from backend.commands.replay.strokes import label_config, strokes
from backend.commands.shared import parse_options_object
from backend.errors import BadOptions, BadRequest
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.regions import read_annotation
from backend.ledger import Ledger
from backend.options import parse_options
from backend.workplace import Workplace
from training.datasets.labelled import BadFolder, read_labelled_folder

CLASSES = ("background", "red cell", 'a "quoted" <cast> & more')
UNKNOWN = "Unknown"

Mask = npt.NDArray[np.uint8]


def small_mask() -> Mask:
    mask = np.zeros((6, 9), dtype=np.uint8)
    mask[1:3, 1:4] = 1
    mask[4:, 5:] = 2
    mask[0, 8] = 255
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "cells"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for i in range(10):
        Image.new("RGB", (9, 6), (20 * i, 0, 0)).save(root / "images" / f"{i}.png")
        Image.fromarray(small_mask()).save(root / "masks" / f"{i}.png")
    return root


class TestTheProject:
    def test_its_config_has_the_classes_and_a_label_for_unknown_pixels(self) -> None:
        config = parse_label_config(label_config(CLASSES, UNKNOWN))
        assert config.labels == (*CLASSES[1:], UNKNOWN)
        assert (config.output.kind, config.data_key) == ("brushlabels", "image")

    def test_every_label_has_a_colour_of_its_own(self) -> None:
        root = ElementTree.fromstring(label_config(CLASSES, UNKNOWN))  # noqa: S314 - our own text
        colours = [label.get("background") for label in root.iter("Label")]
        assert len(set(colours)) == 3

    def test_the_unknown_label_steps_aside_for_a_class_of_that_name(self) -> None:
        assert unknown_label(CLASSES) == "Unknown"
        assert unknown_label(("background", "Unknown")) == "Unknown pixels"

    def test_its_options_are_options_of_the_backend(self) -> None:
        plan = ReplayPlan(Path("f"), per_round=7, seed=3, steps=20, members=2)
        options = parse_options(project_options(plan, UNKNOWN))
        assert (options.unknown_label, options.retrain_every) == (UNKNOWN, 7)
        assert (options.seed, options.steps, options.members) == (3, 20, 2)

    def test_what_the_plan_leaves_open_the_environment_decides(self) -> None:
        options = parse_options(project_options(ReplayPlan(Path("f")), UNKNOWN))
        assert (options.steps, options.members) == (None, None)

    def test_more_options_may_be_given_but_not_unknown_ones(self) -> None:
        plan = ReplayPlan(Path("f"), options={"network": "unet", "seed": 9}, seed=3)
        options = parse_options(project_options(plan, UNKNOWN))
        assert (options.network, options.seed) == ("unet", 3)
        with pytest.raises(BadOptions, match="none of them"):
            project_options(ReplayPlan(Path("f"), options={"colour": 1}), UNKNOWN)

    def test_its_title_fits_label_studio_and_keeps_order_and_date(self) -> None:
        now = datetime(2026, 11, 24, 4, 5, tzinfo=UTC)
        assert project_title("cells", "queue", now) == "replay cells queue 2026-11-24 04:05"
        long = project_title("c" * 80, "random", now)
        assert len(long) == 50
        assert long.endswith("c random 2026-11-24 04:05")


class TestStrokes:
    def test_they_come_back_as_the_mask_they_were_drawn_from(self) -> None:
        config = parse_label_config(label_config(CLASSES, UNKNOWN))
        drawn = strokes(small_mask(), CLASSES, UNKNOWN, None)
        found = read_annotation(drawn, config, CLASSES, (6, 9), unlabelled=0, unknown_label=UNKNOWN)
        assert found.problems == []
        np.testing.assert_array_equal(found.mask, small_mask())

    def test_a_field_without_anything_is_an_annotation_without_regions(self) -> None:
        assert strokes(np.zeros((6, 9), dtype=np.uint8), CLASSES, UNKNOWN, None) == []

    def test_a_pre_annotated_region_keeps_its_id_and_is_marked_as_changed(self) -> None:
        region = {"id": "p-1", "value": {"brushlabels": ["red cell"]}}
        erased = {"id": "p-9", "value": {"brushlabels": ["nothing of this"]}}
        drawn = strokes(small_mask(), CLASSES, UNKNOWN, {"id": 5, "result": [region, erased]})
        assert [(r["id"], r["origin"]) for r in drawn] == [
            ("p-1", "prediction-changed"),
            ("class-2", "manual"),
            ("class-255", "manual"),
        ]


class TestTheOrder:
    def test_the_first_that_is_not_labelled_is_right(self) -> None:
        assert order_fault(8, [9, 8, 7], labelled=[9]) is None

    def test_another_is_named_with_its_place_and_the_head(self) -> None:
        fault = order_fault(7, [9, 8, 7], labelled=[9])
        assert fault == "Label Studio served task 7 (place 3 in the ranking), its head is 8."

    def test_a_task_without_a_place_is_named_so(self) -> None:
        fault = order_fault(4, [9, 8], labelled=[])
        assert fault is not None
        assert "(no place in the ranking)" in fault

    @pytest.mark.parametrize("ranking", [[], [9, 8]])
    def test_beyond_the_ranking_any_task_is_right(self, ranking: list[int]) -> None:
        assert order_fault(4, ranking, labelled=[8, 9]) is None


class Painter:
    """A committee that paints every pixel of every image with one class."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.seen: list[tuple[int, ...]] = []

    def predict(self, image: Mask, /) -> "Painter":
        self.seen.append(image.shape)
        self.size = image.shape[:2]
        return self

    def mask(self) -> Mask:
        return np.full(self.size, self.index, dtype=np.uint8)


class TestJudging:
    def test_pixels_of_all_images_count_together_without_the_unknown(self, folder: Path) -> None:
        cells = read_labelled_folder(folder)
        painter = Painter(1)
        found = judge(painter, cells, cells.items[:3])
        assert painter.seen == [(6, 9, 3)] * 3
        assert found.shared.tolist() == [0, 18, 0]
        assert found.truth.tolist() == [3 * 39, 3 * 6, 3 * 8]
        assert found.predicted.tolist() == [0, 3 * 53, 0]

    def test_an_image_that_cannot_be_decoded_is_a_sentence(self, folder: Path) -> None:
        cells = read_labelled_folder(folder)
        cells.items[0].image.write_bytes(b"no image any more")
        with pytest.raises(BadFolder, match=r"0\.png: "):
            judge(Painter(0), cells, cells.items)


class TestWhatIsRefused:
    def say(self, line: str) -> None:
        raise AssertionError(f"nothing should have begun, but it said {line}")

    def test_more_labels_than_images(self, work: Workplace, folder: Path) -> None:
        plan = ReplayPlan(folder, rounds=3, per_round=3)
        with pytest.raises(BadRequest, match=r"3 rounds need 9 images \(3 and 2 x 3\), but 8"):
            replay(work, plan, self.say)

    def test_the_limit_counts_as_well(self, work: Workplace, folder: Path) -> None:
        plan = ReplayPlan(folder, rounds=2, per_round=3, limit=5)
        with pytest.raises(BadRequest, match=r"need 6 images .* but 5 are there"):
            replay(work, plan, self.say)

    def test_an_initial_set_too_small_to_start_a_round(self, work: Workplace, folder: Path) -> None:
        plan = ReplayPlan(folder, rounds=1, per_round=3, initial=2)
        with pytest.raises(BadRequest, match="at least the 3 labels that start a round, got 2"):
            replay(work, plan, self.say)

    def test_an_order_that_is_none(self, work: Workplace, folder: Path) -> None:
        with pytest.raises(BadRequest, match="queue, random or both, got 'best'"):
            replay(work, ReplayPlan(folder, order="best"), self.say)

    def test_a_system_that_does_not_run(self, work: Workplace, folder: Path) -> None:
        plan = ReplayPlan(folder, rounds=1, per_round=3)
        with pytest.raises(BadRequest, match="No web and no worker of Committee is running"):
            replay(work, plan, self.say)

    def test_a_system_without_workers(self, work: Workplace, folder: Path) -> None:
        Ledger(work.settings.ledger_url).processes.beat("w", "web", "http://127.0.0.1:1", "here", 1)
        plan = ReplayPlan(folder, rounds=1, per_round=3)
        with pytest.raises(BadRequest, match="No worker of Committee is running"):
            replay(work, plan, self.say)


@pytest.mark.parametrize(
    ("text", "says"), [("{", "must be a JSON object: "), ("[1]", "got a list")]
)
def test_options_that_are_no_object_are_refused(text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        parse_options_object(text)


def test_no_options_are_none() -> None:
    assert parse_options_object(None) is None


def test_every_option_of_the_command_has_a_help_text() -> None:
    assert all(getattr(option, "help", None) for option in replay_command.params)
    shown = CliRunner().invoke(replay_command, ["--help"])
    assert shown.exit_code == 0
    assert "--per-round" in shown.output
