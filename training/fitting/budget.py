"""How many steps a member trains for: what its labels repay, in the seconds that it may take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from training.config import TrainConfig

FEWEST_STEPS, MOST_STEPS = 100, 2000
"""Fewer teach nothing whatever the machine; more were never seen to help."""

KNEE_STEPS = 300.0
"""The knee for one image of ``FIELD_PX``."""

KNEE_BY_IMAGES = KNEE_BY_PIXELS = 0.15
"""The knee grows with the images and with their known pixels, each to this power.

Urine of another year, one member, mean IoU after 200, 600 and 1,800 steps .340, .408,
.434 from 10 images, .350, .473, .494 from 20. So the knee lies between 600 and 1,000 steps, and a
little higher with 20. All images had one size, which tells pixels from images by nothing: they
share the exponent.
"""

FIELD_PX = 720 * 576
"""Of the images that the knee was measured on."""

LIKE_STEPS = 1.25
"""Trainings whose steps differ by a larger factor are not alike. By the figures above (in the
logarithm of the steps) this one is worth .014 to .025 of IoU below 600 steps and .005 above."""

STEADY_STEPS = 1.15
"""Steps stay as they were while the new number is within this factor: the speed is an estimate,
and versions of the same steps are the easiest to compare. Below ``LIKE_STEPS``."""

SPEED_ROUNDS = 3
"""Rounds whose speed counts: of three, one on a busy machine changes nothing."""


@dataclass(frozen=True)
class Budget:
    """How long the members of a round train, and why.

    Attributes:
        steps: of each member.
        knee: steps beyond which more hardly help with these labels.
        images: labelled images that teach.
        seconds: FIT_SECONDS, that a member's training may take.
        step_s: seconds of a step on this machine; None where the steps were chosen and nobody
            has measured it yet.
        chosen: the option `steps` says how many.
        cost: as of ``cost_key``.
    """

    steps: int
    knee: int
    images: int
    seconds: float
    step_s: float | None
    chosen: bool
    cost: str

    @property
    def limits(self) -> bool:
        """Whether the training is so short that it holds quality back."""
        return self.steps * LIKE_STEPS < self.knee

    @property
    def remedy(self) -> str:
        """What a person sets to reach the knee: ``FIT_SECONDS=111`` or ``steps=740``."""
        if self.chosen or self.step_s is None:
            return f"steps={self.knee}"
        return f"FIT_SECONDS={math.ceil(self.knee * self.step_s)}"

    def describe(self) -> str:
        """``270 steps a member (40 s at 0.15 s a step; 740 would pay for 20 labelled images:
        FIT_SECONDS=111)``."""
        facts = ["as the option `steps` says"] if self.chosen else []
        if self.step_s is not None:
            facts.append(f"{self.steps * self.step_s:.0f} s at {self.step_s:.2g} s a step")
        images = f"{self.images} labelled images"
        if self.steps < self.knee:
            facts.append(f"{self.knee} would pay for {images}: {self.remedy}")
        else:
            facts.append(f"more than {self.knee} hardly help with {images}")
        return f"{self.steps} steps a member ({'; '.join(facts)})"


def knee_steps(images: int, pixels: int) -> int:
    """Steps beyond which more hardly help: 600 for 10 fields, 740 for 20, 1,380 for 160.

    Args:
        images: labelled images, those that a member leaves out among them; at least 1.
        pixels: known ones on all of them, at the network's resolution; at least 1.

    Returns:
        A multiple of ten between ``FEWEST_STEPS`` and ``MOST_STEPS``.
    """
    fields = pixels / FIELD_PX
    return _bounded(KNEE_STEPS * images**KNEE_BY_IMAGES * fields**KNEE_BY_PIXELS)


def steps_within(seconds: float, step_s: float) -> int:
    """Steps that take about so long; a multiple of ten between the bounds."""
    return _bounded(seconds / step_s)


def steps_for(knee: int, seconds: float, step_s: float, last: int | None = None) -> int:
    """Steps of a round's members: up to the knee, as far as the seconds go.

    Args:
        knee: as of ``knee_steps``.
        seconds: that a member's training may take.
        step_s: seconds of a step on this machine.
        last: steps of the former round that had the same seconds; kept while the new number is
            within ``STEADY_STEPS`` of it, unless more labels ask for more and there is time.
    """
    steps = min(steps_within(seconds, step_s), knee)
    if last is None or not last / STEADY_STEPS <= steps <= last * STEADY_STEPS:
        return steps
    return max(steps, last) if steps == knee else last


def usual_speed(step_s: Sequence[float]) -> float | None:
    """Seconds of a step by what former rounds took, newest first; None before the first.

    The median of the last ``SPEED_ROUNDS``; the faster of two, since a machine is slow by chance
    and never fast.
    """
    return statistics.median_low(step_s[:SPEED_ROUNDS]) if step_s else None


def cost_key(config: TrainConfig) -> str:
    """All that changes a step's cost much."""
    return (
        f"{config.network} {config.channels}x{config.crop_px}px batch {config.batch} "
        f"thaw {config.thaw:g} threads {config.threads}"
    )


def _bounded(steps: float) -> int:
    return int(min(max(round(steps / 10) * 10, FEWEST_STEPS), MOST_STEPS))
