"""Squamous epithelial cells: large flat plates with folds and a nucleus."""

import numpy as np

from training.datasets.urine_sediment.microscope import Particle
from training.datasets.urine_sediment.shapes import Floats, dome, draw_granules, grid, outline, rise


def epithelial_cell(rng: np.random.Generator, um: float) -> Particle:
    radius = rng.uniform(17, 25)
    u, v = grid(rng, 1.45 * radius, um)
    depth = _angular_depth(rng, u, v, radius)
    cover = rise(depth / np.float32(0.9))
    # The rim is thick where it is rolled up and thin where it lies flat.
    rolled = 0.3 + 4 * np.abs(outline(rng, np.arctan2(v, u), 1.0, 0.25, waves=8) - 1)
    rim = np.clip(rolled, 0, 1.6) * np.exp(-((depth / 0.7 - 1) ** 2)) * (depth > 0)
    phase = 0.42 * cover + 0.45 * rim
    phase += _flap(rng, u, v, depth, radius) + cover * _folds(rng, u, v, radius)
    near = np.exp(-((np.hypot(u, v) / (0.55 * radius)) ** 2))
    granules = draw_granules(rng, u.shape, 0.35, 0.26, um) * (0.35 + 0.65 * near)
    nucleus = _nucleus(rng, u, v, radius, um)
    phase += cover * (0.38 * granules + nucleus)
    density = cover * (0.02 + 0.02 * granules + 0.07 * nucleus)
    return Particle(phase, density, (0.8, 0.8, 1.0), depth > 0)


def _angular_depth(rng: np.random.Generator, u: Floats, v: Floats, radius: float) -> Floats:
    """Micrometres inside the outline of a plate with blunt corners and wavy sides."""
    count = int(rng.integers(5, 8))
    start = rng.uniform(0, 2 * np.pi)
    wave = outline(rng, np.arctan2(v, u), 1.0, 0.13, waves=6) - 1
    sides = np.zeros_like(u)
    for k in range(count):
        angle = start + (k + rng.uniform(-0.3, 0.3)) * 2 * np.pi / count
        side = radius * rng.uniform(0.74, 1.0)
        reach = np.float32(np.cos(angle)) * u + np.float32(np.sin(angle)) * v
        # A sum of exponentials is the greatest side with its corners rounded off.
        sides += np.exp((reach - np.float32(side)) / np.float32(1.4))
    inner = -1.4 * np.log(sides + np.float32(1e-30))
    depth: Floats = inner + np.float32(radius) * wave
    return depth


def _flap(rng: np.random.Generator, u: Floats, v: Floats, depth: Floats, radius: float) -> Floats:
    """An edge turned over onto the cell: a second layer with a sharp line."""
    if rng.random() > 0.6:
        return np.zeros_like(u)
    angle, far = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.45, 0.7)
    bend = rng.uniform(-0.006, 0.006)
    along = np.float32(np.cos(angle)) * u + np.float32(np.sin(angle)) * v
    across = np.float32(np.cos(angle)) * v - np.float32(np.sin(angle)) * u
    past = along - np.float32(far) + np.float32(bend) * across**2
    crease = 0.9 * np.exp(-((past - 0.5) ** 2))
    return (0.4 * rise(past / 0.8) + crease) * (depth > 0)


def _folds(rng: np.random.Generator, u: Floats, v: Floats, radius: float) -> Floats:
    height = np.zeros_like(u)
    for _ in range(int(rng.integers(2, 7))):
        angle, far = rng.uniform(0, 2 * np.pi), radius * rng.uniform(-0.7, 0.7)
        middle, length = radius * rng.uniform(-0.5, 0.5), radius * rng.uniform(0.2, 0.55)
        along = np.float32(np.cos(angle)) * u + np.float32(np.sin(angle)) * v
        across = np.float32(np.cos(angle)) * v - np.float32(np.sin(angle)) * u
        curve = np.float32(rng.uniform(-0.02, 0.02)) * along**2
        line = np.exp(-(((across - np.float32(far) + curve) / 0.45) ** 2))
        fade = np.exp(-(((along - np.float32(middle)) / np.float32(length)) ** 4))
        height += np.float32(rng.uniform(0.25, 0.7)) * line * fade
    return height


def _nucleus(rng: np.random.Generator, u: Floats, v: Floats, radius: float, um: float) -> Floats:
    du = u - np.float32(rng.normal(0, 0.12) * radius)
    dv = (v - np.float32(rng.normal(0, 0.12) * radius)) * np.float32(rng.uniform(1.0, 1.4))
    r, theta = np.hypot(du, dv), np.arctan2(dv, du)
    rho = r / outline(rng, theta, rng.uniform(3.2, 4.4), 0.08)
    chromatin = draw_granules(rng, u.shape, 0.5, 0.35, um)
    height: Floats = (1.1 * dome(rho) ** np.float32(0.6)) + 0.3 * chromatin * (rho < 0.9)
    return height
