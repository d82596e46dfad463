from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from training.committee.calibration import Calibration
from training.quality.calibrate import (
    MAX_TEMPERATURE,
    MOST_BIAS,
    calibration_error_by_class,
    expected_calibration_error,
    fit_calibration,
    reliability,
)

MANY = 10**9  # images, of which the whole bias is taken


def drawn(temperature, bias=0.0, count=40_000):
    """Logits, and truth that they foretell at this temperature and bias of the background."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 4, generator=generator) * 3
    probs = Calibration(temperature, (bias, 0.0, 0.0, 0.0)).probs(logits, dim=1)
    return logits, torch.multinomial(probs, 1, generator=generator)[:, 0]


@pytest.mark.parametrize("bias", [-2.0, 0.0, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_what_made_the_truth_is_found(temperature, bias):
    found = fit_calibration(*drawn(temperature, bias), MANY)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.bias[0] == pytest.approx(bias, abs=0.1)
    assert found.bias[1:] == (0.0, 0.0, 0.0)


def test_a_bias_of_few_images_is_trusted_by_their_number():
    logits, truth = drawn(1.0, 1.0)
    whole, half = (fit_calibration(logits, truth, images) for images in (MANY, 10))
    assert half.bias[0] == pytest.approx(whole.bias[0] / 2)
    # The temperature is the best one beside that half.
    losses = [
        F.nll_loss(replace(half, temperature=t).probs(logits, dim=1).log(), truth).item()
        for t in (half.temperature * 0.97, half.temperature, half.temperature * 1.03)
    ]
    assert losses[1] == min(losses)
    assert half.temperature != whole.temperature


def test_logits_that_know_nothing_stop_at_the_bound():
    logits, _ = drawn(1.0)
    truth = torch.randint(0, 4, (len(logits),), generator=torch.Generator().manual_seed(1))
    found = fit_calibration(logits, truth, MANY)
    assert found.temperature == pytest.approx(MAX_TEMPERATURE, rel=0.02)


def test_truth_without_background_stops_at_the_bound():
    logits, truth = drawn(1.0)
    found = fit_calibration(logits, truth.clamp(min=1), MANY)
    assert found.bias[0] == pytest.approx(-MOST_BIAS)


def test_calibration_brings_the_error_down():
    logits, truth = drawn(2.5, 1.0)
    before = expected_calibration_error(logits.softmax(dim=1), truth)
    found = fit_calibration(logits, truth, MANY)
    after = expected_calibration_error(found.probs(logits, dim=1), truth)
    assert before > 0.15
    assert after < 0.02


def test_the_error_by_hand():
    # Two pixels at 0.9 of which one is right, two at 0.6 of which both are.
    probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    truth = torch.tensor([0, 1, 0, 1])
    assert expected_calibration_error(probs, truth) == pytest.approx((0.4 * 2 + 0.4 * 2) / 4)
    curve = reliability(probs, truth)
    assert [(round(c, 3), r, n) for c, r, n in curve] == [(0.6, 1.0, 2), (0.9, 0.5, 2)]


def test_the_error_of_each_class_by_hand():
    probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    truth = torch.tensor([0, 1, 0, 1])
    assert calibration_error_by_class(probs, truth) == pytest.approx([0.4, 0.4])


def test_certainty_belongs_to_the_last_bin():
    assert reliability(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == [(1.0, 1.0, 1)]


def test_no_pixels_are_refused():
    with pytest.raises(ValueError, match="got"):
        fit_calibration(torch.empty(0, 3), torch.empty(0, dtype=torch.long), 1)
