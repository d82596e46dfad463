"""Casts: moulds of a kidney tubule."""

import numpy as np

from training.datasets.urine_sediment.microscope import Particle
from training.datasets.urine_sediment.shapes import Floats, dome, draw_granules, grid, rise


def cast(rng: np.random.Generator, um: float) -> Particle:
    """A mould of a kidney tubule: hyaline, granular, or with cells in it."""
    half, width = rng.uniform(26, 55), rng.uniform(6.5, 11.5)
    u, v = grid(rng, 1.12 * half, um)
    bow, sway = rng.uniform(-0.004, 0.004), rng.uniform(0.3, 1.6)
    wave = np.float32(2 * np.pi / rng.uniform(35, 70))
    middle = np.float32(bow) * u * u + np.float32(sway) * np.sin(wave * u)
    ends = [_end(rng, s * u, half, width) for s in (-1, 1)]
    edge = width * (1 + 0.05 * np.sin(wave * 1.7 * u + 1)) * ends[0] * ends[1]
    across = v - middle
    depth = edge - np.abs(across)
    inside = (depth > 0) & (np.abs(u) < half)
    tube = dome(np.abs(across) / np.maximum(edge, 1e-3)) * inside
    wall = np.exp(-((depth / 0.8 - 1) ** 2)) * inside
    kind = rng.choice(["hyaline", "granular", "cellular"], p=[0.4, 0.42, 0.18])
    streaks = _streaks(rng, u, across, um) * inside
    if kind == "hyaline":
        few = draw_granules(rng, u.shape, 0.05, 0.3, um) * inside
        phase = 0.95 * tube + 0.5 * wall + 0.18 * streaks + 0.35 * few
        return Particle(phase, 0.035 * tube, (0.9, 0.8, 1.0), inside)
    fill = rise(depth / 1.2) * inside
    fine = draw_granules(rng, u.shape, rng.uniform(0.6, 1.6), rng.uniform(0.26, 0.42), um)
    coarse = draw_granules(rng, u.shape, 0.12, 0.7, um)
    phase = 1.1 * tube + 0.3 * wall + 0.2 * streaks + (0.6 * fine + 0.5 * coarse) * fill
    density = 0.07 * tube + (0.09 * fine + 0.07 * coarse) * fill
    if kind == "cellular":
        cells = _held_cells(rng, u, across, half, width) * inside
        phase, density = phase + 1.5 * cells, density + 0.05 * cells
    return Particle(phase, density, (0.6, 0.75, 1.0), inside)


def _end(rng: np.random.Generator, u: Floats, half: float, width: float) -> Floats:
    """Share of the width left towards one end: rounded, tapering or broken off."""
    kind = rng.choice(["round", "taper", "broken"], p=[0.55, 0.2, 0.25])
    length = width * {"round": 1.0, "taper": 2.6, "broken": 0.35}[str(kind)]
    into = np.clip((np.float32(half) - u) / np.float32(length), 0, 1)
    share: Floats = np.sqrt(np.clip(1 - (1 - into) ** 2, 0, None))
    return share


def _streaks(rng: np.random.Generator, u: Floats, across: Floats, um: float) -> Floats:
    total = np.zeros_like(u)
    for _ in range(int(rng.integers(0, 5))):
        far, bend = rng.uniform(-7, 7), rng.uniform(0.2, 1.6)
        wave = np.float32(2 * np.pi / rng.uniform(20, 70))
        path = np.float32(far) + np.float32(bend) * np.sin(wave * u + np.float32(far))
        middle, length = rng.uniform(-30, 30), rng.uniform(6, 22)
        fade = np.exp(-(((u - np.float32(middle)) / np.float32(length)) ** 2))
        total += fade * np.exp(-(((across - path) / 0.6) ** 2))
    return total


def _held_cells(
    rng: np.random.Generator, u: Floats, across: Floats, half: float, width: float
) -> Floats:
    height = np.zeros_like(u)
    for _ in range(int(rng.integers(5, 14))):
        at, far = rng.uniform(-0.85, 0.85) * half, rng.uniform(-0.55, 0.55) * width
        rho = np.hypot(u - np.float32(at), across - np.float32(far)) / np.float32(
            rng.uniform(3, 4.5)
        )
        np.maximum(height, dome(rho) ** np.float32(0.6), out=height)
    return height
