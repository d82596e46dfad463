import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from acquisition.masks import UNKNOWN
from tests.training.discs import CLASSES
from tests.training.figures.small_version import CONFIG, OWN, write_members
from training.committee.committee import Committee
from training.figures.uncertainty_figure import WRONG_COLOUR, uncertainty_figure


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def share_of(png, colour):
    return float((pixels_of(png) == colour).all(axis=2).mean())


def test_the_same_prediction_gives_the_same_bytes(committee, example):
    prediction = committee.predict(example.image)
    one, other = (
        uncertainty_figure(prediction, example.image, CLASSES, example.mask, "disc")
        for _ in range(2)
    )
    assert one == other
    assert uncertainty_figure(prediction, example.image, CLASSES, example.mask, "dish") != one


def test_errors_are_drawn_where_the_truth_is_known(committee, example):
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


def test_names_that_look_like_formulas_or_are_of_another_script_are_drawn(committee, example):
    prediction = committee.predict(example.image)
    prediction.predicted[:, :20], prediction.predicted[:, 20:] = 1, 2
    names = ("background", "$\\frac{", "_細胞")
    assert uncertainty_figure(prediction, example.image, names, None, "$x$").startswith(b"\x89PNG")


@pytest.mark.parametrize("size", [(20, 200), (200, 20), (9, 7)])
def test_any_shape_of_image_and_a_lone_member_are_drawn(tmp_path, size):
    lone = replace(CONFIG, members=1)
    committee = Committee.load(write_members(tmp_path / "1", lone), engine="torch", own_network=OWN)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    prediction = committee.predict(image)
    unknown = np.full(size, UNKNOWN, np.uint8)
    for truth in (None, unknown):
        drawn = pixels_of(uncertainty_figure(prediction, image, CLASSES, truth))
        assert min(drawn.shape[:2]) > 500


def test_what_does_not_belong_together_is_refused(committee, example):
    prediction = committee.predict(example.image)
    with pytest.raises(ValueError, match="the prediction is of an image of"):
        uncertainty_figure(prediction, example.image[1:], CLASSES)
    with pytest.raises(ValueError, match="differ in size"):
        uncertainty_figure(prediction, example.image, CLASSES, example.mask[:, 1:])
