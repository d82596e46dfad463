"""No number that anybody may set is without a least and a most."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import annotated_types
import click
import pytest
from pydantic import BaseModel

from backend.cli import cli as backend_cli
from backend.options import ProjectOptions
from backend.settings import Settings
from training.__main__ import cli as training_cli
from training.config import BOUNDS, BadConfig, TrainConfig
from training.experiments.loop_config import LoopConfig


def numbers(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """The fields that hold a number, perhaps."""
    for name, field in model.model_fields.items():
        if {field.annotation, *get_args(field.annotation)} & {int, float}:
            yield name, field


@pytest.mark.parametrize("model", [ProjectOptions, Settings, LoopConfig])
def test_every_number_has_a_least_and_a_most(model: type[BaseModel]) -> None:
    found = dict(numbers(model))
    assert len(found) >= 8
    for name, field in found.items():
        kinds = {type(each) for each in field.metadata}
        assert kinds >= {annotated_types.Ge, annotated_types.Le}, f"{model.__name__}.{name}"


@pytest.mark.parametrize("model", [ProjectOptions, Settings])
def test_what_is_expected_names_both(model: type[BaseModel]) -> None:
    for name, field in numbers(model):
        least = next(each.ge for each in field.metadata if isinstance(each, annotated_types.Ge))
        most = next(each.le for each in field.metadata if isinstance(each, annotated_types.Le))
        expected = f"from {least} to {most}"
        assert str(field.json_schema_extra["expected"]).endswith(expected), name


def test_every_number_of_a_training_configuration_has_a_least_and_a_most() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    assert set(BOUNDS) == {name for name, value in fields.items() if type(value) in (int, float)}
    config = TrainConfig(("background", "cell"))
    for name, (least, most) in BOUNDS.items():
        kind = type(fields[name])
        for allowed in (least, most):
            made = dataclasses.replace(config, **{name: kind(allowed)})
            assert TrainConfig.from_json(made.to_json()) == made
        beyond = [least - 1, most + 1, 10**15 * most] + [float("nan")] * (kind is float)
        for value in beyond:
            with pytest.raises(BadConfig, match=f"{name} must lie between"):
                dataclasses.replace(config, **{name: kind(value)})


def test_a_saved_configuration_of_steps_without_end_is_refused() -> None:
    saved = json.loads(TrainConfig(("background", "cell")).to_json()) | {"steps": 10**15}
    with pytest.raises(BadConfig, match=re.escape("steps must lie between 1 and 1000000")):
        TrainConfig.from_json(json.dumps(saved))


def options(command: click.Command, name: str) -> Iterator[tuple[str, click.Parameter]]:
    """Of a command and of those within it."""
    for within, each in getattr(command, "commands", {}).items():
        yield from options(each, f"{name} {within}")
    for parameter in command.params:
        yield f"{name} {parameter.opts[0]}", parameter


@pytest.mark.parametrize("command", [backend_cli, training_cli], ids=["backend", "training"])
def test_every_number_on_a_command_line_has_a_least_and_a_most(command: click.Command) -> None:
    ranges = 0
    for name, parameter in options(command, ""):
        kind = parameter.type
        assert type(kind) not in (click.types.IntParamType, click.types.FloatParamType), name
        if isinstance(kind, click.IntRange | click.FloatRange):
            assert None not in (kind.min, kind.max), name
            ranges += 1
    assert ranges >= 5
