import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from acquisition.uncertainty import MEASURES
from tests.training.discs import CLASSES, write_discs
from training.__main__ import cli
from training.committee.calibration import Calibration
from training.committee.prediction import Prediction
from training.datasets.labelled import BadFolder, by_hash, read_labelled_folder
from training.experiments import ablation
from training.experiments.ablation import (
    BASE,
    BadVariant,
    Cell,
    Trial,
    measure,
    parse_changes,
    parse_groups,
    read_results,
    split,
)
from training.experiments.loop_config import BadLoop
from training.images import shrink
from training.particles.matching import count_particles

TINY = "network=unet,steps=3,crop_px=64,batch=2"


def test_changes_are_read_by_their_types():
    assert parse_changes("zoom=1, steps=30,network=unet") == {
        "zoom": 1.0,
        "steps": 30,
        "network": "unet",
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nothing", "FIELD=VALUE"),
        ("speed=3", "field of seed"),
        ("members=3", "FIELD=VALUE"),
        ("steps=many", "must be of type int"),
        ("seek=2", "between 0 and 1"),
        ("network=resnet", "must be one of"),
    ],
)
def test_changes_that_no_configuration_has_are_refused(text, sentence):
    with pytest.raises(BadVariant, match=sentence):
        parse_changes(text)


def names(images):
    return [item.name for item in images.items]


def write_sessions(folder, count):
    """Pairs of images belong together."""
    rows = ["image,session"] + [f"{n}.png,s{n // 2}" for n in range(count)]
    (folder / "info.csv").write_text("\n".join(rows))


def test_what_is_tested_on_is_never_drawn(tmp_path):
    folder = write_discs(tmp_path / "a", 8)
    found = split(Trial(folder, test=3))
    ordered = [item.name for item in by_hash(read_labelled_folder(folder).items)]
    assert names(found.test) == ordered[:3]
    assert names(found.pool) == ordered[3:]
    with pytest.raises(BadLoop, match="8 are too many to hold back"):
        split(Trial(folder, test=8))


def test_no_session_stands_on_both_sides(tmp_path):
    folder = write_discs(tmp_path / "a", 8)
    write_sessions(folder, 8)
    found = split(Trial(folder, test=5, groups=parse_groups("info.csv:session")))
    assert len(names(found.test)) == 4  # a third pair would make six
    sessions = [
        {int(name.removesuffix(".png")) // 2 for name in names(each)}
        for each in (found.test, found.pool)
    ]
    assert not sessions[0] & sessions[1]
    assert found == split(Trial(folder, test=5, groups=parse_groups("info.csv:session")))
    named = split(Trial(folder, groups=parse_groups("info.csv:session:s1,s3")))
    assert sorted(names(named.test)) == ["2.png", "3.png", "6.png", "7.png"]


@pytest.mark.parametrize("text", ["info.csv", ":session", "info.csv:", "info.csv::s1"])
def test_groups_without_file_or_column_are_refused(text):
    with pytest.raises(BadVariant, match="expected FILE:COLUMN"):
        parse_groups(text)


def test_the_other_laboratory_needs_the_same_classes(tmp_path):
    folder, other = write_discs(tmp_path / "a", 3), write_discs(tmp_path / "b", 3)
    found = split(Trial(folder, other, test=2)).other
    assert len(names(found)) == 2
    (tmp_path / "c").mkdir()
    another = write_discs(tmp_path / "c" / "d", 3)
    (another / "classes.txt").write_text("\n".join([*CLASSES, "third"]))
    Image.fromarray(np.full((72, 88), 3, np.uint8)).save(another / "masks" / "0.png")
    with pytest.raises(BadVariant, match="they must be the same"):
        split(Trial(folder, another, test=2))


class ByGrey:
    """Sees discs by their grey, at the network's resolution; the bright ones if it is told to."""

    calibration = Calibration(2.0, (1.5, 0.0, 0.0))

    def __init__(self, config, sees_bright):
        self.config, self._sees_bright = config, sees_bright

    def predict_all(self, images):
        for image in images:
            grey = shrink(image, self.config.max_side_px).mean(axis=2)
            predicted = np.where(grey < 84, 1, np.where(grey > 174, 2 * self._sees_bright, 0))
            probs = np.moveaxis(np.eye(3, dtype=np.float32)[predicted], 2, 0)
            maps = {name: np.zeros(grey.shape, np.float32) for name in MEASURES}
            none = np.zeros((1, 1), np.float32)
            yield Prediction(
                image.shape[:2], probs, predicted.astype(np.uint8), maps, {}, none[0], none
            )


@pytest.fixture
def by_grey(monkeypatch):
    """Trains nothing: each assessment gives a committee that sees discs by their grey. Holds the
    sizes of the images that a member learns from."""
    found = SimpleNamespace(sizes=set(), sees_bright=True)

    def fit_member(examples, config, member):
        found.sizes |= {example.image.shape[:2] for example in examples}
        return {}, SimpleNamespace(seconds=1.0)

    def assess(weights, config, examples):
        assert len(weights) == config.members
        return SimpleNamespace(committee=ByGrey(config, found.sees_bright))

    monkeypatch.setattr(ablation, "fit_member", fit_member)
    monkeypatch.setattr(ablation, "assess", assess)
    return found


def test_the_committee_that_its_assessment_gives_is_tested(tmp_path, by_grey):
    folder = write_discs(tmp_path / "a", 6)
    trial = Trial(folder, folder, test=4, members=2)
    result = measure(trial, Cell(BASE, {}, 2, 0))
    assert result["temperature"] == 2.0
    assert result["class_bias"] == dict(zip(CLASSES, (1.5, 0.0, 0.0), strict=True))
    test = result["test"]
    assert test["ece_by_class"] == [0, 0, 0]
    assert test["mean_iou"] == 1
    assert test["particle_recall"] == test["particle_precision"] == [None, 1, 1]
    masks = [split(trial).test.folder.read_mask(item) for item in split(trial).test.items]
    assert sum(test["particles"]) == sum(map(count_particles, masks))
    assert result["trial"] == trial.to_json()
    assert result["classes"] == list(CLASSES)


def test_max_side_px_is_what_is_learnt_at_and_not_what_is_judged_at(tmp_path, by_grey):
    trial = Trial(write_discs(tmp_path / "a", 6), test=4, members=2)
    whole = measure(trial, Cell(BASE, {}, 2, 0))["test"]
    assert by_grey.sizes == {(72, 88)}
    by_grey.sizes.clear()
    small = measure(trial, Cell("max_side_px=44", {"max_side_px": 44}, 2, 0))["test"]
    assert by_grey.sizes == {(36, 44)}
    # Edges are lost at half the size, particles are not, and both are judged by the same truth.
    assert 0.7 < small["mean_iou"] < whole["mean_iou"] == 1
    assert small["particles"] == whole["particles"]


def test_classes_of_few_particles_count_in_one_mean_alone(tmp_path, by_grey, monkeypatch):
    by_grey.sees_bright = False
    folder = write_discs(tmp_path / "a", 6, first_seed=12)  # no bright disc in two parts
    trial = Trial(folder, folder, test=4, members=2)
    few = measure(trial, Cell(BASE, {}, 2, 0))
    assert max(few["test"]["particles"]) < ablation.SUPPORTED_PARTICLES
    assert few["test"]["mean_iou_supported"] is None
    dark, bright = few["test"]["particles"][1:]
    assert bright < dark
    monkeypatch.setattr(ablation, "SUPPORTED_PARTICLES", bright + 1)
    enough = measure(trial, Cell(BASE, {}, 2, 0))
    for arm in ("test", "other"):
        assert enough[arm]["mean_iou"] == 0.5
        assert enough[arm]["mean_iou_supported"] == 1


def test_masks_of_other_tools_are_refused_before_anything_is_trained(tmp_path, by_grey):
    folder = write_discs(tmp_path / "a", 4)
    Image.fromarray(np.full((72, 88), 9, np.uint8)).save(folder / "masks" / "0.png")
    with pytest.raises(BadFolder, match="masks hold 9"):
        next(ablation.run(Trial(folder, test=1), [Cell(BASE, {}, 2, 0)], tmp_path / "runs", 1))
    assert by_grey.sizes == set()


def test_more_images_than_the_pool_holds_are_refused(tmp_path):
    trial = Trial(write_discs(tmp_path / "a", 6), test=4)
    with pytest.raises(BadVariant, match=r"3 images cannot be drawn: .* leaves 2"):
        next(ablation.run(trial, [Cell(BASE, {}, 3, 0)], tmp_path / "runs.jsonl", 1))


@pytest.mark.usefixtures("in_this_process")
def test_the_command_measures_each_cell_once_and_goes_on_after_a_kill(tmp_path):
    folder = write_discs(tmp_path / "a", 7)
    write_sessions(folder, 7)
    other = write_discs(tmp_path / "b", 3, first_seed=50)
    output = tmp_path / "runs.jsonl"
    arguments = ["ablate", "--data", str(folder), "--other", str(other), "--test", "2"]
    arguments += ["--images", "2,4", "--draws", "1", "--set", TINY, "--vary", "seek=0"]
    arguments += ["--groups", "info.csv:session", "--workers", "1", "--output", str(output)]
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 0, run.output
    assert "| 4 | seek=0 | 1 |" in run.output
    assert "| 4 | bright |" in run.output
    first = read_results(output)
    assert [(r["images"], r["variant"]) for r in first] == [
        (2, BASE),
        (2, "seek=0"),
        (4, BASE),
        (4, "seek=0"),
    ]
    assert all(np.isfinite(r["test"]["mean_iou"]) and r["steps"] == 3 for r in first)
    assert all(0 <= v <= 1 for v in first[0]["foreign"].values())
    # Killed in the middle of the last line: that cell alone is measured again, and the same.
    whole = output.read_text().splitlines(keepends=True)
    output.write_text("".join(whole[:-1]) + whole[-1][:40] + "\n")
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 0, run.output
    again = read_results(output)
    assert len(output.read_text().splitlines()) == 5
    for old, new in zip(first, again, strict=True):
        assert json.dumps(old["test"]) == json.dumps(new["test"])
    run = CliRunner().invoke(cli, [*arguments, "--json"])
    assert json.dumps(json.loads(run.stdout)) == json.dumps(again)
    run = CliRunner().invoke(cli, [*arguments, "--members", "2"])
    assert run.exit_code == 1
    assert "holds results of another trial" in run.output


def test_a_variant_that_is_none_is_refused_with_a_sentence(tmp_path):
    folder = write_discs(tmp_path / "a", 3)
    arguments = ["ablate", "--data", str(folder), "--output", str(tmp_path / "x"), "--vary", "x=1"]
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 1
    assert run.output.startswith("expected FIELD=VALUE")
