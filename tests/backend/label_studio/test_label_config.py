"""The label config, as projects have it and as they should not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_studio_sdk._extensions.label_studio_tools.core.label_config import parse_config

from backend.errors import BadLabelConfig
from backend.label_studio.label_config import (
    LabelConfig,
    Tag,
    build_label_config,
    parse_label_config,
    value_at,
)

IMAGE = '<Image name="image" value="$image"/>'


def view(*tags: str) -> str:
    return f"<View>{''.join(tags)}</View>"


def control(kind: str, *labels: str, name: str = "tag", to: str = "image") -> str:
    inner = "".join(f'<Label value="{label}"/>' for label in labels)
    return f'<{kind} name="{name}" toName="{to}">{inner}</{kind}>'


def test_a_configuration_that_we_build_is_read_back_whatever_the_labels_hold() -> None:
    config = parse_label_config(build_label_config([("Cell", "#FF0000"), ("<\"&'>", "#0000FF")]))
    tag = Tag("tag", "image", "brushlabels", ("Cell", "<\"&'>"))
    assert config == LabelConfig("image", "image", tag, (tag,), tag.labels)


def test_the_captured_configuration_is_read() -> None:
    xml = (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n  '
        '<BrushLabels name="tag" toName="image"><Label value="Cell" background="#FF0000"/>'
        '<Label value="Nucleus" background="#0000FF"/></BrushLabels>\n</View>'
    )
    tag = Tag("tag", "image", "brushlabels", ("Cell", "Nucleus"))
    assert parse_label_config(xml) == LabelConfig(
        "image", "image", tag, (tag,), ("Cell", "Nucleus")
    )


@pytest.mark.parametrize(
    ("kinds", "output"),
    [
        (["PolygonLabels", "BitmaskLabels", "BrushLabels"], "brushlabels"),
        (["PolygonLabels", "BitmaskLabels"], "bitmasklabels"),
        (["RectangleLabels", "PolygonLabels"], "polygonlabels"),
    ],
)
def test_pre_annotations_are_written_as_brush_then_bitmask_then_polygon(
    kinds: list[str], output: str
) -> None:
    tags = [control(kind, "Cell", name=kind) for kind in kinds]
    config = parse_label_config(view(IMAGE, *tags))
    assert config.output.kind == output
    assert [tag.from_name for tag in config.inputs] == kinds


@pytest.mark.parametrize(
    ("kinds", "shape"),
    [
        (["Polygon"], ("Polygon", "polygon")),
        (["Polygon", "Bitmask"], ("Bitmask", "bitmask")),
        (["Rectangle", "Bitmask", "MagicWand", "Brush"], ("Brush", "brush")),
    ],
)
def test_labels_are_written_with_a_tag_that_draws_masks(
    kinds: list[str], shape: tuple[str, str]
) -> None:
    shapes = [f'<{kind} name="{kind}" toName="image"/>' for kind in kinds]
    config = parse_label_config(view(IMAGE, *shapes, control("Labels", "Cell")))
    assert config.output == Tag("tag", "image", "labels", ("Cell",), shape)
    assert config.output.shape == shape[1]
    assert config.labels == ("Cell",)
    # A tag with labels of its own goes before, for the labels that it has.
    config = parse_label_config(
        view(IMAGE, *shapes, control("Labels", "Cell"), control("PolygonLabels", "Cast", name="p"))
    )
    assert config.output.kind == "polygonlabels"
    assert config.tag_for("Cell") == Tag("tag", "image", "labels", ("Cell",), shape)


def test_labels_of_all_tags_are_joined_by_name_in_document_order() -> None:
    config = parse_label_config(
        view(
            control("EllipseLabels", "Red cell", "Cast", name="e"),
            IMAGE,
            control("BrushLabels", "Crystal", "Red cell", name="b"),
            control("PolygonLabels", "Yeast", name="p"),
        )
    )
    assert config.labels == ("Red cell", "Cast", "Crystal", "Yeast")
    assert config.output.from_name == "b"
    chosen = {label: config.tag_for(label) for label in config.labels}
    assert {label: tag and tag.from_name for label, tag in chosen.items()} == {
        "Red cell": "b",
        "Cast": None,  # only an ellipse has it
        "Crystal": "b",
        "Yeast": "p",
    }


def test_an_alias_stands_for_the_value_as_in_the_sdk() -> None:
    xml = view(
        IMAGE,
        '<BrushLabels name="tag" toName="image"><Label value="Rote Zelle" alias="rbc"/>'
        '<View><Label value="Kristall"/></View><Label value="Zylinder" alias=""/></BrushLabels>',
    )
    labels = parse_label_config(xml).labels
    assert labels == ("rbc", "Kristall", "Zylinder")
    assert labels == tuple(parse_config(xml)["tag"]["labels"])


def test_a_label_called_background_is_no_class_of_its_own() -> None:
    config = parse_label_config(view(IMAGE, control("BrushLabels", "Background", "Cell")))
    assert config.labels == ("Cell",)
    assert config.output.labels == ("Background", "Cell")


def test_tags_of_other_objects_and_other_controls_are_passed_over() -> None:
    config = parse_label_config(
        view(
            IMAGE,
            '<Text name="text" value="$text"/><!-- a comment -->',
            '<Choices name="quality" toName="image"><Choice value="Good"/></Choices>',
            control("PolygonLabels", "Elsewhere", name="other", to="text"),
            control("BrushLabels", "Cell"),
        )
    )
    assert config.labels == ("Cell",)


def test_of_several_images_the_option_names_one() -> None:
    xml = view(
        '<Image name="bright" value="$bf"/><Image name="dark" value="$df"/>',
        control("BrushLabels", "Cell", name="a", to="bright"),
        control("BrushLabels", "Debris", name="b", to="dark"),
        control("EllipseLabels", "Both", name="c", to="bright,dark"),
    )
    config = parse_label_config(xml, image="dark")
    assert (config.image_name, config.data_key) == ("dark", "df")
    assert config.labels == ("Debris", "Both")
    with pytest.raises(BadLabelConfig, match=r"2 Image tags \(bright, dark\): name one"):
        parse_label_config(xml)
    with pytest.raises(BadLabelConfig, match=r"Image tag \(bright, dark\), got 'image'"):
        parse_label_config(xml, image="image")


def dynamic(attribute: str) -> str:
    return f'<BrushLabels name="tag" toName="image" {attribute}/>'


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ("", "no label config"),
        ("  \n", "no label config"),
        ("<View>", "must be XML"),
        ("nonsense", "must be XML"),
        ("<View>\ud800</View>", "must be XML"),
        ('<!DOCTYPE v [<!ENTITY a "b">]><View>&a;</View>', "without entities"),
        (view(control("BrushLabels", "Cell")), "must have an Image tag"),
        (view(IMAGE), "BrushLabels, BitmaskLabels or PolygonLabels .* got none of them"),
        (view(IMAGE, control("RectangleLabels", "Cell")), "can hold one, got RectangleLabels"),
        (view(IMAGE, control("EllipseLabels", "Cell")), "got EllipseLabels"),
        (view(IMAGE, '<Brush name="b" toName="image"/>'), "Labels with Brush.* got Brush"),
        (view(IMAGE, control("Labels", "Cell")), "Labels with Brush.* got Labels"),
        *(
            (view(IMAGE, control("Labels", "Cell"), f'<{shape} name="s" toName="image"/>'), "got")
            for shape in ("Rectangle", "Ellipse", "Vector", "MagicWand", "KeyPoint")
        ),
        (view(IMAGE, control("BrushLabels")), "'tag' must hold a Label"),
        (view(IMAGE, control("BrushLabels", "Background")), 'more than "Background"'),
        (view(IMAGE, control("BrushLabels", "Cell", name="")), "BrushLabels tag must have a name"),
        (view(IMAGE, control("BrushLabels", "$label")), "comes from the task's data"),
        (view(IMAGE, dynamic('value="$labels"')), "come from the task's data"),
        (view(IMAGE, dynamic('apiUrl="http://a.test"')), "or an address"),
        (
            view(IMAGE, '<BrushLabels name="t" toName="image"><Label/></BrushLabels>'),
            "must have a value",
        ),
        (
            view('<Image name="image" valueList="$pages"/>', control("BrushLabels", "Cell")),
            "it shows a list",
        ),
        (
            view('<Image name="image" value="a.png"/>', control("BrushLabels", "Cell")),
            "one key of the task's data",
        ),
        (
            view('<Image name="image" value="$i[{{idx}}]"/>', control("BrushLabels", "Cell")),
            "one key of the task's data",
        ),
        (
            view(IMAGE, control("BrushLabels", *[f"label {n}" for n in range(255)])),
            "at most 254 labels, got 255",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(xml: str, says: str) -> None:
    with pytest.raises(BadLabelConfig, match=says) as refusal:
        parse_label_config(xml)
    assert str(refusal.value).endswith(".")


@given(st.text())
@settings(derandomize=True)
def test_any_text_is_read_or_refused(xml: str) -> None:
    with pytest.raises(BadLabelConfig):
        parse_label_config(xml)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("image", "a"),
        ("data.image", "b"),
        ("images[0]", "c"),
        ("images[1].url", "d"),
        ("a.b", "whole"),
        ("images[2]", None),
        ("image[0]", None),
        ("data.image.more", None),
        ("none", None),
    ],
)
def test_a_data_key_may_be_nested(key: str, found: object):
    data = {"image": "a", "data": {"image": "b"}, "images": ["c", {"url": "d"}], "a.b": "whole"}
    assert value_at(data, key) == found
    config = view(f'<Image name="image" value="${key}"/>', control("BrushLabels", "Cell"))
    assert parse_label_config(config).data_key == key
