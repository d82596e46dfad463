"""The particle under clicks, on drawn images whose particles are known."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.particles.clicked import Click, Predicted, boxed_particles, clicked_particle

SIZE = (120, 160)


def disc(row: int, column: int, radius: int) -> NDArray[np.bool_]:
    rows, columns = np.indices(SIZE)
    inside: NDArray[np.bool_] = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return inside


LEFT, RIGHT, UNSEEN = disc(60, 40, 18), disc(60, 74, 18) & ~disc(60, 40, 18), disc(60, 125, 15)


@pytest.fixture
def predicted() -> Predicted:
    """Two particles that touch and are predicted as two, and one that is not predicted."""
    numbers = LEFT.astype(np.int32) + 2 * RIGHT
    grey = 200 - 90 * (LEFT | RIGHT | UNSEEN).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 4, SIZE)
    image = np.clip(grey + noise, 0, 255).astype(np.uint8)
    foreground = cv2.resize((230 * (numbers > 0)).astype(np.uint8), (80, 60))
    return Predicted(np.dstack([image] * 3), foreground, numbers, {"cell": 34.0})


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


def test_a_click_in_a_predicted_particle_gives_that_one(predicted: Predicted) -> None:
    assert np.array_equal(clicked_particle(predicted, [Click(60, 40)], "cell"), LEFT)


def test_a_click_where_nothing_is_predicted_grows_to_the_edge(predicted: Predicted) -> None:
    grown = clicked_particle(predicted, [Click(57, 127)], "a label that is newer than the version")
    assert iou(grown, UNSEEN) > 0.85


def test_a_second_click_adds_and_one_that_takes_away_keeps_what_is_nearer(
    predicted: Predicted,
) -> None:
    both = [Click(60, 40), Click(60, 76)]
    assert iou(clicked_particle(predicted, both, "cell"), LEFT | RIGHT) > 0.97
    one = replace(predicted, numbers=(LEFT | RIGHT).astype(np.int32))
    left = clicked_particle(one, [Click(60, 40), Click(60, 76, adds=False)], "cell")
    assert iou(left, LEFT) > 0.9
    assert not left[60, 76]


def test_the_second_click_corrects_an_outline_that_was_predicted_badly(
    predicted: Predicted,
) -> None:
    badly = replace(predicted, numbers=disc(60, 36, 12).astype(np.int32))
    alone = replace(badly, image=np.dstack([255 - 150 * LEFT.astype(np.uint8)] * 3))
    first = clicked_particle(alone, [Click(60, 36)], "cell")
    both = clicked_particle(alone, [Click(60, 36), Click(60, 54)], "cell")
    assert iou(first, LEFT) < 0.5
    assert iou(both, LEFT) > 0.9
    assert both[first].all()  # a click that adds takes nothing away


def test_only_clicks_that_take_away_give_nothing(predicted: Predicted) -> None:
    assert not clicked_particle(predicted, [Click(60, 40, adds=False)], "cell").any()


def test_clicks_in_the_corners_of_an_image_without_anything_are_answered(
    predicted: Predicted,
) -> None:
    nothing = np.zeros(SIZE, np.int32)
    flat = Predicted(np.full((*SIZE, 3), 9, np.uint8), nothing.astype(np.uint8), nothing, {})
    for row, column in ((0, 0), (119, 159)):
        assert clicked_particle(flat, [Click(row, column)], "cell")[row, column]


def test_a_box_gives_the_particles_in_it_or_what_stands_out(predicted: Predicted) -> None:
    assert np.array_equal(boxed_particles(predicted, slice(38, 82), slice(18, 66)), LEFT)
    assert iou(boxed_particles(predicted, slice(42, 78), slice(106, 144)), UNSEEN) > 0.9


def test_clicks_on_the_last_pixels_of_what_is_halved_are_answered() -> None:
    size = (384, 321)
    whole = np.ones(size, np.int32)
    image = np.full((*size, 3), 90, np.uint8)
    given = Predicted(image, np.full((48, 40), 250, np.uint8), whole, {"cell": 300.0})
    clicks = [Click(100, 320), Click(380, 320)]
    assert clicked_particle(given, clicks, "cell").all()
