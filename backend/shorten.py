"""What came, short and on one line, for a sentence that says why it was not taken."""

from __future__ import annotations

from reprlib import Repr


class _Shortener(Repr):
    """``repr`` that stops, at depths, lengths and numbers that cost more than the sentence."""

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out more than some 4,000 digits.
        return repr(x) if x.bit_length() <= 256 else f"an integer of {x.bit_length()} bits"


_shortener = _Shortener()
_shortener.maxlevel = 3
_shortener.maxstring = 100


def shorten(value: object, most: int = 60) -> str:
    """``value`` as Python writes it, in at most so many characters."""
    return short(_shortener.repr(value), most)


def short(text: str, most: int) -> str:
    """``text`` in at most so many characters, each of which can be printed and encoded."""
    text = text[: most + 1]
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."
