"""What mkdocs asks of us while it builds the site (mkdocs.yml)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

MENTION = re.compile(r"(?<![\w/\[`(])docs/([A-Z_]+\.md)\b")
"""``docs/LABELS.md`` in a sentence, as all documents and messages name each other."""

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[\w./-]+\)")
"""A link to a file beside docs/, such as the README, which a code host shows and the site lacks."""

LOADED = {"src", "srcset", "poster", "data", "background"}
"""Attributes whose address a browser fetches by itself; ``href`` too, but for links to click."""

CSS_URL = re.compile(r"(?:url\(|@import)\s*['\"]?([^'\")\s;]+)")


def on_page_markdown(markdown: str, **_given: Any) -> str:
    """Make links of the documents that a page names, and text of links that leave docs/."""
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [MENTION.sub(r"[docs/\1](\1)", OUTSIDE.sub(r"\1", part)) for part in parts[::2]]
    return "".join(parts)


def on_post_build(config: Any, **_given: Any) -> None:
    """Refuse a site that would fetch anything from another host.

    Raises:
        PluginError: it names each file and address.
    """
    from mkdocs.exceptions import PluginError  # the tests read this file without mkdocs

    found = list(loaded_from_elsewhere(Path(config["site_dir"])))
    if found:
        raise PluginError("The site would load from other hosts:\n" + "\n".join(found))


def loaded_from_elsewhere(site: Path) -> Iterator[str]:
    """``file: address`` for each address of another host that a browser would fetch by itself.

    Scripts are not read: the policy in overrides/main.html keeps them from other hosts.
    """
    for path in sorted(site.rglob("*")):
        if path.suffix in {".html", ".css", ".svg"}:
            text = path.read_text(encoding="utf-8")
            addresses = [*_Loading(text).addresses, *CSS_URL.findall(text)]
            yield from (f"{path.relative_to(site)}: {each}" for each in addresses if _leaves(each))


def _leaves(address: str) -> bool:
    return re.match(r"(?:[a-z][a-z0-9+.-]*:)?//", address, re.IGNORECASE) is not None


class _Loading(HTMLParser):
    """The addresses in a page that a browser fetches without a click."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            fetched = name in LOADED or (name == "href" and tag not in {"a", "area"})
            if fetched and value:
                self.addresses += [part.split()[0] for part in value.split(",") if part.strip()]
