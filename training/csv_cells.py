"""Cells of CSV tables that people open in a spreadsheet."""

from __future__ import annotations

from contextlib import suppress

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet may run as a formula."""


def plain_cell(text: str) -> str:
    """The text, behind an apostrophe where a spreadsheet would take it for a formula."""
    if not text.startswith(FORMULAS):
        return text
    with suppress(ValueError):
        float(text)
        return text
    return f"'{text}"
