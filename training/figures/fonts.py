"""Fonts for any script's letters, of those that this machine has; nothing is downloaded.

What no font can draw is never drawn as boxes: a class is named by its index, other text shows code
points, and a sentence says so.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

INVISIBLE = frozenset(("Cc", "Cf", "Zs", "Zl", "Zp"))
"""Categories of characters that need no glyph."""

ADVICE = "install one, such as Noto (Debian: fonts-noto-core, fonts-noto-cjk)"


@dataclass(frozen=True)
class Fonts:
    """What draws some texts.

    Attributes:
        files: the fonts, the first preferred; a character is drawn by the first that has it.
        missing: characters that none of them has.
    """

    files: tuple[Path, ...]
    missing: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Fonts:
        """The fewest fonts, matplotlib's own first, that together have the texts' letters."""
        return _fonts_of(frozenset("".join(texts)))

    def has(self, text: str) -> bool:
        """Whether every letter can be drawn."""
        return self.missing.isdisjoint(text)

    def readable(self, text: str) -> str:
        """The text, with code points such as ``U+4E2D`` for the letters that cannot be drawn."""
        if self.has(text):
            return text
        return "".join(f"[U+{ord(c):04X}]" if c in self.missing else c for c in text)

    def class_names(self, classes: Sequence[str]) -> list[str]:
        """Each name, or "class 3" for the class index where it cannot be drawn."""
        return [name if self.has(name) else f"class {i}" for i, name in enumerate(classes)]

    def note(self, classes: Sequence[str]) -> str:
        """What stands below a picture with names that could not be drawn; else empty."""
        if not self.missing:
            return ""
        gone = [i for i, name in enumerate(classes) if not self.has(name)]
        if not gone:
            return f"No font here has the letters that stand as [U+...]: {ADVICE}."
        numbers = ", ".join(map(str, gone[:10])) + ", ..." * (len(gone) > 10)
        return f"No font here has the letters of class {numbers}: {ADVICE}."

    def runs(self, text: str) -> Iterator[tuple[str, Path]]:
        """The text in pieces that one font each can draw."""
        before = self.files[0]
        chosen = []
        for character in text:
            if unicodedata.category(character) not in INVISIBLE and not unicodedata.combining(
                character
            ):
                before = next((file for file in self.files if _has(file, character)), self.files[0])
            chosen.append((character, before))
        for file, pairs in groupby(chosen, key=lambda pair: pair[1]):
            yield "".join(character for character, _ in pairs), file

    @cached_property
    def families(self) -> list[str]:
        """Their names, made known to matplotlib."""
        from matplotlib.font_manager import FontProperties, fontManager

        known = {entry.fname for entry in fontManager.ttflist}
        for file in self.files:
            if str(file) not in known:
                fontManager.addfont(file)
        return [FontProperties(fname=file).get_name() for file in self.files]


@lru_cache(maxsize=16)
def _fonts_of(characters: frozenset[str]) -> Fonts:
    import matplotlib

    own = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    files = [own]
    needed = {
        c for c in characters if unicodedata.category(c) not in INVISIBLE and not _has(own, c)
    }
    if needed:
        for file in _installed():
            found = {c for c in needed if _has(file, c)}
            if found:
                files.append(file)
                needed -= found
            if not needed:
                break
    if needed:
        shown = "".join(sorted(needed)[:20])
        log.warning("no font here has the letters %s: %s", shown, ADVICE)
    return Fonts(tuple(files), frozenset(needed))


def _installed() -> list[Path]:
    """Fonts that fontconfig and the usual folders know: Noto's first, plain ones before others."""
    from matplotlib.font_manager import findSystemFonts

    def order(file: Path) -> tuple[bool, bool, bool, str]:
        name = file.name.lower()
        return "noto" not in name, "sans" not in name, "regular" not in name, str(file)

    return sorted(map(Path, findSystemFonts()), key=order)


def _has(file: Path, character: str) -> bool:
    font = _opened(file)
    return font is not None and font.get_char_index(ord(character)) != 0


@lru_cache(maxsize=512)
def _opened(file: Path) -> Any:
    """The font; None if it cannot be read or drawn at any size."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(str(file))
    except (OSError, RuntimeError):
        return None
    return font if font.scalable else None
