"""Drawn microscopy: brightfield fields of view of urine sediment, with exact masks.

Each particle is drawn as what light meets: an optical thickness (phase, in radians) and an
absorption. The microscope then makes the picture: the wave behind the particle is carried to
the plane in focus, cut by the objective's aperture and blurred by the condenser's. Dark rims,
bright halos and rings come from that, as they do at a bench, and the mask is the particle's
own outline. Two laboratories draw the same kinds of particle with different microscopes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

CLASSES = ("background", "Red cell", "White cell", "Epithelial cell", "Crystal", "Cast")

Floats = NDArray[np.floating[Any]]  # float32 in fact
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

RED, WHITE, EPITHELIAL, CRYSTAL, CAST = range(1, len(CLASSES))

# Red, green, blue, as a camera's filters weigh them.
WAVELENGTHS_UM = (0.61, 0.54, 0.46)
REFERENCE_UM = 0.54
# Rings farther out than this are below the sensor's noise at every focus we draw.
HALO_UM = 5.0
# Out of focus by this much, the faintest hyaline cast stands out of the noise.
SHOWING_UM = 0.8
# Fewer pixels than this is a particle's edge at the frame: nothing an annotator would mark.
SMALLEST_PX = 12


@dataclass(frozen=True)
class Laboratory:
    """One microscope, its camera, and how people there set them.

    Lengths in micrometres; ``light`` and ``haze`` in grey levels of 255; the rest are fractions.
    """

    um_per_px: float
    light: tuple[float, float, float]
    contrast: float
    focus_um: float
    focus_spread_um: float
    objective: float  # numerical aperture
    condenser: float  # numerical aperture, stopped down as for unstained sediment
    tilt: tuple[float, float]  # of the illumination, in numerical aperture
    vignetting: float
    noise: float
    haze: float
    sharpening: float
    softness_px: float
    jpeg_quality: int


LABORATORIES = {
    # A video camera: cool light, small pixels on the slide, in focus, sharpened.
    "A": Laboratory(
        um_per_px=0.30,
        light=(176.0, 190.0, 177.0),
        contrast=1.0,
        focus_um=1.6,
        focus_spread_um=0.9,
        objective=0.65,
        condenser=0.13,
        tilt=(0.05, -0.06),
        vignetting=0.07,
        noise=3.8,
        haze=1.3,
        sharpening=0.55,
        softness_px=0.55,
        jpeg_quality=88,
    ),
    # A still camera: warm light, higher magnification, flatter, focused lower, darker corners.
    "B": Laboratory(
        um_per_px=0.24,
        light=(196.0, 178.0, 158.0),
        contrast=0.72,
        focus_um=-1.9,
        focus_spread_um=1.5,
        objective=0.55,
        condenser=0.17,
        tilt=(-0.07, -0.02),
        vignetting=0.26,
        noise=5.2,
        haze=2.2,
        sharpening=0.15,
        softness_px=0.9,
        jpeg_quality=80,
    ),
}


@dataclass(frozen=True)
class Field:
    """One drawn field of view.

    ``image`` is uint8 [H, W, 3] RGB, ``mask`` uint8 [H, W] of indices into ``CLASSES``;
    ``counts`` says how many particles of each class but background show in the mask.
    """

    image: Bytes
    mask: Bytes
    laboratory: str
    counts: dict[str, int]


class Particle(NamedTuple):
    """What light meets, on a square patch around the particle's centre.

    ``phase`` [h, w] radians at ``REFERENCE_UM``; ``density`` [h, w] natural-log absorption,
    weighed per colour by ``tint``; ``inside`` [h, w] is the mask.
    """

    phase: Floats
    density: Floats
    tint: tuple[float, float, float]
    inside: Bools


Painter = Callable[[np.random.Generator, float], Particle]


def draw_field(seed: int, laboratory: str = "A", size: tuple[int, int] = (512, 512)) -> Field:
    """A field of view, the same one whenever seed, laboratory and size are the same.

    Args:
        seed: 0 or more.
        laboratory: a name in ``LABORATORIES``.
        size: (height, width) in pixels, each 16 or more. A larger field shows more of the
            slide, not larger particles.

    Raises:
        ValueError: one of the three is none of these.
    """
    _check(seed, laboratory, size)
    lab = LABORATORIES[laboratory]
    rng = np.random.default_rng([seed, *laboratory.encode()])
    specimen = _specimen(rng, size, lab)
    focus = lab.focus_um + rng.normal(0, 0.5)
    light = np.ones((*size, 3), np.float32)
    labels = np.zeros(size, np.int32)  # which particle shows where
    classes = [0]
    _add_debris(light, specimen, rng, lab, focus)
    for index, particle, (y, x) in _scatter(specimen, rng, size, lab):
        defocus = focus + float(np.clip(rng.normal(0, lab.focus_spread_um), -3, 3))
        # In exact focus a clear particle vanishes; whoever takes the picture turns until it shows.
        defocus = float(np.copysign(max(abs(defocus), SHOWING_UM), defocus))
        to, of = _overlap(size, particle.phase.shape, y, x)
        if to is None:
            continue
        light[to] *= _expose(particle, defocus, lab)[of]
        classes.append(index)
        labels[to][particle.inside[of]] = len(classes) - 1
    shown = np.bincount(labels.ravel(), minlength=len(classes)) >= SMALLEST_PX
    shown[0] = False
    mask = np.where(shown, np.array(classes, np.uint8), 0).astype(np.uint8)[labels]
    seen = np.bincount(np.array(classes)[shown], minlength=len(CLASSES))
    counts = {name: int(seen[c]) for c, name in enumerate(CLASSES) if c}
    return Field(_photograph(light, rng, lab), mask, laboratory, counts)


def write_folder(
    folder: Path, count: int, seed: int, laboratories: Sequence[str] = ("A", "B")
) -> None:
    """Draw ``count`` fields into a labelled folder, the laboratories taking turns.

    Writes images/NAME.png (RGB), masks/NAME.png (class indices) and classes.txt
    (``index name`` a line). Field ``i`` has the seed ``seed + i``.

    Raises:
        ValueError: ``count`` is below 1, there is no laboratory, or one is unknown.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    if not laboratories:
        raise ValueError("laboratories must name at least one laboratory, got none")
    for laboratory in laboratories:
        _check(seed, laboratory, (512, 512))
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = [f"{index} {name}\n" for index, name in enumerate(CLASSES)]
    (folder / "classes.txt").write_text("".join(lines))
    for i in range(count):
        field = draw_field(seed + i, laboratories[i % len(laboratories)])
        name = f"field-{field.laboratory}-{seed + i:05d}.png"
        _write_png(folder / "images" / name, cv2.cvtColor(field.image, cv2.COLOR_RGB2BGR))
        _write_png(folder / "masks" / name, field.mask)


def _check(seed: int, laboratory: str, size: tuple[int, int]) -> None:
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    if laboratory not in LABORATORIES:
        known = ", ".join(LABORATORIES)
        raise ValueError(f"laboratory must be one of {known}, got {laboratory!r}")
    if len(size) != 2 or min(size) < 16:
        raise ValueError(f"size must be (height, width) of 16 px or more, got {size}")


def _write_png(path: Path, pixels: NDArray[Any]) -> None:
    ok, data = cv2.imencode(".png", pixels)
    if not ok:
        raise ValueError(f"{path.name} could not be encoded as PNG")
    path.write_bytes(data.tobytes())


# --- What a slide holds -----------------------------------------------------------------


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


def _specimen(rng: np.random.Generator, size: tuple[int, int], lab: Laboratory) -> Specimen:
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


def _scatter(
    specimen: Specimen, rng: np.random.Generator, size: tuple[int, int], lab: Laboratory
) -> Iterator[tuple[int, Particle, tuple[int, int]]]:
    """Class index, particle and centre, large flat particles first: cells settle on them."""
    taken: list[tuple[float, float, float]] = []
    # A slide carries one or two kinds of crystal and of cast, not all of them.
    kinds = {
        RED: _red_cell,
        WHITE: _white_cell,
        EPITHELIAL: _epithelial_cell,
        CRYSTAL: CRYSTALS[rng.choice(len(CRYSTALS), p=CRYSTAL_SHARES)],
        CAST: _cast,
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


def _overlap(
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


# --- Particles --------------------------------------------------------------------------


def _grid(
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


def _outline(
    rng: np.random.Generator, theta: Floats, radius_um: float, rough: float, waves: int = 5
) -> Floats:
    """A closed outline's radius at each angle: a circle with a few smooth waves."""
    radius = np.ones_like(theta)
    for k in range(2, 2 + waves):
        height, phase = rng.normal(0, rough / k), rng.uniform(0, 2 * np.pi)
        radius += np.float32(height) * np.cos(k * theta + np.float32(phase))
    return np.float32(radius_um) * radius


def _granules(
    rng: np.random.Generator, shape: tuple[int, ...], per_um2: float, width_um: float, um: float
) -> Floats:
    """Blurred points of random brightness, each about 1 high, ``width_um`` wide (sigma)."""
    sigma = width_um / um
    points = (rng.random(shape, np.float32) < per_um2 * um**2).astype(np.float32)
    points *= rng.gamma(2.5, 0.36, shape).astype(np.float32)
    return _blur(points, sigma) * np.float32(2 * np.pi * sigma**2 + 0.5)


def _blur(a: NDArray[Any], sigma_px: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(a, (0, 0), sigma_px), np.float32)


def _dome(distance: Floats) -> Floats:
    """Height of a ball of radius 1 at a distance from its centre; 0 outside."""
    return np.sqrt(np.clip(1 - distance**2, 0, None))


def _rise(depth: Floats) -> Floats:
    """0 outside, 1 inside, smooth over depths 0 to 1."""
    t = np.clip(depth, 0, 1)
    smooth: Floats = t * t * (3 - 2 * t)
    return smooth


def _red_cell(rng: np.random.Generator, um: float) -> Particle:
    radius = max(2.6, rng.normal(3.6, 0.22))
    u, v = _grid(rng, 1.4 * radius, um)
    v = v * np.float32(rng.choice([1.0, rng.uniform(1.05, 1.35)], p=[0.55, 0.45]))
    r, theta = np.hypot(u, v), np.arctan2(v, u)
    kind = rng.choice(
        ["disc", "swollen", "cup", "ghost", "crenated"], p=[0.44, 0.2, 0.1, 0.1, 0.16]
    )
    edge = _outline(rng, theta, radius, 0.05)
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
    return np.float32(rng.uniform(2.6, 3.6)) * _dome(rho) ** np.float32(0.8)


def _cup(rng: np.random.Generator, rho: Floats, across: Floats, um: float) -> Floats:
    pit = np.exp(-((across - 0.3) ** 2 * 6 + rho**2 * 3))
    return 3.2 * _dome(rho) * (1 - np.float32(rng.uniform(0.6, 0.85)) * pit)


def _ghost(rng: np.random.Generator, rho: Floats, across: Floats, um: float) -> Floats:
    wall = 2.6 * np.exp(-(((rho - 0.93) / 0.07) ** 2)) * (rho <= 1)
    thickness: Floats = wall + 1.4 * _dome(rho)
    return thickness


def _crenated(rng: np.random.Generator, rho: Floats, across: Floats, um: float) -> Floats:
    bumps = _granules(rng, rho.shape, 0.5, 0.42, um)
    return 2.5 * _dome(rho) + 0.9 * bumps * _rise((1 - rho) * 4)


_THICKNESS: dict[str, Callable[[np.random.Generator, Floats, Floats, float], Floats]] = {
    "disc": _disc,
    "swollen": _swollen,
    "cup": _cup,
    "ghost": _ghost,
    "crenated": _crenated,
}


def _white_cell(rng: np.random.Generator, um: float) -> Particle:
    radius = max(4.4, rng.normal(5.7, 0.5))
    u, v = _grid(rng, 1.6 * radius, um)
    r, theta = np.hypot(u, v), np.arctan2(v, u)
    edge = _outline(rng, theta, radius, 0.09, waves=7)
    rho = r / edge
    decay = rng.random() < 0.45  # old cells put out blebs and fray
    body = 0.75 * _dome(rho) ** np.float32(0.75)
    inside = rho <= 1
    if decay:
        blebs = _blebs(rng, u, v, radius)
        inside |= blebs > 0
        body = np.maximum(body, blebs)
    fill = _rise((1 - rho) * 3.5)
    granules = _granules(rng, r.shape, rng.uniform(0.7, 1.3), rng.uniform(0.24, 0.34), um)
    coarse = _granules(rng, r.shape, 0.16, 0.6, um) * np.float32(0.5 if decay else 0.25)
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
        np.maximum(height, _dome(np.hypot(du, dv) / np.float32(size)) * 0.65, out=height)
    return height


def _lobes(rng: np.random.Generator, u: Floats, v: Floats, radius: float) -> Floats:
    """The segments of a neutrophil's nucleus, strung along an arc."""
    height = np.zeros_like(u)
    count, start = int(rng.integers(2, 5)), rng.uniform(0, 2 * np.pi)
    for k in range(count):
        angle = start + 1.5 * k + rng.normal(0, 0.2)
        far, size = 0.36 * radius, radius * rng.uniform(0.27, 0.36)
        du, dv = u - np.float32(far * np.cos(angle)), v - np.float32(far * np.sin(angle))
        np.maximum(height, _dome(np.hypot(du, dv) / np.float32(size)), out=height)
    return height


def _epithelial_cell(rng: np.random.Generator, um: float) -> Particle:
    radius = rng.uniform(17, 25)
    u, v = _grid(rng, 1.45 * radius, um)
    depth = _angular_depth(rng, u, v, radius)
    cover = _rise(depth / np.float32(0.9))
    # The rim is thick where it is rolled up and thin where it lies flat.
    rolled = 0.3 + 4 * np.abs(_outline(rng, np.arctan2(v, u), 1.0, 0.25, waves=8) - 1)
    rim = np.clip(rolled, 0, 1.6) * np.exp(-((depth / 0.7 - 1) ** 2)) * (depth > 0)
    phase = 0.42 * cover + 0.45 * rim
    phase += _flap(rng, u, v, depth, radius) + cover * _folds(rng, u, v, radius)
    near = np.exp(-((np.hypot(u, v) / (0.55 * radius)) ** 2))
    granules = _granules(rng, u.shape, 0.35, 0.26, um) * (0.35 + 0.65 * near)
    nucleus = _nucleus(rng, u, v, radius, um)
    phase += cover * (0.38 * granules + nucleus)
    density = cover * (0.02 + 0.02 * granules + 0.07 * nucleus)
    return Particle(phase, density, (0.8, 0.8, 1.0), depth > 0)


def _angular_depth(rng: np.random.Generator, u: Floats, v: Floats, radius: float) -> Floats:
    """Micrometres inside the outline of a plate with blunt corners and wavy sides."""
    count = int(rng.integers(5, 8))
    start = rng.uniform(0, 2 * np.pi)
    wave = _outline(rng, np.arctan2(v, u), 1.0, 0.13, waves=6) - 1
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
    return (0.4 * _rise(past / 0.8) + crease) * (depth > 0)


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
    rho = r / _outline(rng, theta, rng.uniform(3.2, 4.4), 0.08)
    chromatin = _granules(rng, u.shape, 0.5, 0.35, um)
    height: Floats = (1.1 * _dome(rho) ** np.float32(0.6)) + 0.3 * chromatin * (rho < 0.9)
    return height


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


CLEAR = (1.0, 0.95, 0.9)
AMBER = (0.25, 0.55, 1.15)


def _envelope(rng: np.random.Generator, um: float) -> Particle:
    """Calcium oxalate dihydrate: an octahedron lying on a corner, a square with a cross."""
    side = rng.choice([rng.uniform(2.4, 4.5), rng.uniform(4.5, 8.0)])
    u, v = _grid(rng, 1.6 * side, um)
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
    u, v = _grid(rng, 1.1 * length, um)
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
    lines = _granules(rng, u.shape, 0.05, 0.5, um) * 0.25
    crystal = _glass(height, 2.0, 0.5, rng.uniform(0.12, 0.26), AMBER)
    return crystal._replace(phase=crystal.phase + lines * crystal.inside)


def _coffin_lid(rng: np.random.Generator, um: float) -> Particle:
    """Triple phosphate: a prism with bevelled ends and a roof ridge."""
    length, width = rng.uniform(8, 20), rng.uniform(4, 8)
    u, v = _grid(rng, 1.15 * np.hypot(length, width), um)
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


def _cast(rng: np.random.Generator, um: float) -> Particle:
    """A mould of a kidney tubule: hyaline, granular, or with cells in it."""
    half, width = rng.uniform(26, 55), rng.uniform(6.5, 11.5)
    u, v = _grid(rng, 1.12 * half, um)
    bow, sway = rng.uniform(-0.004, 0.004), rng.uniform(0.3, 1.6)
    wave = np.float32(2 * np.pi / rng.uniform(35, 70))
    middle = np.float32(bow) * u * u + np.float32(sway) * np.sin(wave * u)
    ends = [_end(rng, s * u, half, width) for s in (-1, 1)]
    edge = width * (1 + 0.05 * np.sin(wave * 1.7 * u + 1)) * ends[0] * ends[1]
    across = v - middle
    depth = edge - np.abs(across)
    inside = (depth > 0) & (np.abs(u) < half)
    tube = _dome(np.abs(across) / np.maximum(edge, 1e-3)) * inside
    wall = np.exp(-((depth / 0.8 - 1) ** 2)) * inside
    kind = rng.choice(["hyaline", "granular", "cellular"], p=[0.4, 0.42, 0.18])
    streaks = _streaks(rng, u, across, um) * inside
    if kind == "hyaline":
        few = _granules(rng, u.shape, 0.05, 0.3, um) * inside
        phase = 0.95 * tube + 0.5 * wall + 0.18 * streaks + 0.35 * few
        return Particle(phase, 0.035 * tube, (0.9, 0.8, 1.0), inside)
    fill = _rise(depth / 1.2) * inside
    fine = _granules(rng, u.shape, rng.uniform(0.6, 1.6), rng.uniform(0.26, 0.42), um)
    coarse = _granules(rng, u.shape, 0.12, 0.7, um)
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
        np.maximum(height, _dome(rho) ** np.float32(0.6), out=height)
    return height


# --- Background: debris, bacteria, mucus --------------------------------------------------


def _add_debris(
    light: Floats, specimen: Specimen, rng: np.random.Generator, lab: Laboratory, focus: float
) -> None:
    """What nobody labels, in two depths of the slide: one near focus, one far from it."""
    size = (light.shape[0], light.shape[1])
    near = _bacteria(rng, size, specimen.bacteria * 2 // 3, specimen.cocci, lab)
    far = _bacteria(rng, size, specimen.bacteria // 3, specimen.cocci, lab)
    near += _mucus(rng, size, lab)
    area = size[0] * size[1] * lab.um_per_px**2
    specks = _granules(rng, size, rng.gamma(1.5, 8) / area, 0.32, lab.um_per_px)
    grit = _granules(rng, size, rng.gamma(1.0, 3) / area, 0.7, lab.um_per_px)
    near += 0.7 * specks + 1.3 * grit
    haze = _granules(rng, size, rng.gamma(1.0, 30) / area, 0.6, lab.um_per_px)
    far += 0.28 * haze
    for phase, density, defocus in ((near, 0.12, focus), (far, 0.05, focus + rng.uniform(3, 8))):
        carried = _carry(phase, density * phase, defocus, REFERENCE_UM, lab)
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
    return 0.55 * _blur(canvas, 0.28 / um) / 255


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
    return 0.45 * _blur(canvas, 0.3 / lab.um_per_px) / 255


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


# --- The microscope and its camera ----------------------------------------------------------


def _expose(particle: Particle, defocus_um: float, lab: Laboratory) -> Floats:
    """The light behind a particle [h, w, 3], 1 where nothing is in its way."""
    channels = []
    for tint, wavelength in zip(particle.tint, WAVELENGTHS_UM, strict=True):
        phase = particle.phase * np.float32(REFERENCE_UM / wavelength)
        # An achromat brings red and blue to focus a little beyond green.
        shifted = defocus_um + 6.0 * abs(wavelength - REFERENCE_UM)
        channels.append(
            _carry(phase, particle.density * np.float32(tint), shifted, wavelength, lab)
        )
    return np.stack(channels, axis=2)


def _carry(
    phase: Floats, density: Floats, defocus_um: float, wavelength_um: float, lab: Laboratory
) -> Floats:
    """Intensity [h, w] in the plane in focus, of light that passed phase and density.

    Fresnel propagation through the objective's aperture, for one direction of light; the
    condenser's other directions shift that picture by defocus times their slope, a blur.

    Source: Goodman, Introduction to Fourier Optics, sections 4.2 and 6.2.
    """
    wave = np.exp(-0.5 * density + 1j * phase).astype(np.complex64)
    fy = fft.fftfreq(phase.shape[0], lab.um_per_px).astype(np.float32)[:, None]
    fx = fft.fftfreq(phase.shape[1], lab.um_per_px).astype(np.float32)[None, :]
    tilt_y, tilt_x = (t / wavelength_um for t in lab.tilt)
    cut = lab.objective / wavelength_um
    off_axis = ((fy + np.float32(tilt_y)) ** 2 + (fx + np.float32(tilt_x)) ** 2) / np.float32(
        cut**2
    )
    turn = np.float32(-np.pi * wavelength_um * defocus_um) * (fy**2 + fx**2)
    # The eighth power: a round aperture whose rim is as soft as the grid needs.
    lens = np.exp(-(off_axis**4) + 1j * turn).astype(np.complex64)
    lens /= abs(lens[0, 0])
    behind = fft.ifft2(fft.fft2(wave - 1) * lens) + 1
    intensity = (behind.real**2 + behind.imag**2).astype(np.float32)
    blur = abs(defocus_um) * lab.condenser / 2 / lab.um_per_px + 0.35
    return _blur(intensity, blur)


def _photograph(light: Floats, rng: np.random.Generator, lab: Laboratory) -> Bytes:
    """The camera's picture, uint8 [H, W, 3] RGB, of relative light [H, W, 3]."""
    size = (light.shape[0], light.shape[1])
    lit = light ** np.float32(lab.contrast) * _illumination(rng, size, lab)
    picture = _blur(lit, lab.softness_px)
    picture += np.float32(lab.sharpening) * (picture - _blur(picture, 1.3))
    shot = np.sqrt(np.clip(picture, 1, None) / 180) * np.float32(lab.noise)
    grain = rng.standard_normal(picture.shape, np.float32) * np.float32(0.6)
    grain += rng.standard_normal((*size, 1), np.float32) * np.float32(0.8)
    # The camera interpolates its colour filters, so its grain spans more than a pixel.
    picture += shot * _blur(grain, 0.6) * np.float32(1.8)
    # Compression leaves colour grain in blotches of a few pixels, as it stores colour coarsely.
    blotches = rng.standard_normal(picture.shape, np.float32)
    picture += shot * _blur(blotches, 1.6) * np.float32(2.0)
    pixels = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return _as_jpeg(pixels, lab.jpeg_quality)


def _illumination(rng: np.random.Generator, size: tuple[int, int], lab: Laboratory) -> Floats:
    H, W = size
    y = np.linspace(-1, 1, H, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, W, dtype=np.float32)[None, :]
    cy, cx = rng.normal(0, 0.12, 2).astype(np.float32)
    tilt_y, tilt_x = rng.normal(0, 0.025, 2).astype(np.float32)
    shade = 1 - np.float32(lab.vignetting / 2) * ((y - cy) ** 2 + (x - cx) ** 2)
    shade = (shade + tilt_y * y + tilt_x * x)[:, :, None]
    colour = np.array(lab.light, np.float32) * (1 + rng.normal(0, 0.012, 3).astype(np.float32))
    mottle = np.zeros((H, W), np.float32)
    for cells, height in ((6, 1.0), (24, 0.8), (96, 0.6)):
        coarse = rng.standard_normal((cells, cells), np.float32) * np.float32(height * lab.haze)
        mottle += np.asarray(cv2.resize(coarse, (W, H), interpolation=cv2.INTER_CUBIC), np.float32)
    lit: Floats = colour * np.float32(rng.normal(1, 0.03)) * shade + mottle[:, :, None]
    return lit


def _as_jpeg(pixels: Bytes, quality: int) -> Bytes:
    """The picture after the camera's own JPEG compression."""
    ok, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError("the drawn field could not be encoded as JPEG")
    back = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if back is None:
        raise ValueError("the drawn field could not be decoded from JPEG")
    return np.ascontiguousarray(back[:, :, ::-1]).astype(np.uint8, copy=False)
