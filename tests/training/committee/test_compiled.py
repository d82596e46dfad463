"""Compiled members are kept with their version, and read for it alone."""

import numpy as np
import pytest
import torch

from tests.training.committee.untrained import CPU, SMALL, random_image
from tests.training.discs import CLASSES
from training.committee import engine_choice
from training.committee.committee import Committee
from training.committee.compiled import CompiledCache
from training.committee.openvino_engine import has_bf16
from training.committee.version import write_version
from training.config import TrainConfig
from training.networks.build import build_network

CONFIG = TrainConfig(CLASSES, members=1, network=SMALL)


@pytest.fixture(scope="module")
def small_weights():
    torch.manual_seed(0)
    return [build_network(CONFIG).state_dict()]


def load(folder):
    return Committee.load(folder, device=CPU, own_network=SMALL)


def test_a_version_is_compiled_once_and_read_after_that(tmp_path, small_weights, monkeypatch):
    folder = tmp_path / "7"
    write_version(folder, 7, small_weights, CONFIG, {}, {"temperature": 1.5})
    first = load(folder)
    assert first.engine.name == "openvino"
    assert [path.suffix for path in folder.glob("compiled-*")] == [".blob"]
    monkeypatch.setattr(engine_choice, "to_openvino", None)  # converts nothing any more
    again = load(folder)
    image = random_image(40, 50)
    np.testing.assert_array_equal(again.predict(image).probs, first.predict(image).probs)


def test_a_damaged_compiled_version_is_made_anew(tmp_path, small_weights):
    folder = tmp_path / "7"
    write_version(folder, 7, small_weights, CONFIG, {}, {"temperature": 1.5})
    first = load(folder)
    (kept,) = folder.glob("compiled-*")
    whole = kept.read_bytes()
    for damaged in (whole[:-100], b"", whole[:40] + b"x" + whole[41:]):
        kept.write_bytes(damaged)
        image = random_image(40, 50)
        prediction = load(folder).predict(image)
        np.testing.assert_array_equal(prediction.probs, first.predict(image).probs)
        assert kept.read_bytes() != damaged


def test_another_versions_compiled_members_are_not_taken(tmp_path, small_weights):
    torch.manual_seed(9)
    others = [build_network(CONFIG).state_dict()]
    for number, weights in ((1, small_weights), (2, others)):
        write_version(tmp_path / str(number), number, weights, CONFIG, {}, {"temperature": 1.0})
    image = random_image(40, 50)
    first = load(tmp_path / "1").predict(image)
    second = load(tmp_path / "2").predict(image)
    (kept,) = (tmp_path / "1").glob("compiled-*")
    (tmp_path / "2" / kept.name).write_bytes(kept.read_bytes())
    again = load(tmp_path / "2").predict(image)
    np.testing.assert_array_equal(again.probs, second.probs)
    assert np.abs(again.probs - first.probs).max() > 0.01


def test_a_deleted_version_is_not_brought_back(tmp_path, small_weights):
    folder = tmp_path / "1"
    write_version(folder, 1, small_weights, CONFIG, {}, {"temperature": 1.0})
    CompiledCache(tmp_path / "gone", b"").keep("f32", "1", b"data")
    assert not (tmp_path / "gone").exists()


@pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bfloat16")
def test_bfloat16_serves_only_where_it_agreed(tmp_path, small_weights):
    for agreement, precision in ((None, "f32"), (0.9979, "f32"), (0.998, "bf16")):
        folder = tmp_path / str(agreement)
        metrics = {"temperature": 1.0, "bf16_agreement": agreement}
        write_version(folder, 1, small_weights, CONFIG, {}, metrics)
        assert load(folder).engine.precision == precision
