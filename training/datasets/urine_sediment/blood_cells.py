"""Red and white blood cells."""

from collections.abc import Callable

import numpy as np

from training.datasets.urine_sediment.microscope import REFERENCE_UM, Particle
from training.datasets.urine_sediment.shapes import Floats, dome, draw_granules, grid, outline, rise


def red_cell(rng: np.random.Generator, um: float) -> Particle:
    radius = max(2.6, rng.normal(3.6, 0.22))
    u, v = grid(rng, 1.4 * radius, um)
    v = v * np.float32(rng.choice([1.0, rng.uniform(1.05, 1.35)], p=[0.55, 0.45]))
    r, theta = np.hypot(u, v), np.arctan2(v, u)
    kind = rng.choice(
        ["disc", "swollen", "cup", "ghost", "crenated"], p=[0.44, 0.2, 0.1, 0.1, 0.16]
    )
    edge = outline(rng, theta, radius, 0.05)
    if kind == "crenated":
        edge = edge * 0.92 * _spikes(rng, theta)
    rho = r / edge
    thickness = _THICKNESS[str(kind)](rng, rho, u / radius, um)
    # Haemoglobin raises the index by about 0.06; a ghost has lost nearly all of it.
    index = rng.uniform(0.045, 0.065) if kind != "ghost" else rng.uniform(0.012, 0.018)
    phase = np.float32(2 * np.pi / REFERENCE_UM * index) * thickness
    density = np.float32(0.06 if kind != "ghost" else 0.005) * thickness
    return Particle(phase, density, (0.35, 0.55, 1.0), rho <= 1)


def _spikes(rng: np.random.Generator, theta: Floats) -> Floats:
    count, start = int(rng.integers(9, 15)), rng.uniform(0, 2 * np.pi)
    wave = 0.5 + 0.5 * np.cos(count * theta + np.float32(start))
    uneven = 1 + 0.4 * np.cos(2 * theta + np.float32(rng.uniform(0, 6)))
    reach: Floats = 1 + np.float32(rng.uniform(0.10, 0.2)) * uneven * wave**2
    return reach


def _disc(rng: np.random.Generator, rho: Floats, across: Floats, um: float) -> Floats:
    """Micrometres. Source: Evans and Fung 1972, the resting biconcave cell."""
    q = np.clip(rho, 0, 1) ** 2
    return np.sqrt(1 - q) * (0.81 + 7.83 * q - 4.39 * q * q)


def _swollen(rng: np.random.Generator, rho: Floats, across: Floats, um: float) -> Floats:
    return np.float32(rng.uniform(2.6, 3.6)) * dome(rho) ** np.float32(0.8)


def _cup(rng: np.random.Generator, rho: Floats, across: Floats, um: float) -> Floats:
    pit = np.exp(-((across - 0.3) ** 2 * 6 + rho**2 * 3))
    return 3.2 * dome(rho) * (1 - np.float32(rng.uniform(0.6, 0.85)) * pit)


def _ghost(rng: np.random.Generator, rho: Floats, across: Floats, um: float) -> Floats:
    wall = 2.6 * np.exp(-(((rho - 0.93) / 0.07) ** 2)) * (rho <= 1)
    thickness: Floats = wall + 1.4 * dome(rho)
    return thickness


def _crenated(rng: np.random.Generator, rho: Floats, across: Floats, um: float) -> Floats:
    bumps = draw_granules(rng, rho.shape, 0.5, 0.42, um)
    return 2.5 * dome(rho) + 0.9 * bumps * rise((1 - rho) * 4)


_THICKNESS: dict[str, Callable[[np.random.Generator, Floats, Floats, float], Floats]] = {
    "disc": _disc,
    "swollen": _swollen,
    "cup": _cup,
    "ghost": _ghost,
    "crenated": _crenated,
}


def white_cell(rng: np.random.Generator, um: float) -> Particle:
    radius = max(4.4, rng.normal(5.7, 0.5))
    u, v = grid(rng, 1.6 * radius, um)
    r, theta = np.hypot(u, v), np.arctan2(v, u)
    edge = outline(rng, theta, radius, 0.09, waves=7)
    rho = r / edge
    decay = rng.random() < 0.45  # old cells put out blebs and fray
    body = 0.75 * dome(rho) ** np.float32(0.75)
    inside = rho <= 1
    if decay:
        blebs = _blebs(rng, u, v, radius)
        inside |= blebs > 0
        body = np.maximum(body, blebs)
    fill = rise((1 - rho) * 3.5)
    granules = draw_granules(rng, r.shape, rng.uniform(0.7, 1.3), rng.uniform(0.24, 0.34), um)
    coarse = draw_granules(rng, r.shape, 0.16, 0.6, um) * np.float32(0.5 if decay else 0.25)
    nucleus = _lobes(rng, u, v, radius)
    phase = 1.5 * body + (0.55 * granules + coarse) * fill + 0.8 * nucleus * fill
    density = 0.03 * body + (0.05 * granules + 0.05 * nucleus) * fill
    return Particle(phase, density, (0.9, 0.75, 1.0), inside)


def _blebs(rng: np.random.Generator, u: Floats, v: Floats, radius: float) -> Floats:
    height = np.zeros_like(u)
    for _ in range(int(rng.integers(4, 13))):
        angle, far = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.75, 1.12)
        size = rng.uniform(0.9, 2.1)
        du, dv = u - np.float32(far * np.cos(angle)), v - np.float32(far * np.sin(angle))
        np.maximum(height, dome(np.hypot(du, dv) / np.float32(size)) * 0.65, out=height)
    return height


def _lobes(rng: np.random.Generator, u: Floats, v: Floats, radius: float) -> Floats:
    """The segments of a neutrophil's nucleus, strung along an arc."""
    height = np.zeros_like(u)
    count, start = int(rng.integers(2, 5)), rng.uniform(0, 2 * np.pi)
    for k in range(count):
        angle = start + 1.5 * k + rng.normal(0, 0.2)
        far, size = 0.36 * radius, radius * rng.uniform(0.27, 0.36)
        du, dv = u - np.float32(far * np.cos(angle)), v - np.float32(far * np.sin(angle))
        np.maximum(height, dome(np.hypot(du, dv) / np.float32(size)), out=height)
    return height
