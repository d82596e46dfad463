"""A read model as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

Json = dict[str, Any]

_OLD_KEYS = {"uncertainty": "doubt"}
"""Fields that scripts read under an older word."""


def to_json(model: object) -> Any:
    """A dataclass as an object with a key for each field, and likewise all within it."""
    if is_dataclass(model):
        return {
            _OLD_KEYS.get(each.name, each.name): to_json(getattr(model, each.name))
            for each in fields(model)
        }
    if isinstance(model, Mapping):
        return {key: to_json(value) for key, value in model.items()}
    if isinstance(model, list | tuple):
        return [to_json(value) for value in model]
    return model
