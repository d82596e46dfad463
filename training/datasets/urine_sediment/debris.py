"""The background that nobody labels: bacteria, mucus, specks and dust."""

import cv2
import numpy as np

from training.datasets.urine_sediment.microscope import REFERENCE_UM, Laboratory, carry
from training.datasets.urine_sediment.shapes import Floats, draw_granules, gaussian_blur
from training.datasets.urine_sediment.specimen import Specimen


def add_debris(
    light: Floats, specimen: Specimen, rng: np.random.Generator, lab: Laboratory, focus: float
) -> None:
    """What nobody labels, in two depths of the slide: one near focus, one far from it."""
    size = (light.shape[0], light.shape[1])
    near = _bacteria(rng, size, specimen.bacteria * 2 // 3, specimen.cocci, lab)
    far = _bacteria(rng, size, specimen.bacteria // 3, specimen.cocci, lab)
    near += _mucus(rng, size, lab)
    area = size[0] * size[1] * lab.um_per_px**2
    specks = draw_granules(rng, size, rng.gamma(1.5, 8) / area, 0.32, lab.um_per_px)
    grit = draw_granules(rng, size, rng.gamma(1.0, 3) / area, 0.7, lab.um_per_px)
    near += 0.7 * specks + 1.3 * grit
    haze = draw_granules(rng, size, rng.gamma(1.0, 30) / area, 0.6, lab.um_per_px)
    far += 0.28 * haze
    for phase, density, defocus in ((near, 0.12, focus), (far, 0.05, focus + rng.uniform(3, 8))):
        carried = carry(phase, density * phase, defocus, REFERENCE_UM, lab)
        light *= carried[:, :, None]
    _add_dust(light, rng)


def _bacteria(
    rng: np.random.Generator, size: tuple[int, int], count: int, cocci: bool, lab: Laboratory
) -> Floats:
    """Phase [H, W] of rods, or cocci in chains and clumps, drawn 8 times finer than a pixel."""
    um, shift = lab.um_per_px, 3
    canvas = np.zeros(size, np.uint8)
    for _ in range(count):
        y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        angle = rng.uniform(0, 2 * np.pi)
        if cocci:
            for _ in range(int(rng.integers(2, 9))):
                centre = (round(x * 2**shift), round(y * 2**shift))
                cv2.circle(canvas, centre, round(0.4 / um * 2**shift), 255, -1, cv2.LINE_AA, shift)
                angle += rng.normal(0, 0.6)
                y, x = y + 0.9 / um * np.sin(angle), x + 0.9 / um * np.cos(angle)
            continue
        length = min(4.5, rng.lognormal(0.8, 0.3)) / um
        ends = [
            (x + s * length / 2 * np.cos(angle), y + s * length / 2 * np.sin(angle))
            for s in (-1, 1)
        ]
        a, b = [(round(px * 2**shift), round(py * 2**shift)) for px, py in ends]
        cv2.line(
            canvas, a, b, int(rng.integers(70, 256)), max(1, round(0.6 / um)), cv2.LINE_AA, shift
        )
    return 0.55 * gaussian_blur(canvas, 0.28 / um) / 255


def _mucus(rng: np.random.Generator, size: tuple[int, int], lab: Laboratory) -> Floats:
    """Phase [H, W] of long faint threads, which few fields have."""
    H, W = size
    canvas = np.zeros(size, np.uint8)
    if rng.random() > 0.3:
        return np.zeros(size, np.float32)
    steps = np.linspace(0, 1, 60)
    for _ in range(int(rng.integers(1, 5))):
        start, angle = rng.uniform(0, 1, 2) * (W, H), rng.uniform(0, 2 * np.pi)
        turn = angle + np.cumsum(rng.normal(0, 0.12, 60)) + np.sin(steps * rng.uniform(2, 8))
        step = rng.uniform(0.4, 1.2) * max(H, W) / 60
        path = start + np.cumsum(np.stack([np.cos(turn), np.sin(turn)], 1) * step, 0)
        points = np.round(path * 8).astype(np.int32)[:, None]
        cv2.polylines(canvas, [points], False, int(rng.integers(60, 160)), 1, cv2.LINE_AA, 3)
    return 0.45 * gaussian_blur(canvas, 0.3 / lab.um_per_px) / 255


def _add_dust(light: Floats, rng: np.random.Generator) -> None:
    """Dark shadows of dust far from the plane in focus: on the slide's glass, in the camera."""
    H, W = light.shape[:2]
    y, x = np.arange(H, dtype=np.float32)[:, None], np.arange(W, dtype=np.float32)[None, :]
    for _ in range(int(rng.poisson(1.6))):
        cy, cx = rng.uniform(0, H), rng.uniform(0, W)
        sigma, depth = rng.lognormal(1.9, 0.5), rng.uniform(0.03, 0.14)
        squash = rng.uniform(0.7, 1.4)
        down = np.exp(-(((y - np.float32(cy)) / np.float32(sigma * squash)) ** 2) / 2)
        along = np.exp(-(((x - np.float32(cx)) / np.float32(sigma)) ** 2) / 2)
        light *= (1 - np.float32(depth) * down * along)[:, :, None]
