"""Many classes: rows by rows as the whole, in bounded memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.committee.untrained import CPU, SMALL, UNTRAINED, as_batch, random_image
from training.committee import memory, row_engine, tiles
from training.committee.calibration import Calibration
from training.committee.committee import Committee
from training.committee.ensemble import Ensemble
from training.committee.row_engine import RowEngine
from training.networks.build import skeleton

CONFIG = replace(UNTRAINED, members=2)
CALIBRATION = Calibration(1.5, (0.5, *[0.0] * (len(CONFIG.classes) - 1)))


def ensemble_of(network):
    config = replace(CONFIG, network=network)
    weights = []
    for member in range(config.members):
        torch.manual_seed(member)
        weights.append(skeleton(config).state_dict())
    return Ensemble(weights, config, device=CPU)


def by_rows(monkeypatch, ensemble, engine, values=3000):
    monkeypatch.setattr(memory, "MOST_AT_ONCE", 1)
    monkeypatch.setattr(row_engine, "STRIP_VALUES", values)
    committee = Committee(ensemble, engine=engine, calibration=CALIBRATION)
    assert isinstance(committee.engine, RowEngine)
    return committee


def assert_alike(found, expected):
    np.testing.assert_allclose(found.probs, expected.probs, atol=2e-5)
    assert (found.predicted == expected.predicted).mean() > 0.999
    np.testing.assert_allclose(found.features, expected.features, atol=1e-4)
    for name, uncertainty_map in expected.maps.items():
        if name != "variation_ratio":  # which jumps where two classes are as likely
            np.testing.assert_allclose(found.maps[name], uncertainty_map, atol=1e-4)


@pytest.mark.parametrize(("network", "engine"), [("shared", "openvino"), ("unet", "torch")])
def test_rows_give_what_the_whole_gives(monkeypatch, network, engine):
    ensemble = ensemble_of(network)
    image = random_image(97, 141)
    whole = Committee(ensemble, engine=engine, calibration=CALIBRATION).predict(image)
    assert_alike(by_rows(monkeypatch, ensemble, engine).predict(image), whole)


@pytest.mark.parametrize("network", ["shared", "unet"])
def test_how_many_rows_are_made_at_once_changes_no_bit(monkeypatch, network):
    x = as_batch(random_image(70, 61))
    ensemble = ensemble_of(network)
    few, many = (by_rows(monkeypatch, ensemble, "torch", values) for values in (1, 10_000))
    found = []
    for committee, values in ((few, 1), (many, 10_000)):
        monkeypatch.setattr(row_engine, "STRIP_VALUES", values)
        seen = list(committee.engine.strips(x))
        assert (len(seen) == 35) == (values == 1)
        found.append(torch.cat([strip.probs for strip, _ in seen], dim=3))
    assert torch.equal(*found)
    assert torch.equal(found[0], few.engine(x)[0])


def test_large_images_are_blended_as_by_other_engines(monkeypatch):
    monkeypatch.setattr(tiles, "WHOLE_PX", 384)
    monkeypatch.setattr(tiles, "TILE_PX", 384)
    ensemble = ensemble_of("shared")
    ensemble.config = replace(ensemble.config, max_side_px=4096)
    image = random_image(500, 420)
    tiled = Committee(ensemble, engine="torch", calibration=CALIBRATION).predict(image)
    assert_alike(by_rows(monkeypatch, ensemble, "torch", 30_000).predict(image), tiled)


def test_only_many_classes_of_networks_that_can_be_divided_go_by_rows():
    assert not memory.goes_by_rows("shared", 5, 16)
    assert memory.goes_by_rows("shared", 5, 17)
    assert not memory.goes_by_rows(SMALL, 5, 255)
