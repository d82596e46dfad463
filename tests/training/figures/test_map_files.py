import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from acquisition.masks import UNKNOWN
from acquisition.uncertainty import MEASURES
from tests.command_page import json_keys
from tests.training.discs import disc_example
from tests.training.figures.small_version import CONFIG, OWN, write_members
from training.__main__ import cli
from training.figures.map_files import save_arrays
from training.images import shrink


def test_the_arrays_are_the_prediction_at_the_networks_resolution(committee, example, tmp_path):
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


def test_without_a_truth_there_is_no_error_array(committee, example, tmp_path):
    save_arrays(tmp_path / "a.npz", committee.predict(example.image), example.image)
    with np.load(tmp_path / "a.npz") as arrays:
        assert set(arrays) == {"image", "probs", "predicted", *MEASURES}


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
        found = json.loads(self.run(version, files / "disc.png", "--output", out, "--json").output)
        assert json_keys()["training map"] == found.keys()
        assert found["files"] == lines[:2]
        assert found["arms"]["least_confidence/object_max"] == pytest.approx(score, abs=1e-4)

    def test_its_errors_are_sentences(self, version, files):
        image = files / "disc.png"
        (files / "text.png").write_text("no image")
        Image.new("L", (5, 4)).save(files / "small.png")
        Image.new("L", (88, 72), 7).save(files / "seventh.png")
        (files / "file").touch()
        for message, arguments in {
            "text.png: expected a PNG": (version, files / "text.png"),
            "there is no version in": (files, image),
            "small.png is 5 x 4 px": (version, image, "--truth", files / "small.png"),
            "class index 7": (version, image, "--truth", files / "seventh.png"),
            "text.png cannot be read": (version, image, "--truth", files / "text.png"),
            "file": (version, image, "--output", files / "file" / "below"),
        }.items():
            done = self.run(*arguments)
            assert done.exit_code == 1
            assert message in done.output
            assert "Traceback" not in done.output

    def test_a_version_of_other_channels_is_refused(self, files):
        grey = write_members(files / "grey", replace(CONFIG, channels=1))
        done = self.run(grey, files / "disc.png")
        assert done.exit_code == 1
        assert "predicts images of 1 channels" in done.output
