"""A prediction at the size of its image."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training.committee import prediction as prediction_module
from training.committee.prediction import Prediction, winners


def test_the_winner_is_the_likeliest_class_and_the_first_of_equals():
    probs = torch.rand(2, 5, 7, 9, generator=torch.Generator().manual_seed(0))
    probs[0, 3, :4], probs[0, 1, :4] = 2.0, 2.0
    assert torch.equal(winners(probs), probs.argmax(dim=1).to(torch.uint8))
    assert (winners(probs)[0, :4] == 1).all()


def prediction_of(probs, size):
    predicted = probs.argmax(axis=0).astype(np.uint8)
    no_uncertainty = np.zeros(len(probs), np.float32)
    return Prediction(size, probs, predicted, {}, {}, no_uncertainty, np.zeros((1, 1), np.float32))


@pytest.mark.parametrize("strip_px", [1, 300, 1 << 19])
def test_masks_are_enlarged_in_strips_without_seams(monkeypatch, strip_px):
    monkeypatch.setattr(prediction_module, "STRIP_PX", strip_px)
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(3, 11, 13, generator=generator).mul(2).softmax(dim=0)
    prediction = prediction_of(probs.numpy(), (47, 59))
    whole = F.interpolate(probs[None], (47, 59), mode="bilinear", align_corners=False)[0]
    assert (prediction.mask() == whole.argmax(dim=0).numpy()).mean() > 0.999
    np.testing.assert_allclose(prediction.confidence(), whole.amax(dim=0), atol=1 / 255)
