import pytest
import torch

from training.quality.calibrate import (
    MAX_TEMPERATURE,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


def drawn(temperature, count=40_000):
    """Logits, and truth that their softmax at this temperature foretells."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 4, generator=generator) * 3
    probs = (logits / temperature).softmax(dim=1)
    return logits, torch.multinomial(probs, 1, generator=generator)[:, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_truth_is_found(temperature):
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.05)


def test_logits_that_know_nothing_stop_at_the_bound():
    logits, _ = drawn(1.0)
    truth = torch.randint(0, 4, (len(logits),), generator=torch.Generator().manual_seed(1))
    assert fit_temperature(logits, truth) == pytest.approx(MAX_TEMPERATURE, rel=0.02)


def test_calibration_brings_the_error_down():
    logits, truth = drawn(2.5)
    before = expected_calibration_error(logits.softmax(dim=1), truth)
    after = expected_calibration_error((logits / fit_temperature(logits, truth)).softmax(1), truth)
    assert before > 0.15
    assert after < 0.02


def test_the_error_by_hand():
    # Two pixels at 0.9 of which one is right, two at 0.6 of which both are.
    probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    truth = torch.tensor([0, 1, 0, 1])
    assert expected_calibration_error(probs, truth) == pytest.approx((0.4 * 2 + 0.4 * 2) / 4)
    curve = reliability(probs, truth)
    assert [(round(c, 3), r, n) for c, r, n in curve] == [(0.6, 1.0, 2), (0.9, 0.5, 2)]


def test_certainty_belongs_to_the_last_bin():
    assert reliability(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == [(1.0, 1.0, 1)]


def test_no_pixels_are_refused():
    with pytest.raises(ValueError, match="got"):
        fit_temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.long))
