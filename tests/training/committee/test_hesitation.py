"""Where a committee is unsure: the cell that is most so, and the classes there."""

from __future__ import annotations

import numpy as np
import pytest

from training.committee.hesitation import SIDE, find_hesitation
from training.committee.prediction import Prediction

CLASSES = ("background", "cell", "cast")


def prediction_of(uncertainty: np.ndarray, predicted: np.ndarray | None = None) -> Prediction:
    h, w = uncertainty.shape
    probs = np.full((3, h, w), 0.1, np.float32)
    probs[0], probs[2, : h // 2] = 0.8, 0.9
    return Prediction(
        size=(2 * h, 2 * w),
        probs=probs,
        predicted=np.zeros((h, w), np.uint8) if predicted is None else predicted,
        maps={"bald": uncertainty},
        arms={},
        class_scores=np.zeros(3, np.float32),
        features=np.zeros((1, 1), np.float32),
    )


def test_the_highest_cell_and_its_classes_are_found() -> None:
    uncertainty = np.zeros((96, 128), np.float32)
    uncertainty[:] = 0.05
    uncertainty[10:12, 100:102] = 0.2
    found = find_hesitation(prediction_of(uncertainty), "bald", CLASSES)
    assert found is not None
    assert found.grid.shape == (48, SIDE)
    assert np.argwhere(found.grid == 255).tolist() == [[5, 50]]
    assert int(np.median(found.grid)) == 64
    assert (found.at, found.size) == ((0, 2), (192, 256))
    assert [name for name, _ in found.between] == ["cast", "background"]
    assert [share for _, share in found.between] == pytest.approx([0.9, 0.8])


def test_boundaries_are_left_out_and_so_is_what_is_nowhere_unsure() -> None:
    predicted = np.zeros((30, 40), np.uint8)
    predicted[:, 20:] = 1
    uncertainty = np.zeros((30, 40), np.float32)
    uncertainty[:, 18:22] = 0.7
    assert find_hesitation(prediction_of(uncertainty, predicted), "bald", CLASSES) is None
    uncertainty[3, 3] = np.nan
    assert find_hesitation(prediction_of(uncertainty, predicted), "bald", CLASSES) is None
