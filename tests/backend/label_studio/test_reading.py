"""What Label Studio's tags mean, and what is done with regions that are not understood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.errors import NotEnoughLabels
from backend.label_studio.label_config import parse_label_config, unread_controls
from backend.label_studio.region_counts import READ, describe_counts, not_understood
from backend.label_studio.regions import Reading, read_annotation
from backend.options import check_labels, parse_options
from backend.rounds.stages.collect import check_understood, mask_of
from tests.backend.label_studio.test_regions import Region, box, region, stroke

SIZE = (40, 60)
CLASSES = ("background", "Cell", "Debris")
SQUARE = np.zeros(SIZE, dtype=bool)
SQUARE[10:30, 15:39] = True  # 25..75 % down, 25..65 % across
XML = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="Cell"/><Label value="Debris"/></BrushLabels>
<Labels name="lab" toName="image"><Label value="Cell"/></Labels>
<Polygon name="polygon" toName="image"/><Text name="note" value="$note"/>
<RectangleLabels name="ask" toName="image" smart="true"><Label value="Cell"/></RectangleLabels>
</View>"""
CONFIG = parse_label_config(XML)

CORNERS = [[25, 25], [65, 25], [65, 75], [25, 75]]
SHAPES: dict[str, dict[str, Any]] = {
    "polygon": {"points": CORNERS, "closed": True},
    "rectangle": {"x": 25, "y": 25, "width": 40, "height": 50, "rotation": 0},
    "brush": stroke(SQUARE, None)["value"],
    "magicwand": stroke(SQUARE, None)["value"],
    "vector": {
        "closed": True,
        "vertices": [{"id": str(n), "x": x, "y": y} for n, (x, y) in enumerate(CORNERS)],
    },
}


def result(kind: str, **value: Any) -> Region:
    return {**region(kind, None, **value), "from_name": kind, "id": "one"}


def read(*regions: Any, **options: Any) -> Reading:
    given: dict[str, Any] = {"unlabelled": 0, "unknown_label": None, **options}
    return read_annotation(list(regions), CONFIG, CLASSES, SIZE, **given)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("labels_first", [False, True])
def test_a_shape_and_its_label_of_one_id_are_one_region(kind: str, labels_first: bool) -> None:
    shape = result(kind, **SHAPES[kind])
    label = result("labels", **SHAPES[kind], labels=["Cell"])
    answer = result("choices", **SHAPES[kind], choices=["round"])
    found = read(*([label, shape] if labels_first else [shape, label]), answer)
    np.testing.assert_array_equal(found.mask, SQUARE)
    assert (found.problems, dict(found.counts)) == ([], {READ: 1})


def test_answers_of_one_kind_belong_to_their_region_and_labels_of_two_controls_are_unclear() -> (
    None
):
    shape = result("polygon", **SHAPES["polygon"])
    label = result("labels", **SHAPES["polygon"], labels=["Cell"])
    answers = [
        {**result("choices", **SHAPES["polygon"], choices=[said]), "from_name": said}
        for said in ("round", "dark")
    ]
    assert dict(read(shape, label, *answers).counts) == {READ: 1}

    other = {**result("labels", **SHAPES["polygon"], labels=["Debris"]), "from_name": "other"}
    found = read(shape, label, other)
    np.testing.assert_array_equal(found.mask, np.where(SQUARE, 255, 0))
    assert dict(found.counts) == {("unclear", ""): 1}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "brushlabels", "value": {"maskDataURL": "?", "brushlabels": ["Cell"]}},
        {"type": "brushlabels", "value": None},
        {"type": "cubelabels", "value": {"sequence": [], "cubelabels": ["Cell"]}},
        {"type": "rectanglelabels", "value": {"y": 1, "rectanglelabels": ["Cell"]}},
    ],
)
def test_what_was_drawn_and_cannot_be_read_leaves_no_background(part: dict[str, Any]) -> None:
    found = read({"id": "a", "from_name": "tag", "to_name": "image", **part})
    assert (found.mask == 255).all()
    assert dict(found.counts) == {("broken", ""): 1}


def test_a_region_that_names_a_control_instead_of_the_image_is_unknown() -> None:
    found = read({**box(25, 25, 40, 50), "to_name": "tag"})
    assert set(np.unique(found.mask)) == {0, 255}
    assert dict(found.counts) == {("image", "tag"): 1}


def test_an_ellipse_and_its_label_are_one_region_and_its_label_alone_has_the_same_shape() -> None:
    value = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 30, "rotation": 0}
    both = read(result("ellipse", **value), result("labels", **value, labels=["Cell"]))
    alone = read(result("labels", **value, labels=["Cell"]))
    expected = read(region("ellipselabels", **value))
    for found in (both, alone):
        np.testing.assert_array_equal(found.mask, expected.mask)
        assert found.mask[20, 30] == 1


def test_regions_of_several_ids_keep_their_own_labels() -> None:
    left, right = ({"x": x, "y": 0, "width": 50, "height": 100} for x in (0, 50))
    parts = [
        {**result(kind, **value, **label), "id": name}
        for name, value, labels in (("a", left, ["Cell"]), ("b", right, ["Debris"]))
        for kind, label in (("rectangle", {}), ("labels", {"labels": labels}))
    ]
    found = read(*parts)
    assert found.mask[0].tolist() == [1] * 30 + [2] * 30


def test_vector_labels_are_read_with_their_curves_and_open_lines_have_no_area() -> None:
    vertices = [
        {"id": "a", "x": 25, "y": 50, "isBezier": True, "controlPoint2": {"x": 25, "y": 0}},
        {"id": "b", "x": 75, "y": 50, "isBezier": True, "controlPoint1": {"x": 75, "y": 0}},
    ]
    found = read(region("vectorlabels", vertices=vertices, closed=True))
    # At t = 1/2 the curve is three quarters of the way up to its handles, at 12.5 %.
    assert found.problems == []
    assert found.mask[:, 30].tolist() == [0] * 5 + [1] * 15 + [0] * 20
    opened = read(region("vectorlabels", vertices=vertices, closed=False))
    assert "it is open: a line has no area" in opened.problems[0]
    assert (opened.mask == 255).all()  # where it lies is not known either
    branched = [*vertices, {"id": "c", "x": 0, "y": 0, "prevPointId": "a"}]
    assert "branches" in read(region("vectorlabels", vertices=branched, closed=True)).problems[0]


def test_a_label_that_is_gone_is_unknown_and_counted_and_an_alias_maps_it() -> None:
    gone = [box(0, 0, 50, 100, "Zelle") for _ in range(41)]
    found = read(*gone, box(50, 0, 25, 100, "Debris"))
    assert found.mask[0].tolist() == [255] * 30 + [2] * 15 + [0] * 15
    assert describe_counts(found.counts) == [
        "41 regions carry the label 'Zelle', which the labeling configuration no longer has: "
        "rename it back, or map it with the option `aliases`."
    ]
    assert not_understood(found.counts) == (41, 42)
    mapped = read(*gone, aliases={"Zelle": "Cell", "Debris": "Cell"})
    assert mapped.mask[0].tolist() == [1] * 30 + [0] * 30
    assert describe_counts(mapped.counts) == []
    # What is still a label means itself.
    assert read(box(0, 0, 100, 100, "Debris"), aliases={"Debris": "Cell"}).mask.max() == 2


def test_a_label_that_a_version_does_not_know_yet_is_not_called_gone() -> None:
    found = read_annotation(
        [box(0, 0, 100, 100, "Debris")], CONFIG, CLASSES[:2], SIZE, unlabelled=0, unknown_label=None
    )
    assert (found.mask == 255).all()
    assert describe_counts(found.counts) == []


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({**box(0, 0, 50, 100), "to_name": "picture"}, "1 region carries the to_name 'picture'"),
        ({**box(0, 0, 50, 100), "type": "videorectangle"}, "the type 'videorectangle'"),
        ({**box(0, 0, 50, 100), "from_name": "ask"}, "a smart tool's box as their shape"),
        ({**box(0, 0, 50, 100), "item_index": 1}, "1 region carries the item_index '1'"),
    ],
)
def test_what_is_not_understood_is_unknown_and_counted(other: Region, says: str) -> None:
    found = read(other)
    assert found.mask[0].tolist() == [255] * 30 + [0] * 30
    assert any(says in sentence for sentence in describe_counts(found.counts))


def test_broken_and_unclear_regions_are_told_of_in_each_round_and_not_the_first_alone() -> None:
    several = {**box(0, 0, 50, 100), "id": "several"}
    several["value"] = {**several["value"], "rectanglelabels": ["Cell", "Debris"]}
    found = read(several, region("brushlabels", format="rle", rle=[1, 2, 3]))
    assert describe_counts(found.counts) == [
        "1 region carries a shape that cannot be read: draw each anew. Beside it no background is "
        "learnt from, unless it holds nothing.",
        "1 region carries no label, or several: they count as unknown. Give each one label.",
    ]


def test_a_renamed_control_loses_nothing_as_long_as_type_and_label_are_clear() -> None:
    assert (read({**box(0, 0, 100, 100), "from_name": "former"}).mask == 1).all()


def test_regions_of_another_object_of_the_project_are_passed_over() -> None:
    found = read({**box(0, 0, 100, 100), "to_name": "note"})
    assert not found.mask.any()
    assert not found.counts


def test_a_region_that_cannot_be_read_leaves_no_background() -> None:
    broken = region("brushlabels", format="rle", rle=[1, 2, 3])
    found = read(broken, {**box(0, 0, 50, 100), "id": "sound"})
    assert found.mask[0].tolist() == [1] * 30 + [255] * 30


def test_prompts_are_neither_class_nor_background_and_what_is_drawn_covers_them() -> None:
    click = {**region("keypointlabels", x=50, y=50, width=10), "id": "click"}
    asked = {**box(25, 25, 50, 50), "from_name": "ask", "id": "box"}
    drawn = {**box(40, 40, 20, 20), "id": "drawn", "from_name": "tag"}
    found = read(drawn, asked, click)
    assert found.mask[20].tolist() == [0] * 15 + [255] * 9 + [1] * 12 + [255] * 9 + [0] * 15
    assert not_understood(found.counts) == (0, 1)
    alone = read(click)
    assert set(np.unique(alone.mask)) == {0, 255}
    assert np.count_nonzero(alone.mask) == pytest.approx(np.pi * 3**2, rel=0.2)


def test_a_shape_without_a_label_is_unknown() -> None:
    found = read(result("polygon", **SHAPES["polygon"]))
    np.testing.assert_array_equal(found.mask == 255, SQUARE)
    assert "it must have one label, it has none" in found.problems[0]


def test_two_labels_of_one_region_are_unknown_and_an_answer_beside_the_label_is_none() -> None:
    drawn = result("rectanglelabels", **SHAPES["rectangle"], rectanglelabels=["Debris"])
    other = result("labels", **SHAPES["rectangle"], labels=["Cell"])
    assert (read(drawn, other).mask[SQUARE] == 255).all()
    other["value"]["labels"] = ["alive"]
    assert (read(drawn, other).mask[SQUARE] == 2).all()


def test_a_label_may_stand_as_text_within_its_tag() -> None:
    xml = (
        '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">'
        '<Label> Cell </Label><Label value="Debris"/></BrushLabels></View>'
    )
    config = parse_label_config(xml)
    assert config.labels == ("Cell", "Debris")
    assert config.tag_for("Cell") is None  # Label Studio's server would refuse it
    assert config.tag_for("Debris") is not None
    assert 'give each such Label its name as value="..."' in unread_controls(xml, config)[0]


def test_connect_warns_of_controls_that_are_not_read() -> None:
    said = unread_controls(XML, CONFIG)
    assert [sentence for sentence in said if "smart tool's" in sentence] == said
    plain = XML.replace('<Labels name="lab" toName="image"><Label value="Cell"/></Labels>', (
        '<KeyPointLabels name="k" toName="image"><Label value="Cell"/></KeyPointLabels>'
        '<Choices name="quality" toName="image"><Choice value="good"/></Choices>'
    ))  # fmt: skip
    said = unread_controls(plain, parse_label_config(plain))
    for part in (
        "KeyPointLabels 'k' is not learnt from",
        "Choices 'quality' is not read",
        "Polygon 'polygon' draws regions without a label",
    ):
        assert any(part in sentence for sentence in said), part
    polygons = XML.replace("BrushLabels", "PolygonLabels")
    said = unread_controls(polygons, parse_label_config(polygons))
    assert any("a hole is filled" in sentence for sentence in said)


FAMILIES = [
    *("Choices", "Taxonomy", "Rating", "Number", "DateTime", "TextArea", "Ranker", "Pairwise"),
    *("KeyPointLabels", "KeyPoint", "VideoRectangle", "VideoVector", "OcrLabels", "Labels"),
    *("TimelineLabels", "ParagraphLabels", "HyperTextLabels", "TimeSeriesLabels", "NewTag"),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("of", ["image", "note", "image, note"])
def test_connect_warns_of_each_control_that_is_not_read(family: str, of: str) -> None:
    xml = (
        '<View><Image name="image" value="$image"/><Text name="note" value="$note"/>'
        '<BrushLabels name="tag" toName="image"><Label value="Cell"/></BrushLabels>'
        f'<{family} name="other" toName="{of}"><Label value="Cell"/></{family}></View>'
    )
    (said,) = unread_controls(xml, parse_label_config(xml))
    assert said.startswith(f"{family} 'other' is not ")


def annotation(number: int, label: str, *, truth: bool = False) -> dict[str, Any]:
    return {"id": number, "ground_truth": truth, "result": [box(0, 0, 100, 100, label)]}


def test_what_one_annotator_drew_and_nobody_understands_is_not_anothers_background() -> None:
    image, options = np.zeros((*SIZE, 3), np.uint8), parse_options({"unknown_label": "Unsure"})
    former = {"id": 1, "result": [box(0, 0, 50, 100, "Former")]}
    empty = {"id": 2, "result": []}
    labelled = {"id": 3, "result": [box(25, 0, 50, 100)]}
    broken = {"id": 4, "result": [region("brushlabels", format="rle", rle=[1])]}
    unsure = {"id": 5, "result": [box(0, 0, 50, 100, "Unsure")]}

    def merged(*annotations: dict[str, Any]) -> list[int]:
        row: list[int] = mask_of(annotations, image, CONFIG, options, CLASSES).mask[0].tolist()
        return row[::15]  # at 0, 25, 50 and 75 %

    assert merged(former, empty) == [255, 255, 0, 0]
    assert merged(former, empty, empty) == [255, 255, 0, 0]
    assert merged(former, labelled) == [255, 1, 255, 0]
    assert merged(broken, labelled) == [255, 1, 1, 255]
    assert merged(unsure, empty) == [0, 0, 0, 0]  # one who knows outweighs one who does not


def test_an_annotation_marked_ground_truth_decides_alone() -> None:
    image, options = np.zeros((*SIZE, 3), np.uint8), parse_options({})
    votes = [annotation(1, "Cell"), annotation(2, "Cell"), annotation(3, "Debris")]
    assert (mask_of(votes, image, CONFIG, options, CLASSES).mask == 1).all()
    votes[2]["ground_truth"] = True
    assert (mask_of(votes, image, CONFIG, options, CLASSES).mask == 2).all()
    votes[1]["ground_truth"] = True  # two truths are merged as any two are
    assert (mask_of(votes, image, CONFIG, options, CLASSES).mask == 255).all()


def test_a_round_whose_labels_are_mostly_not_understood_fails_and_says_so() -> None:
    counts = read(*[box(0, 0, 9, 9, "Zelle")] * 3, box(0, 0, 9, 9)).counts
    with pytest.raises(NotEnoughLabels, match=r"3 of 4 regions.*3 regions carry the label 'Zelle'"):
        check_understood(counts, describe_counts(counts))
    check_understood(read(box(0, 0, 9, 9, "Zelle"), box(0, 0, 9, 9)).counts, [])
    check_understood(read().counts, [])


def test_only_labels_are_split() -> None:
    check_labels(parse_options({"split_touching": list(CONFIG.labels)}), CONFIG.labels)
    with pytest.raises(Exception, match=r'split_touching names "Cel", and the labels are Cell'):
        check_labels(parse_options({"split_touching": ["Cell", "Cel"]}), CONFIG.labels)


def test_aliases_must_lead_to_a_label() -> None:
    check_labels(parse_options({"aliases": {"Zelle": "Cell", "Rest": "Background"}}), CONFIG.labels)
    with pytest.raises(Exception, match=r'aliases maps "Zelle" to "Cel", and the labels are Cell'):
        check_labels(parse_options({"aliases": {"Zelle": "Cel"}}), CONFIG.labels)
