"""Masks to regions and back, and every way in which a region can be wrong."""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio_sdk.converter.brush import decode_rle, mask2rle
from label_studio_sdk.label_interface import LabelInterface
from scipy import ndimage

from backend.label_studio import bitmask, brush
from backend.label_studio.label_config import LabelConfig, parse_label_config
from backend.label_studio.regions import Per, merge_masks, read_annotation, to_regions

CLASSES = ("background", "Cell", "Crystal", "Cast")
SIZE = (40, 60)
Mask = npt.NDArray[np.uint8]
Region = dict[str, Any]


def label_config(*kinds: str, labels: tuple[str, ...] = CLASSES[1:]) -> str:
    inner = "".join(f'<Label value="{label}"/>' for label in labels)
    tags = "".join(f'<{kind} name="{kind}" toName="image">{inner}</{kind}>' for kind in kinds)
    return f'<View><Image name="image" value="$image"/>{tags}</View>'


def config_of(*kinds: str, labels: tuple[str, ...] = CLASSES[1:]) -> LabelConfig:
    return parse_label_config(label_config(*kinds, labels=labels))


BRUSH = config_of(
    "BrushLabels", "PolygonLabels", "RectangleLabels", "EllipseLabels", "BitmaskLabels"
)


def discs(*placed: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> Mask:
    """A mask of discs, each (row, column, radius, class)."""
    y, x = np.mgrid[: size[0], : size[1]]
    mask = np.zeros(size, dtype=np.uint8)
    for row, column, radius, index in placed:
        mask[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = index
    return mask


def regions_of(
    mask: Mask,
    config: LabelConfig = BRUSH,
    *,
    confidence: npt.NDArray[np.float32] | None = None,
    per: Per = "class",
    min_particle_px: int = 1,
    split: Mapping[int, float] = MappingProxyType({}),
) -> list[Region]:
    confidence = np.ones(mask.shape, dtype=np.float32) if confidence is None else confidence
    return to_regions(
        mask, confidence, config, CLASSES, per=per, min_particle_px=min_particle_px, split=split
    )


def read(
    *regions: Region,
    size: tuple[int, int] = SIZE,
    unlabelled: int = 0,
    unknown_label: str | None = None,
    classes: tuple[str, ...] = CLASSES,
) -> tuple[Mask, list[str]]:
    found = read_annotation(
        list(regions), BRUSH, classes, size, unlabelled=unlabelled, unknown_label=unknown_label
    )
    return found.mask, found.problems


def region(kind: str, label: str | None = "Cell", **value: Any) -> Region:
    if label is not None:
        value = {**value, kind: [label]}
    return {
        "id": "r1",
        "from_name": "any",
        "to_name": "image",
        "type": kind,
        "original_width": SIZE[1],
        "original_height": SIZE[0],
        "image_rotation": 0,
        "value": value,
    }


def stroke(mask: npt.NDArray[np.bool_], label: str | None = "Cell") -> Region:
    return region("brushlabels", label, format="rle", rle=brush.encode(mask))


def box(x: float, y: float, width: float, height: float, label: str = "Cell") -> Region:
    return region("rectanglelabels", label, x=x, y=y, width=width, height=height, rotation=0)


# ---- there and back ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BrushLabels", "BitmaskLabels"])
@pytest.mark.parametrize("per", ["class", "particle"])
@given(
    mask=st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
        lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 3))
    )
)
@settings(deadline=None, derandomize=True, max_examples=40)
def test_a_mask_comes_back_exactly_from_brush_and_bitmask(kind: str, per: Per, mask: Mask) -> None:
    config = config_of(kind)
    back, problems = read(*regions_of(mask, config, per=per), size=mask.shape)
    assert problems == []
    np.testing.assert_array_equal(back, mask)


@pytest.mark.parametrize("kind", ["Brush", "Bitmask", "Polygon"])
def test_shapes_with_labels_are_written_as_two_results_of_one_id(kind: str) -> None:
    xml = label_config("Labels").replace("</View>", f'<{kind} name="s" toName="image"/></View>')
    config = parse_label_config(xml)
    mask = discs((10, 10, 6, 1), (25, 40, 8, 2))
    results = regions_of(mask, config)
    assert [(part["from_name"], part["type"]) for part in results] == [
        ("s", kind.lower()),
        ("Labels", "labels"),
    ] * 2
    assert len({part["id"] for part in results}) == 2
    assert LabelInterface(xml).validate_prediction({"result": results}, return_errors=True) == []
    found = read_annotation(results, config, CLASSES, SIZE, unlabelled=0, unknown_label=None)
    assert found.problems == []
    assert np.count_nonzero(found.mask != mask) <= (12 if kind == "Polygon" else 0)


def particles(seed: int, side: int) -> Mask:
    """Rough-edged particles of three classes, none of them under 12 px."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((side, side)), side / 40)
    numbers, count = ndimage.label(noise > 1.2 * noise.std(), structure=np.ones((3, 3)))
    areas = np.bincount(numbers.ravel())
    classes = rng.integers(1, 4, count + 1).astype(np.uint8)
    classes[areas < 12] = 0
    classes[0] = 0
    mask: Mask = classes[numbers]
    return mask


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("side", [64, 200, 512])
def test_polygons_of_ordinary_particles_come_back_above_nine_tenths(seed: int, side: int) -> None:
    mask = particles(seed, side)
    back, problems = read(*regions_of(mask, config_of("PolygonLabels")), size=mask.shape)
    assert problems == []
    for index in set(np.unique(mask).tolist()) - {0}:
        both = np.count_nonzero((back == index) & (mask == index))
        either = np.count_nonzero((back == index) | (mask == index))
        assert both / either > 0.9


def test_a_particle_in_the_hole_of_another_is_drawn_over_it() -> None:
    mask = discs((20, 30, 18, 2), (20, 30, 9, 0), (20, 30, 5, 1))
    back, _ = read(*regions_of(mask, config_of("PolygonLabels")))
    assert back[20, 30] == 1
    assert back[20, 37] == 2, "the hole itself is filled, as regions.py says"


@pytest.mark.parametrize("kind", ["BrushLabels", "BitmaskLabels", "PolygonLabels"])
def test_a_mask_of_4096_pixels_a_side_goes_both_ways(kind: str) -> None:
    mask = np.kron(discs((9, 9, 7, 1), (30, 40, 9, 2), size=(64, 64)), np.ones((64, 64), np.uint8))
    confidence = np.ones((512, 512), dtype=np.float32)
    back, problems = read(
        *regions_of(mask, config_of(kind), confidence=confidence), size=(4096,) * 2
    )
    assert problems == []
    assert np.count_nonzero(back != mask) < 0.001 * mask.size


# ---- out ---------------------------------------------------------------------------------------


def test_a_brush_region_is_as_label_studio_stores_it() -> None:
    mask = discs((10, 20, 5, 1))
    (only,) = regions_of(mask)
    assert set(only) == {
        "id", "from_name", "to_name", "type", "original_width", "original_height",
        "image_rotation", "score", "value",
    }  # fmt: skip
    assert (only["from_name"], only["to_name"], only["type"]) == (
        "BrushLabels",
        "image",
        "brushlabels",
    )
    assert (only["original_height"], only["original_width"]) == SIZE
    assert only["value"]["brushlabels"] == ["Cell"]
    alpha = decode_rle(only["value"]["rle"]).reshape(*SIZE, 4)[..., 3]
    np.testing.assert_array_equal(alpha, (mask == 1) * 255)


@pytest.mark.parametrize("kind", ["BrushLabels", "BitmaskLabels", "PolygonLabels"])
def test_the_sdk_accepts_what_is_written(kind: str) -> None:
    mask = discs((10, 20, 5, 1), (30, 50, 8, 2), (38, 3, 9, 3))
    interface = LabelInterface(label_config(kind))
    for one in regions_of(mask, config_of(kind), per="particle"):
        assert interface.validate_region(one)


def test_a_particle_is_encoded_in_the_whole_image() -> None:
    mask = discs((0, 0, 5, 1), (39, 59, 8, 1), (20, 30, 6, 1), (3, 58, 3, 1))
    drawn = regions_of(mask, per="particle")
    assert len(drawn) == 4
    numbers, _ = ndimage.label(mask)
    expected = [brush.encode(numbers == n) for n in range(1, 5)]
    rles = [one["value"]["rle"] for one in drawn]
    assert sorted(rles) == sorted(expected)
    assert decode_rle(rles[0]).size == mask.size * 4


def test_ids_are_distinct_and_the_same_every_time() -> None:
    mask = discs((10, 10, 4, 1), (10, 30, 4, 1), (30, 30, 4, 2))
    ids = [one["id"] for one in regions_of(mask, per="particle")]
    assert len(set(ids)) == 3
    assert ids == [one["id"] for one in regions_of(mask.copy(), per="particle")]


def test_each_region_has_the_mean_confidence_of_its_own_pixels() -> None:
    mask = discs((10, 10, 4, 1), (10, 40, 4, 1))
    confidence = np.full(SIZE, 0.5, dtype=np.float32)
    confidence[:, 30:] = 0.9
    left, right = regions_of(mask, confidence=confidence, per="particle")
    assert (left["score"], right["score"]) == (0.5, 0.9)
    (both,) = regions_of(mask, confidence=confidence)
    assert both["score"] == pytest.approx(0.7)


def test_a_coarser_grid_of_confidence_is_read_where_each_pixel_lies() -> None:
    mask = np.ones(SIZE, dtype=np.uint8)
    grid = np.array([[0.2, 0.4, 0.9], [0.6, 0.8, 0.1]], dtype=np.float32)
    (one,) = regions_of(mask, confidence=grid)
    assert one["score"] == pytest.approx(grid.mean())
    mask[:20] = 0
    (one,) = regions_of(mask, confidence=grid)
    assert one["score"] == pytest.approx(0.5)


@pytest.mark.parametrize("per", ["class", "particle"])
def test_small_particles_are_left_out(per: Per) -> None:
    mask = discs((10, 10, 5, 1))
    mask[30, 30:41] = 1
    for least, count in ((11, 1), (12, 0)):
        back, _ = read(*regions_of(mask, per=per, min_particle_px=least))
        assert np.count_nonzero(back[30] == 1) == 11 * count
        assert back[10, 10] == 1
    assert regions_of(mask, per=per, min_particle_px=10_000) == []


@pytest.mark.parametrize("kind", ["BrushLabels", "BitmaskLabels", "PolygonLabels"])
def test_touching_particles_of_a_class_that_is_split_are_regions_of_their_own(kind: str) -> None:
    mask = discs((12, 12, 9, 1), (12, 28, 9, 1), (28, 12, 8, 2), (28, 26, 8, 2))
    drawn = regions_of(mask, config_of(kind), per="particle", split={1: 18.0})
    assert len({one["id"] for one in drawn}) == 3
    back, _ = read(*drawn)
    # An outline that crosses a corner is drawn a pixel off.
    assert np.count_nonzero(back != mask) <= (10 if kind == "PolygonLabels" else 0)
    assert len(regions_of(mask, per="class", split={1: 18.0})) == 2


def test_pixels_that_touch_by_a_corner_are_one_particle() -> None:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[[3, 4, 5], [3, 4, 5]] = 1
    assert len(regions_of(mask, per="particle")) == 1


def test_a_class_whose_label_is_gone_is_withheld() -> None:
    mask = discs((10, 10, 5, 1), (30, 30, 5, 2))
    drawn = regions_of(mask, config_of("BrushLabels", labels=("Crystal", "New")))
    assert [one["value"]["brushlabels"] for one in drawn] == [["Crystal"]]


def test_an_empty_mask_and_unknown_pixels_draw_nothing() -> None:
    assert regions_of(np.zeros(SIZE, dtype=np.uint8)) == []
    assert regions_of(np.full(SIZE, 255, dtype=np.uint8)) == []


@pytest.mark.parametrize(
    ("mask", "confidence"),
    [
        (np.zeros(SIZE, dtype=np.int64), np.ones(SIZE)),
        (np.zeros((0, 4), dtype=np.uint8), np.ones(SIZE)),
        (np.zeros(SIZE, dtype=np.uint8), np.ones(4)),
        (np.full(SIZE, 4, dtype=np.uint8), np.ones(SIZE)),
    ],
)
def test_arrays_of_another_kind_are_refused(mask: Any, confidence: npt.NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"must be|classes"):
        to_regions(mask, confidence, BRUSH, CLASSES, per="class", min_particle_px=1)


# ---- in ----------------------------------------------------------------------------------------


def test_every_kind_of_region_is_read() -> None:
    square = np.zeros(SIZE, dtype=bool)
    square[8:16, 12:24] = True  # 20..40 % of both sides
    corners = [[20, 20], [40, 20], [40, 40], [20, 40]]
    for one in (
        stroke(square),
        region("bitmasklabels", imageDataURL=bitmask.encode(square)),
        region("polygonlabels", points=corners, closed=True),
        box(20, 20, 20, 20),
    ):
        mask, problems = read(one)
        assert problems == []
        np.testing.assert_array_equal(mask, square.astype(np.uint8))
    mask, problems = read(region("ellipselabels", x=50, y=50, radiusX=20, radiusY=30, rotation=0))
    assert problems == []
    assert np.count_nonzero(mask) == pytest.approx(math.pi * 12 * 12, rel=0.03)


def test_the_later_region_wins_an_overlap() -> None:
    cell, crystal = box(0, 0, 60, 100, "Cell"), box(40, 0, 60, 100, "Crystal")
    for regions, middle in (((cell, crystal), 2), ((crystal, cell), 1)):
        mask, _ = read(*regions)
        assert mask[0].tolist() == [1] * 24 + [middle] * 12 + [2] * 24


def test_a_stroke_is_set_where_its_alpha_is_above_127() -> None:
    alpha = np.zeros(SIZE, dtype=np.uint8)
    alpha[5, :4] = [126, 127, 128, 129]
    mask, _ = read(region("brushlabels", format="rle", rle=mask2rle(alpha)))
    assert mask[5, :4].tolist() == [0, 0, 1, 1]


def test_unlabelled_pixels_are_background_or_unknown() -> None:
    for unlabelled in (0, 255):
        mask, _ = read(box(0, 0, 50, 100), unlabelled=unlabelled)
        assert mask[0].tolist() == [1] * 30 + [unlabelled] * 30
        mask, _ = read(unlabelled=unlabelled)
        assert (mask == unlabelled).all()


def test_the_unknown_label_and_a_removed_one_paint_unknown_and_background_paints_zero() -> None:
    for label, value in (("Dirt", 255), ("Removed", 255), ("Background", 0), ("Cast", 3)):
        mask, problems = read(box(0, 0, 100, 100, label), unlabelled=255, unknown_label="Dirt")
        assert problems == []
        assert (mask == value).all()


@pytest.mark.parametrize("labels", [[], ["Cell", "Cast"]])
def test_a_region_of_no_label_or_several_is_unknown_and_reported(labels: list[str]) -> None:
    one = box(0, 0, 100, 100)
    one["value"]["rectanglelabels"] = labels
    mask, (problem,) = read(one)
    assert (mask == 255).all()
    assert "Region r1 (rectanglelabels) is taken as unknown: it must have one label" in problem


def test_results_without_an_area_and_of_other_images_are_passed_over() -> None:
    others: list[Any] = [
        region("textarea", text=["a"]),
        region("choices", choices=["Good"]),
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
        {**box(0, 0, 100, 100), "to_name": "second"},
        None,
        "region",
        {},
        {"type": ["brushlabels"], "to_name": "image"},
    ]
    config = parse_label_config(
        label_config("BrushLabels").replace("</View>", '<Image name="second" value="$b"/></View>'),
        image="image",
    )
    found = read_annotation(others, config, CLASSES, SIZE, unlabelled=0, unknown_label=None)
    assert found.problems == []
    assert not found.mask.any()


def test_a_region_partly_outside_is_cut_off() -> None:
    mask, problems = read(box(-50, -50, 100, 100), box(75, 50, 500, 500, "Crystal"))
    assert problems == []
    assert mask[0].tolist() == [1] * 30 + [0] * 30
    assert mask[39].tolist() == [0] * 45 + [2] * 15


def test_a_rectangle_drawn_on_a_turned_view_is_read_in_the_images_own_frame() -> None:
    turned = {**box(50, 25, 20, 10), "image_rotation": 90}
    turned["value"]["rotation"] = 90
    mask, problems = read(turned)
    assert problems == []
    expected = np.zeros(SIZE, dtype=np.uint8)
    expected[10:22, 26:30] = 1  # 12 x 4 px about (30, 10), turned clockwise
    np.testing.assert_array_equal(mask, expected)


def test_a_region_drawn_on_a_shrunk_copy_is_enlarged() -> None:
    small = np.zeros((20, 30), dtype=bool)
    small[4:8, 6:12] = True
    one = {**stroke(small), "original_width": 30, "original_height": 20}
    mask, problems = read(one)
    assert problems == []
    np.testing.assert_array_equal(mask, np.kron(small, np.ones((2, 2))))


def test_a_size_that_rounding_explains_is_accepted_and_others_are_refused() -> None:
    for width, fits in ((29, True), (30, True), (31, False), (36, False)):
        small = np.ones((20, width), dtype=bool)
        one = {**stroke(small), "original_width": width, "original_height": 20}
        mask, problems = read(one, size=(40, 59))
        assert (mask == (1 if fits else 255)).any()
        assert fits or "whose proportions are not the image's 59 x 40" in problems[0]


def test_a_region_without_sizes_takes_the_images() -> None:
    square = np.zeros(SIZE, dtype=bool)
    square[3:9, 4:8] = True
    for one in (stroke(square), region("bitmasklabels", imageDataURL=bitmask.encode(square))):
        del one["original_width"], one["original_height"]
        mask, problems = read(one)
        assert problems == []
        np.testing.assert_array_equal(mask, square.astype(np.uint8))
        _, (problem,) = read(one, size=(41, 60))
        assert "Region r1" in problem


TRIANGLE = [[10, 10], [50, 10], [50, 50]]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({**box(1, 1, 1, 1), "value": None}, "value must be an object, got NoneType"),
        ({**box(1, 1, 1, 1), "value": [1]}, "value must be an object, got list"),
        ({**box(1, 1, 1, 1), "original_width": "60"}, "original_width must be a positive"),
        ({**box(1, 1, 1, 1), "original_width": 0}, "original_width must be a positive"),
        ({**box(1, 1, 1, 1), "original_height": True}, "original_height must be a positive"),
        ({**box(1, 1, 1, 1), "original_height": math.nan}, "original_height must be a positive"),
        ({**box(1, 1, 1, 1), "original_height": 10**30}, "original_height must be a positive"),
        (box(math.nan, 1, 1, 1), "x must be from"),
        (box(math.inf, 1, 1, 1), "x must be from"),
        (box(1, 1e300, 1, 1), "y must be from"),
        (box(1, 1, -5, 1), "width must be from 0"),
        (box(1, 1, True, 1), "width must be a number, got True"),
        (region("rectanglelabels", x=1, y=1, width=3), "height must be a number, got None"),
        (
            region("rectanglelabels", x=1, y=1, width=3, height=3, rotation="90"),
            "rotation must be a number, got '90'",
        ),
        (region("ellipselabels", x=1, y=1, radiusX=-1, radiusY=3), "radiusX must be from 0"),
        (region("polygonlabels", points=TRIANGLE[:2]), "list of at least 3"),
        (region("polygonlabels", points="abc"), "list of at least 3"),
        (region("polygonlabels"), "list of at least 3, got None"),
        (region("polygonlabels", points=[*TRIANGLE, [1]]), r"must be \[x, y\], got \[1\]"),
        (region("polygonlabels", points=[*TRIANGLE, None]), r"must be \[x, y\], got None"),
        (region("polygonlabels", points=[*TRIANGLE, [1, "2"]]), "y must be a number"),
        (region("polygonlabels", points=[*TRIANGLE, [1, math.nan]]), "y must be from"),
        (region("polygonlabels", points=TRIANGLE, closed=False), "must be closed"),
        (region("brushlabels", format="png", rle=[1]), "format must be 'rle', got 'png'"),
        (region("brushlabels", format="rle"), "rle must be a list of integers, got NoneType"),
        (region("brushlabels", format="rle", rle=[1, 2, 3]), "header"),
        (region("bitmasklabels"), "imageDataURL must start with"),
        (region("rectanglelabels", None, x=1, y=1, width=1, height=1, rectanglelabels="Cell"),
         "labels must be a list of names, got 'Cell'"),
        (region("rectanglelabels", None, x=1, y=1, width=1, height=1, rectanglelabels=[1]),
         "labels must be a list of names"),
    ],
)  # fmt: skip
def test_a_broken_region_is_named_and_left_out_and_the_others_count(
    broken: Region, says: str
) -> None:
    mask, problems = read(box(0, 0, 50, 100), broken, box(50, 0, 50, 100, "Crystal"))
    assert mask[0].tolist() == [1] * 30 + [2] * 30
    (problem,) = problems
    assert problem.startswith(f"Region r1 ({broken['type']}) was left out: ")
    assert re.search(says, problem)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
KEYS = ["x", "y", "width", "height", "radiusX", "radiusY", "rotation", "points", "closed", "rle"]
KEYS += ["format", "imageDataURL"]


@given(
    kind=st.sampled_from(
        ["brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels", "bitmasklabels"]
    ),
    value=st.dictionaries(st.sampled_from(KEYS), JSON) | JSON,
    width=JSON,
    labels=JSON,
)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_whatever_stands_in_a_region_the_annotation_is_read(
    kind: str, value: Any, width: Any, labels: Any
) -> None:
    if isinstance(value, dict):
        value = {**value, kind: labels}
    one = {**region(kind), "value": value, "original_width": width}
    mask, problems = read(one, box(0, 0, 100, 100, "Cast"))
    assert (mask == 3).all()
    assert len(problems) <= 1


# ---- several annotators ------------------------------------------------------------------------


def test_the_majority_decides_a_tie_is_unknown_and_255_is_no_vote() -> None:
    votes = np.array(
        [
            [1, 1, 2],
            [1, 2, 255],
            [1, 255, 255],
            [255, 255, 255],
            [0, 0, 1],
            [0, 1, 2],
            [2, 1, 2],
            [0, 255, 0],
        ],
        dtype=np.uint8,
    )
    merged = merge_masks([votes[:, n].reshape(2, 4).copy() for n in range(3)])
    assert merged.ravel().tolist() == [1, 255, 1, 255, 0, 255, 2, 0]


@given(arrays(np.uint8, (5, 3, 4), elements=st.sampled_from([0, 1, 2, 3, 255])), st.integers(1, 5))
@settings(derandomize=True)
def test_merging_is_counting_pixel_by_pixel_in_any_order(stack: Mask, count: int) -> None:
    masks = list(stack[:count])
    merged = merge_masks(masks)
    np.testing.assert_array_equal(merged, merge_masks(masks[::-1]))
    for row in range(3):
        for column in range(4):
            votes = [int(mask[row, column]) for mask in masks]
            counts = {value: votes.count(value) for value in set(votes) - {255}}
            best = [v for v, n in counts.items() if n == max(counts.values())]
            assert merged[row, column] == (best[0] if len(best) == 1 else 255)


def test_background_does_not_stand_where_an_annotator_drew_what_is_not_understood() -> None:
    drawn = np.array([[255, 255, 255, 0]], np.uint8)
    unread = np.array([[True, True, False, False]])
    others = [np.array([[0, 1, 0, 0]], np.uint8)] * 2
    assert merge_masks([drawn, *others], [unread]).tolist() == [[255, 1, 0, 0]]


def test_one_annotators_mask_is_copied() -> None:
    mask = discs((10, 10, 4, 1))
    merged = merge_masks([mask])
    merged[:] = 9
    assert mask.max() == 1


def test_masks_of_several_sizes_or_none_are_refused() -> None:
    with pytest.raises(ValueError, match="one size, got sizes"):
        merge_masks([np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8)])
    with pytest.raises(ValueError, match="one or more"):
        merge_masks([])
