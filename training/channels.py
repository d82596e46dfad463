"""Which of an image's channels are shown, as a person names them."""

from __future__ import annotations

import re
from collections.abc import Sequence


def parse_channels(text: str) -> tuple[int, ...]:
    """The channels, counted from 1, that ``text`` such as "2" or "1,3,2" names.

    Raises:
        ValueError: it does not name one to three channels.
    """
    if not re.fullmatch(r" *[1-9][0-9]{0,3} *(, *[1-9][0-9]{0,3} *){0,2}", text):
        raise ValueError(f"expected one to three numbers from 1, as 2 or 1,3,2, got {text!r}")
    return tuple(int(part) for part in text.split(","))


def channel_names(channels: Sequence[int], count: int) -> str:
    """As "channel 2 of 3", "channels 1, 3 of 3", "channels 1-3 of 5"."""
    first, last = channels[0], channels[-1]
    if len(channels) == 1:
        return f"channel {first} of {count}"
    if len(channels) == 3 and list(channels) == list(range(first, last + 1)):
        return f"channels {first}-{last} of {count}"
    return f"channels {', '.join(map(str, channels))} of {count}"
