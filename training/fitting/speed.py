"""How long a step of a member's training takes on this machine."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import numpy as np

from training.config import TrainConfig
from training.examples import Example
from training.fitting.fit import fit_member

WARM_UP_STEPS, TIMED_STEPS = 2, 6
"""Of each kind of step: with the encoder held, and with all learning."""


def seconds_per_step(config: TrainConfig) -> float:
    """Wall seconds of a step of ``fit_member`` here, the mean over a whole training.

    Trains some steps on noise, and takes their median: the first are slower, and now and then
    the machine is busy.

    Args:
        config: all that a step's cost depends on.
    """
    rng = np.random.default_rng(0)
    side = 2 * config.crop_px
    C = len(config.classes)
    noise = Example(
        "noise",
        rng.integers(0, 256, (side, side, config.channels), np.uint8),
        rng.integers(0, C, (side, side), np.uint8),
    )
    ends: list[float] = []
    each = WARM_UP_STEPS + TIMED_STEPS
    trial = replace(config, members=1, steps=2 * each, thaw=0.5)
    fit_member([noise], trial, 0, progress=lambda _done, _of: ends.append(time.perf_counter()))
    taken = np.diff(ends).tolist()  # of every step but the first
    held, learning = taken[WARM_UP_STEPS - 1 : each - 1], taken[each - 1 + WARM_UP_STEPS :]
    step_s: float = config.thaw * statistics.median(held)
    step_s += (1 - config.thaw) * statistics.median(learning)
    return step_s
