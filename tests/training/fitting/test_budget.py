from dataclasses import replace

import pytest

from training.config import TrainConfig
from training.fitting.budget import (
    FEWEST_STEPS,
    FIELD_PX,
    MOST_STEPS,
    Budget,
    cost_key,
    knee_steps,
    steps_for,
    steps_within,
    usual_speed,
)

CONFIG = TrainConfig(("background", "a"), network="unet", crop_px=64, batch=2)
BUDGET = Budget(270, 740, 20, 40, 0.15, False, "a key")


@pytest.mark.parametrize(
    ("step_s", "steps"), [(0.1, 450), (0.3, 150), (3.0, 100), (0.001, 2000), (0.0993, 450)]
)
def test_the_steps_fill_the_seconds(step_s, steps):
    assert steps_within(45, step_s) == steps


@pytest.mark.parametrize(("images", "steps"), [(10, 600), (20, 740), (160, 1380)])
def test_the_knee_lies_where_it_was_measured(images, steps):
    assert knee_steps(images, images * FIELD_PX) == steps


def test_the_knee_grows_with_images_and_with_pixels_between_the_bounds():
    assert knee_steps(10, 20 * FIELD_PX) == knee_steps(20, 10 * FIELD_PX)
    assert knee_steps(20, 2 * FIELD_PX) < knee_steps(20, 20 * FIELD_PX)
    assert knee_steps(2, 1) == FEWEST_STEPS
    assert knee_steps(10_000, 10_000 * FIELD_PX) == MOST_STEPS


def test_steps_go_as_far_as_the_seconds_and_no_further_than_the_knee():
    assert steps_for(740, 40, 0.15) == 270
    assert steps_for(740, 400, 0.15) == 740
    assert steps_for(740, 1, 0.15) == FEWEST_STEPS


@pytest.mark.parametrize(
    ("step_s", "steps"), [(0.135, 270), (0.17, 270), (0.1, 400), (0.3, 130), (0.05, 740)]
)
def test_steps_stay_while_the_speed_is_about_the_same(step_s, steps):
    assert steps_for(740, 40, step_s, last=270) == steps


def test_steps_follow_more_labels_where_there_is_time():
    assert steps_for(780, 400, 0.15, last=740) == 780
    assert steps_for(780, 112, 0.15, last=740) == 740  # time binds: 750
    assert steps_for(700, 400, 0.15, last=740) == 740  # a label fewer changes nothing
    assert steps_for(600, 400, 0.15, last=740) == 600


def test_one_busy_round_changes_no_speed():
    assert usual_speed([]) is None
    assert usual_speed([0.3]) == 0.3
    for newest_first in ([0.3, 0.15], [0.15, 0.3], [0.3, 0.15, 0.16], [0.15, 0.16, 0.3]):
        assert usual_speed(newest_first) < 0.17
    assert usual_speed([0.3, 0.3, 0.15, 0.15, 0.15]) == 0.3  # two in a row are the machine


def test_a_budget_is_described_with_what_more_would_take():
    assert BUDGET.describe() == (
        "270 steps a member (40 s at 0.15 s a step; "
        "740 would pay for 20 labelled images: FIT_SECONDS=111)"
    )
    assert steps_within(111, 0.15) == 740
    assert replace(BUDGET, steps=740).describe() == (
        "740 steps a member (111 s at 0.15 s a step; "
        "more than 740 hardly help with 20 labelled images)"
    )
    assert replace(BUDGET, chosen=True, step_s=None).describe() == (
        "270 steps a member (as the option `steps` says; "
        "740 would pay for 20 labelled images: steps=740)"
    )


@pytest.mark.parametrize(("steps", "limits"), [(590, True), (600, False), (740, False)])
def test_a_training_clearly_below_the_knee_limits(steps, limits):
    assert replace(BUDGET, steps=steps).limits == limits


def test_the_key_changes_with_what_a_step_costs():
    key = cost_key(CONFIG)
    assert cost_key(replace(CONFIG, seed=3, steps=7)) == key
    for changed in (
        {"network": "lite0"},
        {"batch": 4},
        {"crop_px": 96},
        {"threads": 2},
        {"thaw": 0.5},
    ):
        assert cost_key(replace(CONFIG, **changed)) != key
