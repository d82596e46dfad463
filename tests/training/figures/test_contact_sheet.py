import io

import numpy as np
import pytest
from PIL import Image

from tests.training.discs import CLASSES, disc_example
from training.figures.contact_sheet import (
    COLUMNS,
    GAP_PX,
    LINE_PX,
    PANEL_PX,
    OutOfFold,
    contact_sheet,
    worst_median_best,
)


def test_the_worst_the_median_and_the_best_are_found():
    scores = {"a": 0.5, "b": 0.9, "c": 0.1, "d": 0.6, "e": 0.4}
    assert worst_median_best(scores) == {"worst": "c", "median": "a", "best": "b"}


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({"a": 1.0}, {"only": "a"}),
        ({"a": 1.0, "b": 0.0}, {"worst": "b", "best": "a"}),
        ({"b": 1.0, "a": 1.0, "c": 1.0}, {"worst": "a", "median": "b", "best": "c"}),
    ],
)
def test_no_task_is_shown_twice(scores, chosen):
    assert worst_median_best(scores) == chosen


def test_the_panels_show_image_truth_prediction_and_uncertainty():
    example = disc_example("a", 0, 80, 160)
    entropy = np.zeros((80, 160), np.float32)
    entropy[:, 80:] = np.log(3)
    predicted = np.full((80, 160), 2, np.uint8)
    sheet = Image.open(
        io.BytesIO(
            contact_sheet([OutOfFold(example, predicted, entropy, "worst: a")], CLASSES, "one")
        )
    )
    assert sheet.width == len(COLUMNS) * (PANEL_PX + GAP_PX) + GAP_PX
    pixels = np.asarray(sheet)
    middle = 2 * LINE_PX + GAP_PX + LINE_PX + PANEL_PX // 4
    left = [GAP_PX + column * (PANEL_PX + GAP_PX) for column in range(4)]
    # Prediction: everywhere the second class, so its colour over the whole panel.
    tint = pixels[middle, left[2] + 10].astype(int) - pixels[middle, left[0] + 10].astype(int)
    assert np.sign(tint[2]) == 1  # towards blue
    assert pixels[middle, left[3] + 10].sum() < 60  # certain: black
    assert pixels[middle, left[3] + PANEL_PX - 10].sum() > 500  # as uncertain as can be: bright


@pytest.mark.parametrize("name", ["Zelle\ngroß", "große\u2029Zelle", "cell\nlarge"])
def test_a_class_of_several_lines_is_drawn_on_one(name):
    example = disc_example("a", 0)
    entropy = np.zeros(example.mask.shape, np.float32)

    def sheet(name):
        tasks = [OutOfFold(example, example.mask, entropy, "only: a")]
        return contact_sheet(tasks, ("background", name, "other"), "one")

    assert sheet(name) == sheet(" ".join(name.split()))


def test_many_classes_are_drawn():
    example = disc_example("a", 0)
    classes = ("background", *(f"a rather long name of class {i}" for i in range(40)))
    entropy = np.full(example.mask.shape, np.nan, np.float32)
    data = contact_sheet([OutOfFold(example, example.mask, entropy, "only: a")], classes, "many")
    assert Image.open(io.BytesIO(data)).height > 300
