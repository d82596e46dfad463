"""What can go wrong between images and versions; each message is a sentence for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class TrainingError(Exception):
    """Base of the package's errors: what was expected, what came, what to do."""


def wrong_fields(error: ValidationError) -> list[str]:
    """For each field that is wrong: its name, what was expected, and what came."""
    return [
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}, got {repr(each['input'])[:60]}"
        for each in error.errors()
    ]
