"""What a slide holds, and where each particle lies in the field."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from training.datasets.urine_sediment.blood_cells import red_cell, white_cell
from training.datasets.urine_sediment.casts import cast
from training.datasets.urine_sediment.crystals import CRYSTAL_SHARES, CRYSTALS
from training.datasets.urine_sediment.epithelial_cell import epithelial_cell
from training.datasets.urine_sediment.microscope import Laboratory, Particle

CLASSES = ("background", "Red cell", "White cell", "Epithelial cell", "Crystal", "Cast")

RED, WHITE, EPITHELIAL, CRYSTAL, CAST = range(1, len(CLASSES))


class Finding(NamedTuple):
    """What one kind of specimen shows, in particles per field of 150 x 150 micrometres."""

    share: float  # of all fields
    means: tuple[float, float, float, float, float]  # red, white, epithelial, crystal, cast
    leading: int | None  # the class that every such field shows at least once
    bacteria: float


# Most fields of a routine slide show little, and cells far outnumber the rest (the order of
# frequencies in any sediment atlas). The shares keep every class in 8 % of fields or more.
FINDINGS = (
    Finding(0.30, (0.7, 0.5, 0.03, 0.05, 0.02), None, 6),
    Finding(0.21, (16.0, 0.8, 0.05, 0.05, 0.03), RED, 4),
    Finding(0.19, (2.0, 10.0, 0.10, 0.05, 0.03), WHITE, 60),
    Finding(0.11, (0.5, 1.5, 1.10, 0.05, 0.02), EPITHELIAL, 45),
    Finding(0.10, (0.8, 0.6, 0.05, 4.50, 0.02), CRYSTAL, 5),
    Finding(0.09, (2.0, 1.2, 0.05, 0.05, 0.80), CAST, 6),
)


class Specimen(NamedTuple):
    """Numbers of particles per class (background first, 0) and of bacteria, in one field."""

    numbers: tuple[int, ...]
    bacteria: int
    cocci: bool


def draw_specimen(rng: np.random.Generator, size: tuple[int, int], lab: Laboratory) -> Specimen:
    shares = np.array([finding.share for finding in FINDINGS])
    finding = FINDINGS[rng.choice(len(FINDINGS), p=shares / shares.sum())]
    area = size[0] * size[1] * (lab.um_per_px / 150) ** 2
    # One patient's slide differs from the next by far more than chance in one field does.
    richness = rng.lognormal(-0.2, 0.6)
    numbers = [0, *(int(n) for n in rng.poisson(np.array(finding.means) * area * richness))]
    if finding.leading is not None:
        numbers[finding.leading] = max(1, numbers[finding.leading])
    bacteria = int(rng.poisson(finding.bacteria * area * rng.gamma(0.8, 1.25)))
    return Specimen(tuple(numbers), bacteria, bool(rng.random() < 0.3))


def scatter(
    specimen: Specimen, rng: np.random.Generator, size: tuple[int, int], lab: Laboratory
) -> Iterator[tuple[int, Particle, tuple[int, int]]]:
    """Class index, particle and centre, large flat particles first: cells settle on them."""
    taken: list[tuple[float, float, float]] = []
    # A slide carries one or two kinds of crystal and of cast, not all of them.
    kinds = {
        RED: red_cell,
        WHITE: white_cell,
        EPITHELIAL: epithelial_cell,
        CRYSTAL: CRYSTALS[rng.choice(len(CRYSTALS), p=CRYSTAL_SHARES)],
        CAST: cast,
    }
    for index in (EPITHELIAL, CAST, CRYSTAL, WHITE, RED):
        for _ in range(specimen.numbers[index]):
            particle = kinds[index](rng, lab.um_per_px)
            radius = float(np.sqrt(particle.inside.sum() / np.pi))
            y, x = _place(taken, radius, rng, size)
            taken.append((y, x, radius))
            yield index, particle, (round(y), round(x))


def _place(
    taken: list[tuple[float, float, float]],
    radius: float,
    rng: np.random.Generator,
    size: tuple[int, int],
) -> tuple[float, float]:
    """A centre, in or just outside the frame, mostly clear of the particles before it."""
    if taken and rng.random() < 0.10:  # cells stick to what lies there already
        y, x, other = taken[rng.integers(len(taken))]
        angle, gap = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.1) * (radius + other)
        return y + gap * np.sin(angle), x + gap * np.cos(angle)
    out = min(0.5 * radius, 0.2 * min(size))
    y = x = 0.0
    for _ in range(12):
        y, x = rng.uniform(-out, size[0] + out), rng.uniform(-out, size[1] + out)
        if all(np.hypot(y - ty, x - tx) > 1.15 * (radius + tr) for ty, tx, tr in taken):
            break
    return float(y), float(x)


Window = tuple[slice, slice]


def overlap(
    size: tuple[int, int], patch: tuple[int, ...], y: int, x: int
) -> tuple[Window, Window] | tuple[None, None]:
    """Where a patch centred at (y, x) lies in the field, and which part of it does."""
    top, left = y - patch[0] // 2, x - patch[1] // 2
    bottom, right = min(size[0], top + patch[0]), min(size[1], left + patch[1])
    y0, x0 = max(0, top), max(0, left)
    if y0 >= bottom or x0 >= right:
        return None, None
    to = (slice(y0, bottom), slice(x0, right))
    return to, (slice(y0 - top, bottom - top), slice(x0 - left, right - left))
