"""The path by which a person knows a task's image, from the address that its task holds."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import parse_qs, unquote, urlsplit

# Label Studio sets eight characters of a random name before each file that is uploaded.
_UPLOADED = re.compile(r"(?:^|/)upload/\d+/(?:[0-9a-f]{8}-)?([^/]+)$")
# Where its other addresses name a file.
_PARAMETERS = ("d", "filepath", "fileuri")


def image_path(url: str) -> str:
    """``folder/name.png`` of an address; "" where it names no file, as within a ``data:`` address.

    What Label Studio adds is left out: its own folders, and what it sets before a file's name. The
    path leads nowhere up, but may hold any other character: it names, and opens nothing.
    """
    if url[:5].lower() == "data:":
        return ""
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
    except ValueError:
        return ""
    path = unquote(parts.path)
    for name in _PARAMETERS:
        if value := query.get(name, [""])[0]:
            path = _from_storage(value) if name == "fileuri" else value
    if (uploaded := _UPLOADED.search(path)) is not None:
        path = uploaded[1]
    steps = re.split(r"[/\\]", path)
    return "/".join(step for step in steps if step.strip(" .") and step not in (".", ".."))


def _from_storage(text: str) -> str:
    """The path within a bucket of what ``images.resolved`` wraps up."""
    try:
        address = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        return unquote(urlsplit(address).path)
    except (binascii.Error, ValueError):
        return ""


def same_name(name: str) -> str:
    """A file's name as Label Studio keeps it, which takes spaces and most signs out of uploads."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def without_ending(path: str) -> str:
    """A path without the ending of its last name."""
    return re.sub(r"(?<=[^/])\.[^./]*$", "", path)
