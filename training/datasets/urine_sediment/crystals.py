"""Crystals: calcium oxalate, uric acid and triple phosphate."""

from collections.abc import Sequence

import numpy as np

from training.datasets.urine_sediment.microscope import Painter, Particle
from training.datasets.urine_sediment.shapes import Floats, draw_granules, grid

CLEAR = (1.0, 0.95, 0.9)

AMBER = (0.25, 0.55, 1.15)


def _facets(u: Floats, v: Floats, planes: Sequence[tuple[float, float, float]]) -> Floats:
    """Height of a convex crystal: the lowest of planes (angle, distance um, slope).

    Each plane rises with its slope from the line at its distance from the centre.
    """
    height = np.full(u.shape, np.inf, np.float32)
    for angle, far, slope in planes:
        reach = np.float32(np.cos(angle)) * u + np.float32(np.sin(angle)) * v
        np.minimum(height, (np.float32(far) - reach) * np.float32(slope), out=height)
    return np.clip(height, 0, None)


def _glass(
    height: Floats,
    radians_per_um: float,
    wall: float,
    density: float,
    tint: tuple[float, float, float],
) -> Particle:
    """A refractile solid: its height bends light, its upright walls send it past the lens."""
    inside = height > 0
    steep = np.exp(-((height / np.float32(0.6)) ** 2)) * inside
    phase = np.float32(radians_per_um) * height + np.float32(0.9) * inside
    return Particle(phase, density * height + wall * steep, tint, inside)


def _envelope(rng: np.random.Generator, um: float) -> Particle:
    """Calcium oxalate dihydrate: an octahedron lying on a corner, a square with a cross."""
    side = rng.choice([rng.uniform(2.4, 4.5), rng.uniform(4.5, 8.0)])
    u, v = grid(rng, 1.6 * side, um)
    other = side * rng.uniform(0.85, 1.0)
    # It never lies quite flat, so its four faces differ in slope and the cross is off centre.
    slopes = rng.uniform(0.75, 1.25, 4)
    planes = [(0.0, side, slopes[0]), (np.pi, side, slopes[1])]
    planes += [(np.pi / 2, other, slopes[2]), (-np.pi / 2, other, slopes[3])]
    height = _facets(u, v, planes)
    return _glass(height, 5.5 / side + 0.35, 0.55, 0.012, CLEAR)


def _rhomb(rng: np.random.Generator, um: float) -> Particle:
    """Uric acid: an amber diamond plate, often several grown through each other."""
    count = int(rng.choice([1, 2, 4], p=[0.6, 0.2, 0.2]))
    length = rng.uniform(6, 15) if count == 1 else rng.uniform(6, 11)
    u, v = grid(rng, 1.1 * length, um)
    height = np.zeros_like(u)
    for k in range(count):
        turn = k * np.pi / count + rng.normal(0, 0.1)
        sharp = rng.uniform(0.5, 0.75)
        far = length * np.sin(sharp)
        planes = [
            (turn + s * (np.pi / 2 - sharp) + flip, far, rng.uniform(0.7, 1.3))
            for s in (-1, 1)
            for flip in (0.0, np.pi)
        ]
        plate = np.minimum(_facets(u, v, planes), np.float32(rng.uniform(1.2, 2.4)))
        height = np.maximum(height, plate) + 0.35 * np.minimum(height, plate)
    lines = draw_granules(rng, u.shape, 0.05, 0.5, um) * 0.25
    crystal = _glass(height, 2.0, 0.5, rng.uniform(0.12, 0.26), AMBER)
    return crystal._replace(phase=crystal.phase + lines * crystal.inside)


def _coffin_lid(rng: np.random.Generator, um: float) -> Particle:
    """Triple phosphate: a prism with bevelled ends and a roof ridge."""
    length, width = rng.uniform(8, 20), rng.uniform(4, 8)
    u, v = grid(rng, 1.15 * np.hypot(length, width), um)
    roof = rng.uniform(0.5, 0.9)
    planes = [(np.pi / 2, width, roof), (-np.pi / 2, width, roof)]
    planes += [(0.0, length, rng.uniform(0.45, 0.8)), (np.pi, length, rng.uniform(0.45, 0.8))]
    corner = 0.88 * np.hypot(length, width)
    turn = float(np.arctan2(width, length))
    planes += [(s * turn + flip, corner, 1.1) for s in (-1, 1) for flip in (0.0, np.pi)]
    lid = np.minimum(_facets(u, v, planes), np.float32(0.62 * width * roof))
    return _glass(lid, 7.0 / (width * roof) + 0.3, 0.6, 0.008, CLEAR)


CRYSTALS: tuple[Painter, ...] = (_envelope, _rhomb, _coffin_lid)

CRYSTAL_SHARES = (0.5, 0.25, 0.25)  # oxalate is the commonest
