"""The reserved controls of a labeling configuration: their clicks and boxes ask the committee.

Only these are prompts. With *Auto-Annotation* on, Label Studio sends what people draw with their
own controls as well, and that stays what it is: labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import quoteattr

CLICK, BOX = "committee-click", "committee-box"
RESERVED = (CLICK, BOX)

_TAGS = {CLICK: "KeyPointLabels", BOX: "RectangleLabels"}

# Whitespace before it goes too, so that taking the controls back leaves the text as it was.
_OURS = re.compile(
    r"\s*<(KeyPointLabels|RectangleLabels)\s[^>]*\bname="
    rf"""["'](?:{"|".join(RESERVED)})["'][^>]*(?:/>|>.*?</\1\s*>)""",
    re.DOTALL | re.IGNORECASE,
)


def with_smart_controls(
    xml: str, image_name: str, labels: Sequence[str], colours: Mapping[str, str]
) -> str:
    """A label config with both controls at its end, for these labels of this image.

    At the end, since Label Studio gives out the keys 1, 2, ... in document order: the user's own
    labels keep theirs.

    Args:
        xml: a label config that ``parse_label_config`` reads; controls of ours are replaced.
        colours: of labels that have one.
    """
    lines = "".join(
        f"\n    <Label value={quoteattr(label)}"
        + (f" background={quoteattr(colours[label])}" if label in colours else "")
        + "/>"
        for label in labels
    )
    controls = "".join(
        f'\n  <{tag} name="{name}" toName={quoteattr(image_name)} smart="true" smartOnly="true">'
        f"{lines}\n  </{tag}>"
        for name, tag in _TAGS.items()
    )
    bare = without_smart_controls(xml)
    end = bare.rindex("</")
    head = bare[:end]
    text = head.rstrip()
    return text + controls + head[len(text) :] + bare[end:]


def without_smart_controls(xml: str) -> str:
    """A label config without the reserved controls; all else stays as it is."""
    return _OURS.sub("", xml)
