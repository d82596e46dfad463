import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from acquisition.aggregate import AGGREGATES
from acquisition.masks import UNKNOWN
from acquisition.uncertainty import MEASURES, uncertainty_maps
from tests.training.discs import CLASSES, disc_example
from training.__main__ import cli
from training.committee.inference import Committee
from training.committee.version import write_version
from training.config import TrainConfig
from training.figures.uncertainty_figure import (
    UNITS,
    WRONG_COLOUR,
    arms_table,
    most_possible,
    save_arrays,
    scale_of,
    uncertainty_figure,
)
from training.images import shrink
from training.networks.build import build_network

OWN = "tests.training.laboratory:small"
CONFIG = TrainConfig(CLASSES, members=3, network=OWN, max_side_px=64)


def write_members(folder, config=CONFIG):
    weights = []
    for member in range(config.members):
        torch.manual_seed(member)
        weights.append(build_network(config).state_dict())
    write_version(folder, 4, weights, config, {}, {"temperature": 1.0})
    return folder


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return write_members(tmp_path_factory.mktemp("versions") / "4")


@pytest.fixture(scope="module")
def committee(version):
    return Committee.load(version, engine="torch", own_network=OWN)


@pytest.fixture
def example():
    made = disc_example("a", 0)
    made.mask[:10, :20] = UNKNOWN
    return made


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def share_of(png, colour):
    return float((pixels_of(png) == colour).all(axis=2).mean())


def certain(M, C):
    """Members each sure of another class, in turn: [M, 1, C, 1, 1]."""
    probs = torch.zeros(M, 1, C, 1, 1)
    for member in range(M):
        probs[member, 0, member % C] = 1
    return probs


class TestTheScales:
    @pytest.mark.parametrize(("M", "C"), [(2, 2), (3, 3), (6, 3), (5, 5), (1, 4)])
    def test_their_ends_are_what_the_measures_reach(self, M, C):
        apart, unsure = certain(M, C), torch.full((M, 1, C, 1, 1), 1 / C)
        reached = {
            name: max(float(uncertainty_maps(probs)[name]) for probs in (apart, unsure))
            for name in MEASURES
        }
        expected = {name: most_possible(name, M, C) for name in MEASURES}
        assert reached == pytest.approx(expected, abs=1e-6)

    def test_no_committee_goes_beyond(self):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(5, 1, 3, 40, 50, generator=generator) * 20
        for name, each in uncertainty_maps(logits.softmax(dim=2)).items():
            assert float(each.max()) <= most_possible(name, 5, 3) + 1e-6

    def test_a_map_that_uses_the_scale_is_shown_on_all_of_it(self):
        scale = scale_of(np.linspace(0, 0.9, 1000, dtype=np.float32).reshape(20, 50), 1.1)
        assert (scale.top, scale.cut) == (1.1, False)

    def test_a_map_far_below_it_ends_the_scale_at_its_999th_pixel_of_1000(self):
        faint = np.full((100, 100), 0.02, np.float32)
        faint[0, :5] = 0.9
        scale = scale_of(faint, 1.1)
        assert scale.top == pytest.approx(0.02)
        assert scale.cut
        assert scale.most == 1.1

    def test_no_uncertainty_at_all_has_the_whole_scale(self):
        assert not scale_of(np.zeros((4, 5), np.float32), 0.7).cut

    def test_every_measure_has_a_unit(self):
        assert tuple(UNITS) == MEASURES


class TestTheFigure:
    def test_the_same_look_gives_the_same_bytes(self, committee, example):
        prediction = committee.predict(example.image)
        one, other = (
            uncertainty_figure(prediction, example.image, CLASSES, example.mask, "disc")
            for _ in range(2)
        )
        assert one == other
        assert uncertainty_figure(prediction, example.image, CLASSES, example.mask, "dish") != one

    def test_errors_are_drawn_where_the_truth_is_known(self, committee, example):
        prediction = committee.predict(example.image)
        none = uncertainty_figure(prediction, example.image, CLASSES, None)
        assert share_of(none, WRONG_COLOUR) == 0
        inverted = np.full(example.mask.shape, 1, np.uint8)
        sure = replace(prediction, predicted=np.full(prediction.predicted.shape, 2, np.uint8))
        # Swatch and panel: a panel is some 5 % of the sheet.
        all_wrong = uncertainty_figure(sure, example.image, CLASSES, inverted)
        assert share_of(all_wrong, WRONG_COLOUR) > 0.03
        inverted[:, example.mask.shape[1] // 2 :] = UNKNOWN
        half = uncertainty_figure(sure, example.image, CLASSES, inverted)
        assert 0.01 < share_of(half, WRONG_COLOUR) < 0.6 * share_of(all_wrong, WRONG_COLOUR)

    def test_names_that_look_like_formulas_or_are_of_another_script_are_drawn(
        self, committee, example
    ):
        prediction = committee.predict(example.image)
        prediction.predicted[:, :20], prediction.predicted[:, 20:] = 1, 2
        names = ("background", "$\\frac{", "_細胞")
        assert uncertainty_figure(prediction, example.image, names, None, "$x$").startswith(
            b"\x89PNG"
        )

    @pytest.mark.parametrize("size", [(20, 200), (200, 20), (9, 7)])
    def test_any_shape_of_image_and_a_lone_member_are_drawn(self, tmp_path, size):
        lone = replace(CONFIG, members=1)
        committee = Committee.load(
            write_members(tmp_path / "1", lone), engine="torch", own_network=OWN
        )
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        prediction = committee.predict(image)
        unknown = np.full(size, UNKNOWN, np.uint8)
        for truth in (None, unknown):
            drawn = pixels_of(uncertainty_figure(prediction, image, CLASSES, truth))
            assert min(drawn.shape[:2]) > 500

    def test_what_does_not_belong_together_is_refused(self, committee, example):
        prediction = committee.predict(example.image)
        with pytest.raises(ValueError, match="the prediction is of an image of"):
            uncertainty_figure(prediction, example.image[1:], CLASSES)
        with pytest.raises(ValueError, match="differ in size"):
            uncertainty_figure(prediction, example.image, CLASSES, example.mask[:, 1:])


class TestTheArrays:
    def test_they_are_the_look_at_the_networks_resolution(self, committee, example, tmp_path):
        prediction = committee.predict(example.image)
        save_arrays(tmp_path / "a.npz", prediction, example.image, example.mask)
        with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
            found = dict(arrays)
        assert set(found) == {"image", "probs", "predicted", *MEASURES, "truth", "error"}
        assert prediction.predicted.shape == (52, 64)  # shrunk, see CONFIG
        np.testing.assert_array_equal(found["image"], shrink(example.image, 64))
        np.testing.assert_array_equal(found["probs"], prediction.probs)
        np.testing.assert_array_equal(found["predicted"], prediction.predicted)
        for name in MEASURES:
            np.testing.assert_array_equal(found[name], prediction.maps[name])
        known = found["truth"] != UNKNOWN
        assert not known[:6, :12].any()
        assert (found["error"][~known] == UNKNOWN).all()
        wrong = found["predicted"][known] != found["truth"][known]
        np.testing.assert_array_equal(found["error"][known], wrong.astype(np.uint8))

    def test_without_a_truth_there_is_no_error(self, committee, example, tmp_path):
        save_arrays(tmp_path / "a.npz", committee.predict(example.image), example.image)
        with np.load(tmp_path / "a.npz") as arrays:
            assert set(arrays) == {"image", "probs", "predicted", *MEASURES}


def test_the_table_has_each_arm_at_its_place():
    arms = {
        f"{measure}/{aggregate}": 10 * i + j
        for i, measure in enumerate(MEASURES)
        for j, aggregate in enumerate(AGGREGATES)
    }
    lines = arms_table(arms).splitlines()
    assert lines[0].split() == list(AGGREGATES)
    for i, (line, measure) in enumerate(zip(lines[1:], MEASURES, strict=True)):
        assert line.startswith(f"{measure}, {UNITS[measure]} ")
        assert [float(cell) for cell in line.split()[-6:]] == [10 * i + j for j in range(6)]
    assert len({len(line) for line in lines}) == 1


class TestTheCommand:
    @pytest.fixture
    def files(self, tmp_path, example):
        Image.fromarray(example.image).save(tmp_path / "disc.png")
        Image.fromarray(example.mask).save(tmp_path / "mask.png")
        return tmp_path

    def run(self, version, image, *more):
        arguments = ["map", "--image", str(image), "--version", str(version), "--network", OWN]
        return CliRunner().invoke(cli, [*arguments, *map(str, more)])

    def test_it_writes_figure_and_arrays_and_prints_the_scores(self, version, files, committee):
        before = sorted(version.iterdir())
        out = files / "out"
        done = self.run(version, files / "disc.png", "--truth", files / "mask.png", "--output", out)
        assert done.exit_code == 0, done.output
        lines = done.output.splitlines()
        assert lines[:2] == [str(out / "disc-map.png"), str(out / "disc-map.npz")]
        with np.load(out / "disc-map.npz") as arrays:
            assert "error" in arrays
            image = arrays["image"]
        # Pillow wrote the image without loss, so the scores are those of the example.
        assert image.shape == (52, 64, 3)
        score = committee.predict(disc_example("a", 0).image).arms["least_confidence/object_max"]
        assert float(lines[-1].split()[-1]) == pytest.approx(score, abs=1e-4)
        assert sorted(version.iterdir()) == before

    def test_its_errors_are_sentences(self, version, files):
        image = files / "disc.png"
        (files / "text.png").write_text("no image")
        Image.new("L", (5, 4)).save(files / "small.png")
        Image.new("L", (88, 72), 7).save(files / "seventh.png")
        (files / "file").touch()
        for said, arguments in {
            "text.png: expected a PNG": (version, files / "text.png"),
            "there is no version in": (files, image),
            "small.png is 5 x 4 px": (version, image, "--truth", files / "small.png"),
            "class index 7": (version, image, "--truth", files / "seventh.png"),
            "text.png cannot be read": (version, image, "--truth", files / "text.png"),
            "file": (version, image, "--output", files / "file" / "below"),
        }.items():
            done = self.run(*arguments)
            assert done.exit_code == 1
            assert said in done.output
            assert "Traceback" not in done.output

    def test_a_version_of_other_channels_is_refused(self, files):
        grey = write_members(files / "grey", replace(CONFIG, channels=1))
        done = self.run(grey, files / "disc.png")
        assert done.exit_code == 1
        assert "looks at images of 1 channels" in done.output


def test_math_of_the_scales_by_hand():
    assert most_possible("predictive_entropy", 5, 4) == math.log(4)
    assert most_possible("mutual_information", 2, 4) == math.log(2)
    assert most_possible("variation_ratio", 5, 4) == pytest.approx(0.6)
    assert most_possible("standard_deviation", 4, 2) == pytest.approx(0.5)
    assert most_possible("least_confidence", 5, 4) == 0.75
