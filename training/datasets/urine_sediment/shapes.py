"""Shapes that all particles are drawn with, in micrometres around a particle's centre."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats = NDArray[np.floating[Any]]  # float32 in fact

Bools = NDArray[np.bool_]

# Rings farther out than this are below the sensor's noise at every focus we draw.
HALO_UM = 5.0


def grid(
    rng: np.random.Generator, reach_um: float, um_per_px: float, angle: float | None = None
) -> tuple[Floats, Floats]:
    """Coordinates (u, v) [n, n] in micrometres of a patch, turned by an angle."""
    half = int(np.ceil((reach_um + HALO_UM) / um_per_px))
    n = fft.next_fast_len(2 * half + 1)
    line = (np.arange(n, dtype=np.float32) - n // 2) * np.float32(um_per_px)
    dy, dx = rng.uniform(-0.5, 0.5, 2).astype(np.float32) * np.float32(um_per_px)
    turn = rng.uniform(0, 2 * np.pi) if angle is None else angle
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    x, y = (line + dx)[None, :], (line + dy)[:, None]
    return cos * x + sin * y, cos * y - sin * x


def outline(
    rng: np.random.Generator, theta: Floats, radius_um: float, rough: float, waves: int = 5
) -> Floats:
    """A closed outline's radius at each angle: a circle with a few smooth waves."""
    radius = np.ones_like(theta)
    for k in range(2, 2 + waves):
        height, phase = rng.normal(0, rough / k), rng.uniform(0, 2 * np.pi)
        radius += np.float32(height) * np.cos(k * theta + np.float32(phase))
    return np.float32(radius_um) * radius


def draw_granules(
    rng: np.random.Generator, shape: tuple[int, ...], per_um2: float, width_um: float, um: float
) -> Floats:
    """Blurred points of random brightness, each about 1 high, ``width_um`` wide (sigma)."""
    sigma = width_um / um
    points = (rng.random(shape, np.float32) < per_um2 * um**2).astype(np.float32)
    points *= rng.gamma(2.5, 0.36, shape).astype(np.float32)
    return gaussian_blur(points, sigma) * np.float32(2 * np.pi * sigma**2 + 0.5)


def gaussian_blur(a: NDArray[Any], sigma_px: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(a, (0, 0), sigma_px), np.float32)


def dome(distance: Floats) -> Floats:
    """Height of a ball of radius 1 at a distance from its centre; 0 outside."""
    return np.sqrt(np.clip(1 - distance**2, 0, None))


def rise(depth: Floats) -> Floats:
    """0 outside, 1 inside, smooth over depths 0 to 1."""
    t = np.clip(depth, 0, 1)
    smooth: Floats = t * t * (3 - 2 * t)
    return smooth
