from dataclasses import replace

import pytest

from training.config import TrainConfig
from training.fitting import speed
from training.fitting.schedule import thaw_step
from training.fitting.speed import seconds_per_step

CONFIG = TrainConfig(("background", "a"), network="unet", crop_px=64, batch=2)


def with_steps_of(step_s, monkeypatch):
    """Let a step take so long, by the configuration and its number."""
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])

    def fit_member(examples, config, member, progress):
        for step in range(config.steps):
            now[0] += step_s(config, step)
            progress(step + 1, config.steps)

    monkeypatch.setattr(speed, "fit_member", fit_member)


def test_a_slow_first_step_and_a_busy_moment_count_for_nothing(monkeypatch):
    with_steps_of(lambda _config, step: 0.3 if step in (0, 4, 12) else 0.1, monkeypatch)
    assert seconds_per_step(CONFIG) == pytest.approx(0.1)


def test_steps_with_the_encoder_held_and_without_are_weighed(monkeypatch):
    with_steps_of(lambda config, step: 0.1 if step < thaw_step(config) else 0.3, monkeypatch)
    config = replace(CONFIG, network="lite0", thaw=0.75)
    assert seconds_per_step(config) == pytest.approx(0.75 * 0.1 + 0.25 * 0.3)


def test_real_steps_are_timed():
    assert 0 < seconds_per_step(CONFIG) < 60
