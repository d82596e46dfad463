"""How the pages write times and numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from markupsafe import Markup, escape


def ago(at: float) -> str:
    """``just now``, ``5 min ago``, ``3 h ago``, ``2 days ago``."""
    seconds = max(0.0, time.time() - at)
    if seconds < 60:
        return "just now"
    for unit, length, fewest in (("min", 60, 60), ("h", 3600, 48), ("days", 86400, 10**9)):
        if seconds < length * fewest:
            return f"{seconds / length:.0f} {unit} ago"
    return ""


def moment(at: float) -> str:
    """``2026-11-28 00:20`` in the time zone of this machine."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def iso(at: float) -> str:
    """For the attribute of ``<time>``."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def seconds(value: float) -> str:
    """``12 s``, ``3 min 20 s``, ``1 h 05 min``."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.0%}"


def score(value: float | None) -> str:
    """Of a Dice or an IoU: ``0.812``."""
    return "not measured" if value is None else f"{value:.3f}"


def coded(text: str) -> Markup:
    """A sentence, escaped, with what stands between backticks as code."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return escape(text)  # a backtick alone
    return Markup().join(
        Markup("<code>{}</code>").format(piece) if place % 2 else escape(piece)
        for place, piece in enumerate(pieces)
    )


FILTERS = {each.__name__: each for each in (ago, moment, iso, seconds, percent, score, coded)}

SHORT_WHYS: Mapping[str, str] = {
    "uncertainty": "uncertain",
    "class": "rare class",
    "chance": "by chance",
    "audit": "audit",
    "diverse": "unlike the others",
    "group": "new group",
    "blurred": "blurred",
    "blank": "blank",
}
"""By ``Place.why``: two words for each."""
