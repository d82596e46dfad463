"""Whatever stands in an annotation, each broken region costs itself and gives a short sentence."""

from __future__ import annotations

import base64
import copy
import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import BadLabelConfig, BadRegion
from backend.label_studio import bitmask, brush, regions
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.regions import LISTED, MOST_PARTS, MOST_RESULTS, read_annotation
from backend.label_studio.shapes import MAX_POINTS
from tests.backend.label_studio.test_regions import (
    BRUSH,
    CLASSES,
    SIZE,
    Mask,
    Region,
    box,
    read,
    region,
    stroke,
)
from tests.backend.odd_images import chunk, png

LONGEST = 300
"""Characters of a sentence."""

SQUARE = np.zeros(SIZE, dtype=bool)
SQUARE[8:16, 12:24] = True
TRIANGLE = [[10, 10], [50, 10], [50, 50]]
DEEP: Any = "x"
for _ in range(900):
    DEEP = [DEEP]


def data_url(data: bytes) -> str:
    return bitmask.PREFIX + base64.b64encode(data).decode()


def polygon(points: Any) -> Region:
    return region("polygonlabels", points=points, closed=True)


def bits(data: bytes, width: int = SIZE[1], height: int = SIZE[0]) -> Region:
    one = region("bitmasklabels", imageDataURL=data_url(data))
    return {**one, "original_width": width, "original_height": height}


def claims(rle: list[int], width: int, height: int) -> Region:
    one = region("brushlabels", format="rle", rle=rle)
    return {**one, "original_width": width, "original_height": height}


def check_said(problems: list[str]) -> None:
    for problem in problems:
        assert len(problem) < LONGEST
        assert problem.isprintable()
        problem.encode()
        assert problem.endswith(".")


WHOLE = brush.encode(SQUARE)
BILLION = [*(4 * 2**28).to_bytes(4, "big"), *WHOLE[4:]]

BROKEN: dict[str, tuple[Region, str]] = {
    "a box at no number": (box(math.nan, 1, 1, 1), "x must be from"),
    "a box that never ends": (box(1, 1, math.inf, 1), "width must be from 0"),
    "a box turned by no number": (
        region("rectanglelabels", x=1, y=1, width=9, height=9, rotation=math.nan),
        "rotation must be from",
    ),
    "a stroke cut short": (claims(WHOLE[:-9], 60, 40), "its records hold"),
    "a stroke of another image": (claims(WHOLE, 90, 60), "must hold 21600 words"),
    "a stroke of other proportions": (claims(WHOLE, 40, 60), "whose proportions are not"),
    "a stroke of a billion pixels": (claims(BILLION, 60, 40), "its rle says 1073741824"),
    "a stroke of an image of a billion": (claims(BILLION, 38_400, 25_600), "must hold 1 to"),
    "a stroke of an image of a trillion": (
        claims(BILLION, 1_500_000, 1_000_000),
        "must hold 1 to",
    ),
    "a stroke of huge numbers": (claims([10**400], 60, 40), "from 0 to 255"),
    "a stroke of lists": (claims(DEEP, 60, 40), "integers from 0 to 255"),
    "a size in words": ({**box(1, 1, 1, 1), "original_width": "a\nb" * 99}, "original_width must"),
    "a size too long to write": ({**box(1, 1, 1, 1), "original_width": 10**5000}, "16610 bits"),
    "a coordinate too long to write": (box(10**5000, 1, 1, 1), "16610 bits"),
    "a nested value": ({**box(1, 1, 1, 1), "value": DEEP}, "value must be an object"),
    "nested points": (polygon([DEEP, DEEP, DEEP]), "must be [x, y], got [[["),
    "nested coordinates": (polygon([[DEEP, 1], [2, 2], [3, 3]]), "x must be a number"),
    "nested labels": (
        {**box(1, 1, 1, 1), "value": {**box(1, 1, 1, 1)["value"], "rectanglelabels": [DEEP]}},
        "labels must be a list",
    ),
    "too many corners": (polygon([[1, 1]] * (MAX_POINTS + 1)), "must be at most 1048576"),
    "corners that cross every row": (
        polygon([[50, 0 if n % 2 else 100] for n in range(300_000)]),
        "may cross",
    ),
    "a format of two lines": (
        region("brushlabels", format="a\nb\ud800", rle=WHOLE),
        r"format must be 'rle', got 'a\nb\ud800'",
    ),
    "a bitmask that is a JPEG": (bits(b"\xff\xd8\xff\xe0" + bytes(99)), "must hold a PNG"),
    "a bitmask of another size": (bits(png(9, 9)), "must be 60 x 40 pixels as its region says"),
    "a bitmask that is cut": (
        bits(png(60, 40, chunk(b"tRNS", b"\0\0"))),
        "cannot be read",
    ),
    "a bitmask bomb": (
        bits(png(60_000, 40_000, chunk(b"IDAT", zlib.compress(bytes(10**6)))), 60_000, 40_000),
        "at most 33554432 pixels",
    ),
    "a bitmask a little too large": (
        bits(png(9_000, 6_000, chunk(b"IDAT", b""), bits=1), 9_000, 6_000),
        "at most 33554432 pixels",
    ),
    "a bitmask of two sizes": (
        bits(
            png(
                60,
                40,
                chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 2_000, 8, 0, 0, 0, 0)),
                chunk(b"IDAT", zlib.compress(bytes(10**6))),
            )
        ),
        "two headers",
    ),
    "a bitmask from elsewhere": (
        region("bitmasklabels", imageDataURL="http://\n\x1b[31m.test/" + "a" * 9999),
        "must start with",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_region_costs_itself_and_gives_a_short_sentence(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    broken, says = BROKEN[kind]
    mask, problems = read(box(0, 0, 50, 100), broken, box(50, 0, 50, 100, "Crystal"))
    assert mask[0].tolist() == [1] * 30 + [2] * 30
    (problem,) = problems
    assert problem.startswith(f"Region r1 ({broken['type']}) was left out: ")
    assert says in problem
    check_said(problems)
    assert capfd.readouterr() == ("", "")


def test_what_only_looks_odd_is_drawn() -> None:
    left = np.zeros(SIZE, np.uint8)
    left[:, :30] = 1
    bow_tie = polygon([[0, 0], [50, 100], [50, 0], [0, 100]])
    mask, problems = read(bow_tie)
    assert problems == []
    assert 0 < np.count_nonzero(mask) < np.count_nonzero(left)
    for one in (
        box(-100, -100, 150, 300),
        polygon([[-900, -900], [50, -900], [50, 900], [-900, 900]]),
        {**box(0, 0, 50, 100), "from_name": "gone"},
        {**box(0, 0, 50, 100), "image_rotation": 90},
        {**box(0, 0, 50, 100), "image_rotation": "sideways"},
        {key: value for key, value in box(0, 0, 50, 100).items() if "original" not in key},
    ):
        mask, problems = read(one)
        assert problems == []
        np.testing.assert_array_equal(mask, left)


@pytest.mark.parametrize(
    "one",
    [
        box(10, 10, 0, 50),
        polygon([[10, 10]] * 3),
        polygon([[10, 10], [50, 50], [10, 10]]),
        region("ellipselabels", x=50, y=50, radiusX=0, radiusY=20),
        stroke(np.zeros(SIZE, dtype=bool)),
    ],
)
def test_a_region_without_an_area_paints_nothing(one: Region) -> None:
    mask, problems = read(one)
    assert problems == []
    assert not mask.any()


@pytest.mark.parametrize(
    "other",
    [
        DEEP,
        {"type": 10**5000},
        {"type": "textarea", "to_name": "image", "value": {"text": ["a"]}},
    ],
)
def test_what_is_no_region_of_this_image_is_passed_over(other: Any) -> None:
    mask, problems = read(other, box(0, 0, 50, 100))
    assert problems == []
    assert np.count_nonzero(mask) == 30 * 40


@pytest.mark.parametrize(
    "other",
    [
        {**box(0, 0, 100, 100), "to_name": "elsewhere"},
        {**box(0, 0, 100, 100), "to_name": ["image"]},
        {**box(0, 0, 100, 100), "item_index": 3},
        {**box(0, 0, 100, 100), "item_index": "first"},
        {**box(0, 0, 100, 100), "type": "videorectangle"},
        {**box(0, 0, 100, 100), "type": {"a": 1}},
    ],
)
def test_a_region_that_is_not_understood_is_unknown_and_never_background(other: Any) -> None:
    mask, _ = read({**other, "id": "other"}, box(0, 0, 50, 100))
    assert mask[0].tolist() == [1] * 30 + [255] * 30


@pytest.mark.parametrize(
    "far",
    [
        box(2561, 6128, 517, 893),
        region("ellipselabels", x=-900, y=50, radiusX=20, radiusY=20),
        polygon([[1000, 2000], [3000, 2000], [3000, 4000]]),
    ],
)
def test_a_region_outside_the_image_is_damaged_and_leaves_no_background(far: Region) -> None:
    # Percentages come multiplied by 100 from an editor that had not loaded the image
    # (https://github.com/HumanSignal/label-studio/issues/2702).
    mask, problems = read({**far, "id": "far"}, box(0, 0, 50, 100))
    assert mask[0].tolist() == [1] * 30 + [255] * 30
    (problem,) = problems
    assert "lies outside the image" in problem


def test_a_polygon_of_a_million_corners_is_drawn() -> None:
    angles = np.linspace(0, 2 * np.pi, MAX_POINTS - 1)
    ring = np.stack([50 + 30 * np.cos(angles), 50 + 30 * np.sin(angles)], axis=1)
    mask, problems = read(polygon(ring.tolist()))
    assert problems == []
    assert np.count_nonzero(mask) == pytest.approx(math.pi * 18 * 12, rel=0.03)


@pytest.mark.parametrize(
    "result", [None, "[]", "a\nb" * 9999, 7, {"deep": DEEP}, b"", {"n": 10**5000}]
)
def test_nothing_is_known_of_an_image_whose_result_is_no_list(result: Any) -> None:
    found = read_annotation(result, BRUSH, CLASSES, SIZE, unlabelled=0, unknown_label=None)
    assert (found.mask == 255).all()
    (problem,) = found.problems
    assert problem.startswith("Its result must be a list of regions, got ")
    check_said(found.problems)


def test_many_broken_regions_are_counted_and_not_all_listed() -> None:
    broken = [{**box(1, 1, -1, 1), "id": number} for number in range(5000)]
    mask, problems = read(*broken, box(0, 0, 100, 100))
    assert (mask == 1).all()
    assert len(problems) == LISTED + 1
    assert (
        problems[-1] == f"And {5000 - LISTED} more regions were left out or are taken as unknown."
    )


# What would take without end


def test_an_annotation_of_too_many_regions_is_left_out_as_a_whole() -> None:
    for count, known in ((MOST_RESULTS, True), (MOST_RESULTS + 1, False)):
        found = read_annotation(
            [{"type": "choices"}] * (count - 1) + [box(0, 0, 50, 100)],
            *(BRUSH, CLASSES, SIZE),
            unlabelled=0,
            unknown_label=None,
        )
        assert (found.mask[0].tolist() == [1] * 30 + [0] * 30) == known
        assert (found.mask == 255).all() != known
        check_said(found.problems)
        assert known or "and at most 65536 are read" in found.problems[0]


@pytest.mark.parametrize(
    ("one", "pixels"),
    [
        (stroke(SQUARE), 2 * 2400),
        (claims(WHOLE[:-9], 60, 40), 2400),  # broken, which shows when it was decoded
        (bits(png(60, 40, chunk(b"IDAT", zlib.compress(bytes(2440)))), 60, 40), 2400),
        (box(0, 0, 100, 100), 2400 + 32 * 2 * 40),
        (polygon([[50, 0 if n % 2 else 100] for n in range(100)]), 32 * 40 * 100),
        (polygon([[150, 0 if n % 2 else 100] for n in range(100)]), 32 * 40 * 100),
    ],
    ids=["stroke", "broken stroke", "broken bitmask", "box", "crossings", "outside"],
)
def test_an_annotation_of_too_many_pixels_is_left_out_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, one: Region, pixels: int
) -> None:
    monkeypatch.setattr(regions, "MOST_EFFORT", 10 * pixels + pixels // 2)
    _, problems = read(*[one] * 10)
    assert not any("pixels together" in problem for problem in problems)
    mask, problems = read(*[one] * 12)
    assert (mask == 255).all()
    assert problems == [
        f"Its 12 regions hold more than {regions.MOST_EFFORT} pixels together: draw what has one "
        "label as one region."
    ]


def test_results_without_number_of_one_region_take_no_quadratic_time() -> None:
    many = [{"id": "one", "type": "foolabels", "value": {}} for _ in range(MOST_RESULTS)]
    found = read_annotation(many, BRUSH, CLASSES, SIZE, unlabelled=0, unknown_label=None)
    assert sum(found.counts.values()) == MOST_RESULTS // MOST_PARTS


def test_an_outline_of_too_many_vertices_is_left_out() -> None:
    vertices = [{"id": "a", "x": 1, "y": 1, "isBezier": True, "controlPoint1": {"x": 1, "y": 1}}]
    _, problems = read(region("vectorlabels", vertices=vertices * (2**16 + 1), closed=True))
    (problem,) = problems
    assert "Its vertices must be at most 65536, got 65537" in problem


def test_a_stroke_of_too_many_bytes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brush, "MAX_RLE_BYTES", len(WHOLE) - 1)
    _, problems = read(stroke(SQUARE))
    (problem,) = problems
    assert f"rle may have at most {len(WHOLE) - 1} bytes, got {len(WHOLE)}" in problem


def test_bytes_behind_all_pixels_are_not_walked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[int] = []
    walk = brush._walk
    monkeypatch.setattr(
        brush, "_walk", lambda data, bits: walked.append(len(data)) or walk(data, bits)
    )
    alpha = brush.decode([*WHOLE, *bytes(10**6)], *SIZE)
    np.testing.assert_array_equal(alpha > 127, SQUARE)
    assert walked == [7 + 14 * 2400]


def test_profiles_of_a_bitmask_are_not_decompressed() -> None:
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**20)))
    data = base64.b64decode(bitmask.encode(SQUARE).removeprefix(bitmask.PREFIX))
    with_profiles = data[:33] + profile * 20_000 + data[33:]
    alpha = bitmask.decode(data_url(with_profiles), *SIZE)
    np.testing.assert_array_equal(alpha > 127, SQUARE)


def test_a_region_is_named_on_one_line_whatever_its_id() -> None:
    for name in ("two\nlines\x1b[31m", "\ud800", DEEP, 10**5000, "a" * 9999, None):
        _, problems = read({**box(1, 1, -1, 1), "id": name})
        check_said(problems)
        several = {**box(1, 1, 9, 9), "id": name}
        several["value"]["rectanglelabels"] = ["a\n" * 999, "b"] * 999
        _, problems = read(several)
        check_said(problems)


# Fuzzing

WILD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from([10**400, -1, 255, 2**31, 1e308, "rle", "Cell", "\ud800", "image"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
VALID = [
    stroke(SQUARE),
    box(10, 20, 30, 40),
    region("bitmasklabels", imageDataURL=bitmask.encode(SQUARE)),
    polygon(TRIANGLE),
    region("ellipselabels", x=50, y=50, radiusX=20, radiusY=30, rotation=10),
]


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path within a region; of long lists the first few places."""
    inner = node.items() if isinstance(node, dict) else enumerate(node[:12])
    found = [path]
    for key, child in inner:
        if isinstance(child, dict | list):
            found += places(child, (*path, key))
        else:
            found.append((*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid region of which one to three parts are something else, or gone."""
    one: Any = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 3))):
        if not isinstance(one, dict | list):
            break
        path = draw(st.sampled_from(places(one)))
        if not path:
            continue
        parent = one
        for key in path[:-1]:
            parent = parent[key]
        if draw(st.booleans()):
            parent[path[-1]] = draw(WILD)
        else:
            del parent[path[-1]]
    return one


def check_read(result: Any) -> None:
    found = read_annotation(result, BRUSH, CLASSES, SIZE, unlabelled=0, unknown_label="Dirt")
    mask, problems = found.mask, found.problems
    assert mask.shape == SIZE
    assert mask.dtype == np.uint8
    assert set(np.unique(mask).tolist()) <= {0, 1, 2, 3, 255}
    assert len(problems) <= LISTED + 1
    check_said(problems)


@given(st.lists(mutated(), max_size=4))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_an_altered_region_is_read_or_left_out(result: list[Any]) -> None:
    check_read(result)


@given(WILD)
@settings(deadline=None, derandomize=True, max_examples=200)
def test_any_json_is_read_as_a_result(result: Any) -> None:
    check_read(result)
    check_read([result])


@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_an_altered_stroke_decodes_or_is_refused(data: st.DataObject) -> None:
    rle: list[Any] = list(WHOLE)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(rle) - 1))
        rle[at] = data.draw(st.integers(0, 255) | st.integers() | st.none() | st.floats())
    try:
        alpha: Mask = brush.decode(rle, *SIZE)
    except BadRegion as error:
        check_said([str(error)])
    else:
        assert alpha.shape == SIZE


@given(st.binary(max_size=60), st.integers(0, 100), st.booleans())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_an_altered_bitmask_decodes_or_is_refused(patch: bytes, at: int, sound: bool) -> None:
    data = bytearray(base64.b64decode(bitmask.encode(SQUARE).removeprefix(bitmask.PREFIX)))
    data[at : at + len(patch)] = patch
    if sound:  # a chunk whose checksum is right is looked into
        data = bytearray(png(60, 40, chunk(b"tRNS", patch[:9]), chunk(b"IDAT", patch), colour=3))
    try:
        alpha = bitmask.decode(data_url(bytes(data)), *SIZE)
    except BadRegion as error:
        check_said([str(error)])
    else:
        assert alpha.shape == SIZE


# Label configs

LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
EXTERNAL = '<!ENTITY e SYSTEM "file:///etc/passwd">'


@pytest.mark.parametrize(
    "xml",
    [
        f'<!DOCTYPE v [<!ENTITY l0 "ha">{LAUGHS}]><View>&l9;</View>',
        f'<!DOCTYPE v [<!ENTITY a "{"b" * 10**6}">]><View>{"&a;" * 10**4}</View>',
        f"<!DOCTYPE v [{EXTERNAL}]><View>&e;</View>",
        '<!DOCTYPE v SYSTEM "http://127.0.0.1:1/x.dtd"><View/>',
        "<View>" * 100_000,
        "<View>" * 50_000 + "</View>" * 50_000,
        '<?xml version="1.0" encoding="ebcdic"?><View/>',
        "<View>\0</View>",
        "<View>&nothing;</View>",
        "<View " + " ".join(f'a{n}=""' for n in range(10_000)) + "/>",
        f'<View><Image name="{"x" * 10**5}" value="{"y" * 10**5}"/></View>',
        '<View><Image name="a&#10;b" value="&#10;$"/><Image name="c" value="$c"/></View>',
        "<View>" + '<Image name="i" value="$i"/>' * 9999 + "</View>",
        "<View>" + " " * 2**22 + "</View>",
        "<View>" + "<a/>" * 10**5 + "</View>",
        "<View>" * 65 + "</View>" * 65,
        '<View><Image name="i" value="$i"/>' + '<Choices toName="i"/>' * 1001 + "</View>",
        '<View><Image name="i" value="$i"/>'
        + '<BrushLabels name="b" toName="i"><Label value="a"/>' * 10_000
        + "</BrushLabels>" * 10_000
        + "</View>",
        f'<View><Image name="i" value="$i[{"9" * 5000}]"/></View>',
        '<View><Image name="i" value="$i"/>'
        + '<BrushLabels name="b" toName="i">' * 30
        + "<Label>" * 30
        + "x" * 10**5
        + "</Label>" * 30
        + "</BrushLabels>" * 30
        + "</View>",
        7,
        None,
    ],
)
def test_a_labeling_configuration_that_cannot_be_used_is_refused_in_a_short_sentence(
    xml: Any,
) -> None:
    for image in (None, "b\n" * 9999):
        with pytest.raises(BadLabelConfig) as refused:
            parse_label_config(xml, image=image)
        check_said([str(refused.value)])
