"""Fields of settings and options whose table row and refusal come from one place."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

MOST = 1_000_000
"""Of whatever is counted: more images or annotations than anybody has mean all of them."""


def documented(default: object, meaning: str, expected: str, shown: str = "", **more: Any) -> Any:
    """A field of a pydantic model.

    Args:
        meaning: a sentence or two for the table.
        expected: what a value must be, for ``NAME must be EXPECTED, got VALUE.``
        shown: the default as the table shows it, where it is not the default itself.
        more: pydantic's own, such as ``ge``.
    """
    extra: JsonDict = {"expected": expected, "shown": shown or str(default)}
    return Field(default, description=meaning, json_schema_extra=extra, **more)


def whole_number(default: int | None, meaning: str, most: int, shown: str = "") -> Any:
    """A field for a number from 1 to ``most``."""
    return documented(default, meaning, f"an integer from 1 to {most}", shown, ge=1, le=most)


def expected_value(field: FieldInfo) -> str:
    """What a value of this field must be."""
    return _extra(field, "expected")


def shown_default(field: FieldInfo) -> str:
    """The default as the table shows it."""
    return _extra(field, "shown")


def _extra(field: FieldInfo, name: str) -> str:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)  # as documented made it
    return str(extra[name])
