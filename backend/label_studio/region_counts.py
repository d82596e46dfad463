"""How many regions of annotations were read, and how many of each kind were not understood.

Apart from ``regions``, which needs OpenCV: commands that only print must start without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from backend.shorten import shorten

Counts = Counter[tuple[str, str]]
"""How many regions there were of each (kind, name).

A kind is that of ``READ`` or a key of ``_UNREAD``; of "broken" and "unclear" ones each also has a
sentence among the problems of the round that reads it first.
"""

READ = ("read", "")

_UNREAD: Mapping[str, str] = {
    "label": "{n} {regions} the label {name}, which the labeling configuration no longer has: "
    "rename it back, or map it with the option `aliases`.",
    "image": "{n} {regions} the to_name {name}, which no tag of the labeling configuration has: "
    "rename the Image tag back.",
    "item": "{n} {regions} the item_index {name}, drawn on another image of a list: they count as "
    "unknown, since the labeling configuration shows one image.",
    "type": "{n} {regions} the type {name}, which is not read: they count as unknown.",
    "prompt": "{n} {regions} a smart tool's box as their shape: prompts are not learnt from and "
    'count as unknown. Delete them, or take smart="true" out of a control that people label with.',
    "unclear": "{n} {regions} no label, or several: they count as unknown. Give each one label.",
    "broken": "{n} {regions} a shape that cannot be read: draw each anew. Beside it no background "
    "is learnt from, unless it holds nothing.",
    "point": "{n} {regions} a point as their shape: it has no area, and counts as unknown. "
    "Delete it if it was a prompt.",
}


def to_rows(counts: Counts) -> list[tuple[str, str, int]]:
    """As JSON keeps them: kind, name, how many."""
    return [(kind, name, n) for (kind, name), n in counts.items()]


def from_rows(rows: Iterable[tuple[str, str, int]]) -> Counts:
    """What ``to_rows`` gave."""
    return Counter({(kind, name): n for kind, name, n in rows})


def describe_counts(counts: Counts) -> list[str]:
    """A sentence for each kind of region that was not understood, the most frequent first."""
    return [
        _UNREAD[kind].format(
            n=n, regions="region carries" if n == 1 else "regions carry", name=shorten(name, 60)
        )
        for (kind, name), n in sorted(counts.items(), key=lambda each: (-each[1], each[0]))
        if kind in _UNREAD
    ]


def not_understood(counts: Counts) -> tuple[int, int]:
    """(regions that were not understood, all regions); prompts and points are neither."""
    asked = sum(n for (kind, _), n in counts.items() if kind not in ("prompt", "point"))
    return asked - counts[READ], asked
