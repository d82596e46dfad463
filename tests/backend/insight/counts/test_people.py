"""What a person counted, by what she drew with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.insight.counts.people import count_people
from backend.label_studio.brush import encode
from backend.label_studio.label_config import LabelConfig, parse_label_config
from backend.options import ProjectOptions

CLASSES = ("background", "Cell", "Cast")
H, W = 60, 100
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="Cell"/><Label value="Cast"/></BrushLabels>
<PolygonLabels name="polygon" toName="image"><Label value="Cell"/></PolygonLabels></View>"""


@pytest.fixture
def config() -> LabelConfig:
    return parse_label_config(CONFIG)


def square(x: int, y: int, side: int = 8) -> NDArray[np.bool_]:
    mask = np.zeros((H, W), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def region(kind: str, label: str, **value: Any) -> dict[str, Any]:
    return {
        "id": f"{kind}-{value.get('points', value.get('rle'))}"[:60],
        "from_name": kind,
        "to_name": "image",
        "type": f"{kind}labels",
        "original_width": W,
        "original_height": H,
        "value": {**value, f"{kind}labels": [label]},
    }


def brush(mask: NDArray[np.bool_], label: str = "Cell") -> dict[str, Any]:
    return region("brush", label, format="rle", rle=encode(mask))


def polygon(x: int, y: int, side: int = 8) -> dict[str, Any]:
    corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
    points = [[px * 100 / W, py * 100 / H] for px, py in corners]
    return region("polygon", "Cell", points=points, closed=True)


def counted(
    config: LabelConfig, *results: list[dict[str, Any]], truth: int | None = None, **options: Any
) -> list[float]:
    """Particles of Cell and Cast, by an annotation for each result."""
    annotations = [
        {"id": i, "result": result, "ground_truth": i == truth} for i, result in enumerate(results)
    ]
    tally = count_people(annotations, (H, W), config, ProjectOptions(**options), CLASSES, {})
    return [float(n) for n in tally.counts[1:]]


def test_outlines_are_one_particle_each_even_where_they_touch(config: LabelConfig) -> None:
    assert counted(config, [polygon(0, 0), polygon(8, 0), polygon(40, 0)]) == [3, 0]


def test_brush_regions_drawn_one_by_one_are_counted_so(config: LabelConfig) -> None:
    touching = [brush(square(0, 0)), brush(square(8, 0)), brush(square(60, 0), "Cast")]
    assert counted(config, touching) == [2, 1]


def test_a_mask_of_the_whole_class_is_divided_as_the_committee_s_is(config: LabelConfig) -> None:
    whole = square(0, 0) | square(20, 0) | square(40, 0) | square(90, 50, side=2)
    assert counted(config, [brush(whole)]) == [3, 0]  # without the speck
    assert counted(config, [brush(whole)], min_particle_px=1) == [4, 0]
    # What somebody added to it belongs to it, where it touches.
    assert counted(config, [brush(whole), brush(square(8, 0))]) == [3, 0]


def test_what_a_later_region_covers_is_not_there(config: LabelConfig) -> None:
    assert counted(config, [polygon(0, 0), polygon(0, 0)]) == [1, 0]
    assert counted(config, [polygon(2, 2, side=4), brush(square(0, 0, side=12), "Cast")]) == [0, 1]


def test_several_annotators_count_on_average_and_ground_truth_alone(config: LabelConfig) -> None:
    one, two = [polygon(0, 0)], [polygon(0, 0), polygon(20, 0)]
    assert counted(config, one, two) == [1.5, 0]
    assert counted(config, one, two, truth=1) == [2, 0]


def test_areas_are_shares_of_what_is_known(config: LabelConfig) -> None:
    result = [brush(square(0, 0, side=20)), brush(square(40, 0, side=30), "Gone")]
    annotations = [{"id": 1, "result": result}]
    tally = count_people(annotations, (H, W), config, ProjectOptions(), CLASSES, {})
    assert tally.unknown == pytest.approx(900 / (H * W))
    assert tally.areas[1] == pytest.approx(400 / (H * W - 900))
    assert tally.counts.tolist() == [0, 1, 0]


def test_a_mask_of_touching_particles_is_split_as_the_committee_s_is(config: LabelConfig) -> None:
    rows, columns = np.mgrid[:H, :W]
    touching = np.zeros((H, W), bool)
    for x in (20, 40):
        touching |= (rows - 30) ** 2 + (columns - x) ** 2 <= 11**2
    annotations = [{"id": 1, "result": [brush(touching)]}]
    for split, particles in (({}, 1), ({1: 22.0}, 2), ({2: 22.0}, 1)):
        tally = count_people(annotations, (H, W), config, ProjectOptions(), CLASSES, split)
        assert tally.counts.tolist() == [0, particles, 0]
