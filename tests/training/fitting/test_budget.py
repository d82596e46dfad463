from dataclasses import replace

import pytest

from training.config import TrainConfig
from training.fitting import budget
from training.fitting.budget import budget_key, steps_within
from training.fitting.schedule import thaw_step

CONFIG = TrainConfig(("background", "a"), network="unet", crop_px=64, batch=2)


def with_steps_of(seconds, monkeypatch):
    """Let every step take so long, the first three times as long."""
    now = [0.0]
    monkeypatch.setattr(budget.time, "perf_counter", lambda: now[0])

    def fit_member(examples, config, member, progress):
        for step in range(config.steps):
            now[0] += seconds * (3 if step == 0 else 1)
            progress(step + 1, config.steps)

    monkeypatch.setattr(budget, "fit_member", fit_member)


@pytest.mark.parametrize(
    ("step_s", "steps"), [(0.1, 450), (0.3, 150), (3.0, 100), (0.001, 2000), (0.0993, 450)]
)
def test_the_steps_fill_the_seconds(monkeypatch, step_s, steps):
    with_steps_of(step_s, monkeypatch)
    assert steps_within(45, CONFIG) == steps


def test_steps_with_the_encoder_held_and_without_are_weighed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(budget.time, "perf_counter", lambda: now[0])

    def fit_member(examples, config, member, progress):
        for step in range(config.steps):
            now[0] += 0.1 if step < thaw_step(config) else 0.3
            progress(step + 1, config.steps)

    monkeypatch.setattr(budget, "fit_member", fit_member)
    config = replace(CONFIG, network="lite0", thaw=0.75)
    assert steps_within(45, config) == 300  # 0.75 * 0.1 + 0.25 * 0.3 = 0.15 s a step


def test_real_steps_are_timed():
    assert budget.FEWEST_STEPS <= steps_within(1.0, CONFIG) <= budget.MOST_STEPS


def test_the_key_changes_with_what_a_step_costs():
    key = budget_key(45, CONFIG)
    assert budget_key(45, replace(CONFIG, seed=3, steps=7)) == key
    for changed in (
        {"network": "lite0"},
        {"batch": 4},
        {"crop_px": 96},
        {"threads": 2},
        {"thaw": 0.5},
    ):
        assert budget_key(45, replace(CONFIG, **changed)) != key
    assert budget_key(60, CONFIG) != key
