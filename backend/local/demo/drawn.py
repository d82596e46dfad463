"""The demo's drawn fields of view and the annotations of a dozen of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.label_studio.label_config import build_label_config, parse_label_config
from training.colours import class_colour

FIELDS = 120
ANNOTATED = 12
SIZE_PX = 512
FIRST_SEED = 1000  # apart from the tests' and the benchmarks' fields
MIN_PARTICLE_PX = 1  # annotations are exact: no particle is too small


@dataclass(frozen=True)
class DrawnField:
    """A field of view, ready for upload: PNG bytes, its mask and the names of its classes."""

    name: str
    png: bytes
    mask_png: bytes
    classes: frozenset[str]


def label_config() -> str:
    """An image and the five labels of drawn sediment, as brushes."""
    from training.datasets.urine_sediment import CLASSES

    return build_label_config(
        ((name, class_colour(index)) for index, name in enumerate(CLASSES[1:], start=1)),
        control="label",
    )


def draw(number: int) -> DrawnField:
    """Field ``number`` of the demo; the two laboratories take turns."""
    import cv2

    from training.datasets.urine_sediment import draw_field
    from training.images import encode_png

    laboratory = "AB"[number % 2]
    field = draw_field(FIRST_SEED + number, laboratory, (SIZE_PX, SIZE_PX))
    return DrawnField(
        name=f"field-{number:03d}-laboratory-{laboratory.lower()}.png",
        png=encode_png(field.image),
        mask_png=cv2.imencode(".png", field.mask)[1].tobytes(),
        classes=frozenset(name for name, count in field.counts.items() if count),
    )


def choose(drawn: Sequence[DrawnField], count: int) -> list[DrawnField]:
    """``count`` fields that together hold every class, rare ones as often as can be.

    Always the field whose classes were chosen least often so far; ties in the order of drawing.
    """
    times: dict[str, int] = {}
    left = list(drawn)
    chosen: list[DrawnField] = []
    while left and len(chosen) < count:
        best = max(left, key=lambda field: sum(2.0 ** -times.get(c, 0) for c in field.classes))
        left.remove(best)
        chosen.append(best)
        for name in best.classes:
            times[name] = times.get(name, 0) + 1
    return chosen


def regions_of(field: DrawnField) -> list[dict[str, object]]:
    """The exact mask as an annotator would have painted it: no score, no prediction's origin."""
    import cv2
    import numpy as np

    from backend.label_studio.regions import to_regions
    from training.datasets.urine_sediment import CLASSES

    decoded = cv2.imdecode(np.frombuffer(field.mask_png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert decoded is not None
    mask = decoded.astype(np.uint8)
    certain = np.ones(mask.shape, np.float32)
    config = parse_label_config(label_config())
    regions = to_regions(
        mask, certain, config, CLASSES, per="class", min_particle_px=MIN_PARTICLE_PX
    )
    return [
        {**{k: v for k, v in region.items() if k != "score"}, "origin": "manual"}
        for region in regions
    ]
