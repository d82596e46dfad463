"""The committee's own controls of a labeling configuration: none of their regions is read.

``SMART`` ones ask it with clicks and boxes. Only these are prompts: with *Auto-Annotation* on,
Label Studio sends what people draw with their own controls as well, and that stays what it is:
labels. ``LAYER`` shows where the committee is unsure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from xml.etree.ElementTree import Element
from xml.sax.saxutils import quoteattr

CLICK, BOX, LAYER = "committee-click", "committee-box", "committee"
SMART = (CLICK, BOX)
RESERVED = (*SMART, LAYER)

UNSURE = "Committee unsure"
"""The layer's only label. It tells our control from one that people had called ``LAYER``."""

UNSURE_COLOUR = "#ff00ff"

_TAGS = {CLICK: "KeyPointLabels", BOX: "RectangleLabels", LAYER: "BrushLabels"}

# With no tool in the toolbar, and with a key of its own: else its label takes the key 1.
_LAYER_CONTROL = (
    f'\n  <BrushLabels name="{LAYER}" toName={{image}} visible="false" smart="false" '
    f'smartOnly="true">\n    <Label value="{UNSURE}" background="{UNSURE_COLOUR}" '
    'hotkey="ctrl+alt+shift+0"/>\n  </BrushLabels>'
)

# The first tag of a document, after what may stand before it.
_ROOT = re.compile(
    r"""\s*(?:(?:<\?.*?\?>|<!--.*?-->)\s*)*<\w(?:[^>"']|"[^"]*"|'[^']*')*>""", re.DOTALL
)


def is_reserved(element: Element) -> bool:
    """Whether a control is ours."""
    name = element.get("name")
    if name == LAYER:
        return any(child.get("value") == UNSURE for child in element)
    return name in SMART


def with_smart_controls(
    xml: str, image_name: str, labels: Sequence[str], colours: Mapping[str, str]
) -> str:
    """A label config with both smart controls at its end, for these labels of this image.

    At the end, since Label Studio gives out the keys 1, 2, ... in document order: the user's own
    labels keep theirs.

    Args:
        xml: a label config that ``parse_label_config`` reads; smart controls of ours are replaced.
        colours: of labels that have one.
    """
    lines = "".join(
        f"\n    <Label value={quoteattr(label)}"
        + (f" background={quoteattr(colours[label])}" if label in colours else "")
        + "/>"
        for label in labels
    )
    controls = "".join(
        f'\n  <{_TAGS[name]} name="{name}" toName={quoteattr(image_name)} smart="true" '
        f'smartOnly="true">{lines}\n  </{_TAGS[name]}>'
        for name in SMART
    )
    bare = without_controls(xml, SMART)
    end = bare.rindex("</")
    head = bare[:end]
    text = head.rstrip()
    return text + controls + head[len(text) :] + bare[end:]


def with_layer_control(xml: str, image_name: str) -> str:
    """A label config with the layer's control, before those of the user.

    Args:
        xml: a label config that ``parse_label_config`` reads, without a control ``LAYER`` of the
            user's; one of ours is replaced.
    """
    bare = without_controls(xml, [LAYER])
    root = _ROOT.match(bare)
    if root is None:
        raise ValueError("the label config must be XML with a root that holds tags")
    control = _LAYER_CONTROL.format(image=quoteattr(image_name))
    return bare[: root.end()] + control + bare[root.end() :]


def without_controls(xml: str, names: Iterable[str] = RESERVED) -> str:
    """A label config without these controls of ours; all else stays as it is."""
    for name in names:
        tag = _TAGS[name]
        content = rf"""/>|>.*?</{tag}\s*>"""
        if name == LAYER:
            content = rf""">\s*<Label\s[^>]*\bvalue=["']{UNSURE}["'].*?</{tag}\s*>"""
        # Whitespace before it goes too, so that taking controls back leaves the text as it was.
        xml = re.sub(
            rf"""\s*<{tag}\s[^>]*\bname=["']{name}["'][^>]*(?:{content})""",
            "",
            xml,
            flags=re.DOTALL | re.IGNORECASE,
        )
    return xml


def has_layer_control(xml: str) -> bool:
    """Whether a label config has the layer's control."""
    return without_controls(xml, [LAYER]) != xml
