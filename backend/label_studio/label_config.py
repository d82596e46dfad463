"""What a project's label config says of the image and its regions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import quoteattr

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from backend.errors import BadLabelConfig
from backend.label_studio.reserved_controls import (
    LAYER,
    RESERVED,
    is_reserved,
    with_layer_control,
    with_smart_controls,
)
from backend.shorten import short, shorten

Kind = Literal[
    "brushlabels",
    "bitmasklabels",
    "polygonlabels",
    "rectanglelabels",
    "ellipselabels",
    "vectorlabels",
    "labels",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Tags that draw and carry no label of their own: one of "labels" gives it. MagicWand draws brushes.
SHAPES = ("brush", "bitmask", "polygon", "rectangle", "ellipse", "vector", "magicwand")

# Kinds that a smart tool asks a model with: a box or an ellipse around what it shall find.
_PROMPT_KINDS = ("rectangle", "rectanglelabels", "ellipse", "ellipselabels")

# Pre-annotations are masks: these can carry one, and the first present is written.
OUTPUT_KINDS: tuple[Kind, ...] = ("brushlabels", "bitmasklabels", "polygonlabels", "labels")

# What "labels" can write them with, the best first. Label Studio's server takes no predictions of
# a MagicWand with Labels.
_OUTPUT_SHAPES = ("brush", "bitmask", "polygon")

# Of the configurations that we build: the control's name, and the image's, which is also the key
# of the image's address in a task's data.
CONTROL_NAME, IMAGE_NAME = "tag", "image"

# A mask is uint8; 0 is background and 255 unknown.
MAX_LABELS = 254

# Labels are few, what people choose from may be a whole terminology. Deeper than a form is
# nested, each tag would be looked at once for every tag around it.
MAX_CHARACTERS = 4 * 2**20
MAX_TAGS = 100_000
MAX_DEPTH = 64
MAX_CONTROLS = 1000

# The text within tags is a label's name, and may be the name of each of those around it.
MAX_LABEL_CHARACTERS = 1000

# One place of a task's data: "$image", "$data.image", "$images[0]". "$images[{{idx}}]" and the like
# name several.
_DATA_KEY = re.compile(r"\$([\w.\- ]+(?:\[\d{1,9}\][\w.\- ]*)*)")
_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


@dataclass(frozen=True)
class Tag:
    """A control tag whose regions have an area, or that labels the regions of others (Labels).

    Attributes:
        from_name: the tag's name, ``from_name`` of its regions.
        to_name: name of the Image tag.
        kind: the tag in lower case, ``type`` of its regions and the key of their labels.
        labels: as region values hold them (``alias`` where there is one), in document order.
        drawn_by: of "labels", the name and the type of the tag that draws pre-annotations with
            them; None where no tag can.
    """

    from_name: str
    to_name: str
    kind: Kind
    labels: tuple[str, ...]
    drawn_by: tuple[str, str] | None = None

    @property
    def shape(self) -> str:
        """What its regions are drawn as: "brush", "polygon" ...; "" where it draws none."""
        return self.drawn_by[1] if self.drawn_by else self.kind.removesuffix("labels")


@dataclass(frozen=True)
class LabelConfig:
    """The part of a label config that concerns one image.

    Attributes:
        image_name: name of the Image tag, ``to_name`` of its regions.
        data_key: where a task's data hold the image's URL, as ``value_at`` reads it.
        output: the tag that pre-annotations are written with.
        inputs: every tag whose regions are read, ``output`` among them, in document order.
        labels: all labels in document order, each once, without one called "background": that
            one paints class 0.
        names: the names of all tags that show something, in document order.
        prompts: names of the controls whose boxes ask a smart tool: they are no regions.
        read_only: labels that Label Studio's server does not know (``<Label>Cell</Label>``, which
            its editor shows): it would refuse a prediction with one.
        reserved: names of the controls of which nothing is read (``reserved_controls``).
    """

    image_name: str
    data_key: str
    output: Tag
    inputs: tuple[Tag, ...]
    labels: tuple[str, ...]
    names: tuple[str, ...] = field(default=(), compare=False)
    prompts: tuple[str, ...] = field(default=(), compare=False)
    read_only: tuple[str, ...] = field(default=(), compare=False)
    reserved: frozenset[str] = field(default=frozenset(RESERVED), compare=False)

    @cached_property
    def known_names(self) -> frozenset[str]:
        """``names``, to look one up."""
        return frozenset(self.names)

    def tag_for(self, label: str) -> Tag | None:
        """The tag to pre-annotate a label with: ``output`` if it has it, else the next best.

        None where no tag that can hold a mask has it, or the server refuses it.
        """
        if label in self.read_only:
            return None
        ranked = (self.output, *_outputs(self.inputs))
        return next((tag for tag in ranked if label in tag.labels), None)


def build_label_config(labels: Iterable[tuple[str, str]], control: str = CONTROL_NAME) -> str:
    """A label config: one image, and brush labels to paint it with.

    Args:
        labels: (name, colour as ``#RRGGBB``), in the order of the classes.
        control: the name of the BrushLabels tag.
    """
    lines = "\n".join(
        f"    <Label value={quoteattr(name)} background={quoteattr(colour)}/>"
        for name, colour in labels
    )
    return (
        "<View>\n"
        f'  <Image name="{IMAGE_NAME}" value="${IMAGE_NAME}" zoom="true" zoomControl="true"/>\n'
        f'  <BrushLabels name="{control}" toName="{IMAGE_NAME}">\n{lines}\n  </BrushLabels>\n'
        "</View>\n"
    )


def value_at(data: Mapping[str, Any], key: str) -> object:
    """What a task's data holds under ``LabelConfig.data_key``; None where that is nothing."""
    if key in data:
        return data[key]
    value: object = data
    for index, name in _STEP.findall(key):
        if index:
            there = isinstance(value, list) and int(index) < len(value)
            value = value[int(index)] if there and isinstance(value, list) else None
        else:
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


def is_background(label: str) -> bool:
    """Whether a label stands for class 0, however it is capitalised."""
    return label.casefold() == "background"


def parse_label_config(xml: str, image: str | None = None) -> LabelConfig:
    """Read a project's ``label_config``.

    Args:
        xml: The label config.
        image: Name of the Image tag to work on (the option "image"); needed if there are several.

    Raises:
        BadLabelConfig: a sentence that says what is missing or cannot be used.
    """
    elements = list(_read(xml).iter())
    image_tag = _choose_image([e for e in elements if _tag(e) == "image"], image)
    image_name, data_key = _attribute(image_tag, "name"), _data_key(image_tag)
    controls = [
        e for e in elements if image_name in _names(e.get("toName", "")) and not is_reserved(e)
    ]
    if len(controls) > MAX_CONTROLS:
        raise BadLabelConfig(
            f"The label config may have at most {MAX_CONTROLS} controls for one image, "
            f"got {len(controls)}."
        )
    # A tag without a name can be no from_name.
    draws = {_tag(e): e.get("name", "").strip() for e in controls if _tag(e) in SHAPES}
    drawn_by = next(((draws[s], s) for s in _OUTPUT_SHAPES if draws.get(s)), None)
    labelling = [
        (element, kind)
        for element in controls
        for kind in KINDS
        # Without a tag that draws, Labels only add to regions that have a label already.
        if _tag(element) == kind and (kind != "labels" or draws)
    ]
    inputs = tuple(
        _read_tag(element, kind, image_name, drawn_by if kind == "labels" else None)
        for element, kind in labelling
    )
    labels = _once(label for tag in inputs for label in tag.labels if not is_background(label))
    if len(labels) > MAX_LABELS:
        raise BadLabelConfig(
            f"The label config may have at most {MAX_LABELS} labels, got {len(labels)}."
        )
    output = next(_outputs(inputs), None)
    if output is None:
        raise BadLabelConfig(
            f"The Image tag '{short(image_name, 40)}' must have BrushLabels, BitmaskLabels or "
            "PolygonLabels (or Labels with Brush, Bitmask or Polygon) to write masks with: no "
            f"other tag can hold one, got {_listed(e.tag for e in controls) or 'none of them'}."
        )
    if not labels:
        raise BadLabelConfig('The labels must be more than "Background", got only that one.')
    return LabelConfig(
        image_name,
        data_key,
        output,
        inputs,
        labels,
        names=_once(
            e.get("name", "").strip() for e in elements if e.get("name") and not e.get("toName")
        ),
        prompts=_once(e.get("name", "").strip() for e in controls if _asks_smart_tool(e)),
        read_only=_once(
            _label_of(child, tag.from_name)
            for (element, _), tag in zip(labelling, inputs, strict=True)
            for child in element.iter()
            if _tag(child) == "label" and not (child.get("alias") or child.get("value"))
        ),
        reserved=frozenset(RESERVED) - {e.get("name", "").strip() for e in controls},
    )


def add_smart_controls(xml: str, config: LabelConfig) -> str:
    """The label config with the controls that ask the committee, for all labels that it may
    answer with, in the colours that they have."""
    answered = [label for label in config.labels if config.tag_for(label) is not None]
    colours = {
        label: element.get("background", "")
        for element in _read(xml).iter()
        if _tag(element) == "label" and element.get("background")
        if (label := element.get("alias") or element.get("value", "")) in answered
    }
    return with_smart_controls(xml, config.image_name, answered, colours)


def add_layer_control(xml: str, config: LabelConfig) -> str:
    """The label config with the control of the uncertainty layer.

    Raises:
        BadLabelConfig: a control of the user's has its name.
    """
    if any(e.get("name") == LAYER and not is_reserved(e) for e in _read(xml).iter()):
        raise BadLabelConfig(
            f"The uncertainty layer needs a control called {LAYER!r}, and the labeling "
            "configuration has one of that name that is not the layer's: rename yours, or connect "
            "without --uncertainty-layer."
        )
    return with_layer_control(xml, config.image_name)


def unread_controls(xml: str, config: LabelConfig) -> list[str]:
    """A sentence for each control of which nothing, or not all, is learnt."""
    said: list[str] = []
    read = {tag.from_name for tag in config.inputs}
    labelled = any(tag.kind == "labels" for tag in config.inputs)
    for element in _read(xml).iter():
        name, kind = element.get("name", "").strip(), _tag(element)
        shown_by = _names(element.get("toName", ""))
        if not shown_by or is_reserved(element):
            continue
        shown = f"{element.tag} '{short(name, 40)}'"
        if config.image_name not in shown_by:
            said.append(
                f"{shown} is not read: it belongs to '{_listed(shown_by)}', and only the Image tag "
                f"'{short(config.image_name, 40)}' is worked on."
            )
        elif name in config.prompts:
            said.append(
                f"{shown} is a smart tool's: its regions are taken as prompts and not learnt from. "
                'If people label with it, take out smart="true".'
            )
        elif kind in SHAPES and not labelled:
            said.append(
                f"{shown} draws regions without a label, which count as unknown: "
                "add a Labels tag for the same image."
            )
        elif kind in ("vector", "vectorlabels"):
            said.append(f"Of {shown} closed outlines are learnt from; open lines have no area.")
        elif kind in ("keypoint", "keypointlabels"):
            said.append(f"{shown} is not learnt from: points have no area and count as unknown.")
        elif name not in read and kind not in SHAPES:
            said.append(f"{shown} is not read: only labelled regions are learnt from.")
    if config.output.shape == "polygon":
        said.append(
            "Pre-annotations are polygons, which have no holes: a hole is filled. "
            "Add BrushLabels with the same labels to keep holes."
        )
    if config.read_only:
        said.append(
            f"Label Studio refuses pre-annotations with {_listed(config.read_only)}, so none are "
            'written: give each such Label its name as value="...".'
        )
    return said


def _asks_smart_tool(element: Element) -> bool:
    return _tag(element) in _PROMPT_KINDS and any(
        element.get(name, "").strip().lower() == "true" for name in ("smart", "smartOnly")
    )


def _read(xml: str) -> Element:
    if not isinstance(xml, str) or not xml.strip():
        raise BadLabelConfig("The project has no label config: set one in its settings.")
    if len(xml) > MAX_CHARACTERS:
        raise BadLabelConfig(
            f"The label config may have at most {MAX_CHARACTERS} characters, got {len(xml)}."
        )
    try:
        root: Element = fromstring(xml)
    except DefusedXmlException as error:
        raise BadLabelConfig(
            "The label config must be XML without entities or a DTD, it declares some."
        ) from error
    # Expat's own, and what Python says of a character or an encoding that it cannot use.
    except (ParseError, ValueError, LookupError) as error:
        raise BadLabelConfig(f"The label config must be XML: {short(str(error), 120)}.") from error
    _check_extent(root)
    return root


def _check_extent(root: Element) -> None:
    level, depth, tags = [root], 0, 0
    while level:
        depth, tags = depth + 1, tags + len(level)
        if depth > MAX_DEPTH or tags > MAX_TAGS:
            raise BadLabelConfig(
                f"The label config may have at most {MAX_TAGS} tags, nested at most {MAX_DEPTH} "
                "deep; it has more."
            )
        level = [child for element in level for child in element]


def _tag(element: Element) -> str:
    # A comment's tag is a function; Label Studio takes tags in any case.
    return element.tag.lower() if isinstance(element.tag, str) else ""


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def _listed(names: Iterable[str]) -> str:
    return short(", ".join(names), 120)


def _once(labels: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(labels))


def _attribute(element: Element, name: str) -> str:
    value = element.get(name, "").strip()
    if not value:
        raise BadLabelConfig(f"The {element.tag} tag must have a {name}, it has none.")
    return value


def _choose_image(images: list[Element], wanted: str | None) -> Element:
    if not images:
        raise BadLabelConfig("The label config must have an Image tag, it has none.")
    names = [element.get("name", "").strip() for element in images]
    if wanted is not None:
        if wanted not in names:
            raise BadLabelConfig(
                f"The option image must name an Image tag ({_listed(names)}), "
                f"got {shorten(wanted)}."
            )
        return images[names.index(wanted)]
    if len(images) > 1:
        raise BadLabelConfig(
            f"The label config has {len(images)} Image tags ({_listed(names)}): "
            'name one by the option image in the connection\'s extra parameters, as {"image": '
            f'"{short(names[0], 40)}"}}.'
        )
    return images[0]


def _data_key(image: Element) -> str:
    name = short(image.get("name", ""), 40)
    if image.get("valueList"):
        raise BadLabelConfig(
            f"The Image tag '{name}' must show one image (value), it shows a list (valueList)."
        )
    value = image.get("value", "").strip()
    match = _DATA_KEY.fullmatch(value)
    if match is None:
        raise BadLabelConfig(
            f"The value of the Image tag '{name}' must be one key of the task's data, "
            f'as "$image", got {shorten(value)}.'
        )
    return match[1].strip()


def _read_tag(
    element: Element, kind: Kind, image_name: str, drawn_by: tuple[str, str] | None
) -> Tag:
    name = _attribute(element, "name")
    if element.get("value", "").strip().startswith("$") or element.get("apiUrl"):
        raise BadLabelConfig(
            f"The labels of '{short(name, 40)}' must stand in the label config, "
            "but they come from the task's data or an address."
        )
    labels = _once(_label_of(child, name) for child in element.iter() if _tag(child) == "label")
    if not labels:
        raise BadLabelConfig(
            f"The {element.tag} tag '{short(name, 40)}' must hold a Label, it holds none."
        )
    return Tag(name, image_name, kind, labels, drawn_by)


def _label_of(element: Element, parent: str) -> str:
    # A region's value holds the alias in place of the value where there is one (the editor's
    # selectedValues, the SDK's parse_config).
    # Without either, the editor takes the text within the tag.
    label = element.get("alias") or element.get("value") or "".join(element.itertext()).strip()
    if not label.strip():
        raise BadLabelConfig(
            f"Every Label of '{short(parent, 40)}' must have a value, one has none."
        )
    if len(label) > MAX_LABEL_CHARACTERS:
        raise BadLabelConfig(
            f"A Label of '{short(parent, 40)}' may have at most {MAX_LABEL_CHARACTERS} characters, "
            f"one has {len(label)}."
        )
    if label.startswith("$"):
        raise BadLabelConfig(
            f"The labels of '{short(parent, 40)}' must stand in the label config, "
            f"but {shorten(label)} comes from the task's data."
        )
    return label


def _outputs(inputs: Iterable[Tag]) -> Iterator[Tag]:
    """The tags that pre-annotations can be written with, the best first."""
    return (tag for kind in OUTPUT_KINDS for tag in inputs if tag.kind == kind and tag.shape)
