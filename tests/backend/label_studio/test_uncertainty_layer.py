"""The uncertainty layer: within its bytes, harmless to clicks, and never read."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from backend.errors import BadLabelConfig
from backend.label_studio import brush
from backend.label_studio.label_config import (
    add_layer_control,
    add_smart_controls,
    build_label_config,
    parse_label_config,
    unread_controls,
)
from backend.label_studio.regions import read_annotation, to_regions
from backend.label_studio.reserved_controls import (
    LAYER,
    SMART,
    UNSURE,
    has_layer_control,
    without_controls,
)
from backend.label_studio.uncertainty_layer import MOST_ALPHA, MOST_BYTES, layer_region

XML = build_label_config([("Cell", "#ff0000")])
CONFIG = parse_label_config(XML)
RNG = np.random.default_rng(20)
NOISE = RNG.integers(0, 256, (48, 64), dtype=np.uint8)
SPOT = np.zeros((48, 64), np.uint8)
SPOT[30:36, 10:18] = 255


def alpha_of(region: dict[str, object], size: tuple[int, int]) -> np.ndarray:
    return brush.decode(region["value"]["rle"], *size)  # type: ignore[index]


def test_a_spot_is_graded_and_lies_where_it_belongs() -> None:
    size = (768, 1024)
    region = layer_region(SPOT, size, "image", "why")
    alpha = alpha_of(region, size)
    assert len(np.unique(alpha)) == 9  # nothing, and eight steps
    assert alpha.max() == alpha[32 * 16, 14 * 16] == MOST_ALPHA
    rows, columns = np.nonzero(alpha)
    assert (rows.min(), columns.min()) > (29 * 16, 9 * 16)
    assert (rows.max(), columns.max()) < (37 * 16, 19 * 16)
    assert (region["readonly"], region["meta"]) == (True, {"text": ["why"]})


@pytest.mark.parametrize("size", [(768, 1024), (30, 40), (1, 3), (2048, 2731)])
def test_the_noisiest_map_is_coarsened_until_it_is_small(size: tuple[int, int]) -> None:
    region = layer_region(NOISE, size, "image", "")
    assert len(orjson.dumps(region["value"]["rle"])) <= MOST_BYTES
    assert len(np.unique(alpha_of(region, size))) > 1


@pytest.mark.parametrize("alpha", [0, MOST_ALPHA, 255])
def test_a_layer_is_not_read_whatever_somebody_has_made_of_it(alpha: int) -> None:
    xml = add_layer_control(XML, CONFIG)
    region = layer_region(SPOT, (48, 64), CONFIG.image_name, "")
    region["value"]["rle"] = brush.encode_alpha(np.full((48, 64), alpha, np.uint8))
    mask = np.zeros((48, 64), np.uint8)
    mask[:20, :30] = 1
    classes = ("background", "Cell")
    [cell] = to_regions(
        mask, np.ones((1, 1)), CONFIG, classes, per="class", min_particle_px=1
    )  # fmt: skip
    read = read_annotation(
        [region, cell], parse_label_config(xml), classes, (48, 64), unlabelled=0, unknown_label=None
    )
    assert np.array_equal(read.mask, mask)
    assert (read.problems, sum(read.counts.values())) == ([], 1)


def test_read_as_a_label_by_mistake_it_paints_nothing() -> None:
    region = layer_region(SPOT, (48, 64), "image", "")
    assert not (alpha_of(region, (48, 64)) > 127).any()


def test_its_control_comes_and_goes_and_changes_nothing_else() -> None:
    theirs = f'<?xml version="1.0"?>\n<!-- <View> -->\n{XML}'
    ours = add_layer_control(theirs, CONFIG)
    assert add_layer_control(ours, CONFIG) == ours
    assert (has_layer_control(ours), has_layer_control(theirs)) == (True, False)
    assert ours.index(f'name="{LAYER}"') < ours.index('name="tag"')
    assert parse_label_config(ours) == CONFIG
    assert unread_controls(ours, CONFIG) == []
    both = add_smart_controls(ours, CONFIG)
    assert without_controls(both) == theirs
    assert without_controls(both, SMART) == ours


def test_a_control_of_the_users_with_its_name_is_theirs() -> None:
    theirs = build_label_config([("Cell", "#ff0000")], control=LAYER)
    config = parse_label_config(theirs)
    assert config.labels == ("Cell",)
    assert without_controls(theirs) == theirs
    mask = np.ones((4, 6), np.uint8)
    classes = ("background", "Cell")
    drawn = to_regions(mask, np.ones((1, 1)), config, classes, per="class", min_particle_px=1)
    read = read_annotation(drawn, config, classes, (4, 6), unlabelled=0, unknown_label=None)
    assert np.array_equal(read.mask, mask)
    with pytest.raises(BadLabelConfig, match="rename yours"):
        add_layer_control(theirs, config)
    assert UNSURE not in theirs
