"""A drawn field of view with its exact mask, and folders of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.datasets.urine_sediment.debris import add_debris
from training.datasets.urine_sediment.microscope import LABORATORIES, Bytes, expose, photograph
from training.datasets.urine_sediment.specimen import CLASSES, draw_specimen, overlap, scatter

# Out of focus by this much, the faintest hyaline cast stands out of the noise.
SHOWING_UM = 0.8

# Fewer pixels than this is a particle's edge at the frame: nothing an annotator would mark.
SMALLEST_PX = 12


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
    specimen = draw_specimen(rng, size, lab)
    focus = lab.focus_um + rng.normal(0, 0.5)
    light = np.ones((*size, 3), np.float32)
    labels = np.zeros(size, np.int32)  # which particle shows where
    classes = [0]
    add_debris(light, specimen, rng, lab, focus)
    for index, particle, (y, x) in scatter(specimen, rng, size, lab):
        defocus = focus + float(np.clip(rng.normal(0, lab.focus_spread_um), -3, 3))
        # In exact focus a clear particle vanishes; whoever takes the picture turns until it shows.
        defocus = float(np.copysign(max(abs(defocus), SHOWING_UM), defocus))
        to, of = overlap(size, particle.phase.shape, y, x)
        if to is None:
            continue
        light[to] *= expose(particle, defocus, lab)[of]
        classes.append(index)
        labels[to][particle.inside[of]] = len(classes) - 1
    shown = np.bincount(labels.ravel(), minlength=len(classes)) >= SMALLEST_PX
    shown[0] = False
    mask = np.where(shown, np.array(classes, np.uint8), 0).astype(np.uint8)[labels]
    particles = np.bincount(np.array(classes)[shown], minlength=len(CLASSES))
    counts = {name: int(particles[c]) for c, name in enumerate(CLASSES) if c}
    return Field(photograph(light, rng, lab), mask, laboratory, counts)


def write_folder(
    folder: Path,
    count: int,
    seed: int,
    laboratories: Sequence[str] = ("A", "B"),
    progress: Callable[[int, int], None] = lambda done, of: None,
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
        progress(i + 1, count)


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
