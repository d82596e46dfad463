"""Engines give what the members give."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.committee.untrained import CPU, SMALL, UNTRAINED, as_batch, random_image
from training.committee.calibration import Calibration
from training.committee.committee import Committee
from training.committee.engine import NoEngine
from training.committee.engine_choice import check_answers
from training.committee.ensemble import Ensemble
from training.networks.build import build_network
from training.networks.forward import logits_and_features


def test_an_engine_answers_as_the_members_do(untrained, weights):
    image = random_image(40, 60)
    probs, features = untrained.engine(as_batch(image))
    assert probs.shape == (3, 1, 4, 40, 60)
    assert features.shape == (3, 1, 432)
    for m, member in enumerate(weights):
        network = build_network(UNTRAINED)
        network.load_state_dict(member)
        with torch.inference_mode():
            logits, own = logits_and_features(network.eval(), as_batch(image))
        np.testing.assert_allclose(probs[m], logits.softmax(dim=1), atol=1e-4)
        np.testing.assert_allclose(features[m], own, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (64, 64), (130, 70)])
def test_an_engine_takes_any_size_and_any_batch(untrained, size):
    images = [np.roll(random_image(*size), shift, axis=0) for shift in range(3)]
    probs, _ = untrained.engine(as_batch(*images))
    assert probs.shape == (3, 3, 4, *size)
    together = probs.clone()
    for b, image in enumerate(images):
        alone, _ = untrained.engine(as_batch(image))
        np.testing.assert_allclose(together[:, b], alone[:, 0], atol=1e-4)
    np.testing.assert_allclose(together.sum(dim=2), 1, atol=1e-5)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_the_temperature_divides_the_logits(engine):
    x = as_batch(random_image(32, 32))
    config = replace(UNTRAINED, network=SMALL, members=2)
    ensemble = Ensemble([build_network(config).state_dict() for _ in range(2)], config, device=CPU)
    cold, warm = (
        Committee(ensemble, engine=engine, calibration=Calibration(temperature))
        .engine(x)[0]
        .clone()
        for temperature in (1.0, 2.0)
    )
    expected = cold.log().div(2).softmax(dim=2)
    np.testing.assert_allclose(warm, expected, atol=1e-4)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_a_bias_raises_its_class(engine):
    x = as_batch(random_image(32, 32))
    config = replace(UNTRAINED, network=SMALL, members=2)
    ensemble = Ensemble([build_network(config).state_dict() for _ in range(2)], config, device=CPU)
    bias = (1.5, *[0.0] * (len(config.classes) - 1))
    plain, biased = (
        Committee(ensemble, engine=engine, calibration=each).engine(x)[0].clone()
        for each in (Calibration(2.0), Calibration(2.0, bias))
    )
    logits = plain.log() + torch.tensor(bias)[:, None, None]
    np.testing.assert_allclose(biased, logits.softmax(dim=2), atol=1e-4)


def test_an_engine_that_answers_otherwise_is_refused(untrained):
    def other(images):
        probs, features = untrained.engine(images)
        return probs.flip(2), features

    with pytest.raises(NoEngine, match=r"differ from torch's by up to \d"):
        check_answers(untrained.ensemble, untrained.calibration, other)
    check_answers(untrained.ensemble, untrained.calibration, untrained.engine)
