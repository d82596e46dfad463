"""The YAML file of ``python -m training loop``: its fields, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import TrainingError, wrong_fields
from training.experiments.strategy import FULL, Strategy, strategy_of


class BadLoop(TrainingError):
    """A loop that cannot be run: what was expected, and what came."""


class Groups(BaseModel):
    """Images that belong together, such as those of one session. Whole groups are held back.

    Attributes:
        file: a CSV file in the folder, image names in its first column.
        column: the one that names the group.
        test: the groups to hold back. Without it, groups are taken in the order of a hash of their
            names while they hold no more images together than ``test`` of the run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    column: str
    test: list[str] = Field(default_factory=list)


class LoopConfig(BaseModel):
    """What ``python -m training loop`` reads from its YAML file; docs/ACQUISITION.md has the
    fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = ""
    data: Path
    start: Path | None = None
    groups: Groups | None = None
    test: int = Field(40, ge=1, le=100_000)
    pool: int | None = Field(None, ge=1, le=100_000)
    learner: str = Field("probe", pattern="^(probe|network)$")
    strategies: list[str | dict[str, Any]] = Field(min_length=1)
    seeds: int = Field(10, ge=1, le=10_000)
    initial: int = Field(10, ge=2, le=100_000)
    initial_by: str = Field("random", pattern="^(random|diverse)$")
    query: int = Field(10, ge=1, le=100_000)
    rounds: int = Field(6, ge=1, le=10_000)
    candidates: int = Field(300, ge=1, le=100_000)
    members: int = Field(5, ge=2, le=20)
    max_side_px: int = Field(1024, ge=64, le=65_535)
    full: bool = True
    network: dict[str, Any] = Field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON, to keep beside the results."""
        return self.model_dump(mode="json")

    def strategies_by_name(self) -> dict[str, Strategy]:
        """In the order of the file."""
        return {each.name: each for each in map(strategy_of, self.strategies)}

    def last_round(self, strategy: str) -> int:
        """The number of a path's last round; the whole pool is labelled in round 0."""
        return 0 if strategy == FULL else self.rounds


def read_config(path: Path) -> LoopConfig:
    """A loop's configuration; paths in it are relative to its own folder.

    Raises:
        BadLoop: it cannot be read, or a sentence for each field that is wrong.
        UnknownStrategy: a strategy is not known.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadLoop(f"{path} must be a YAML file: {error}") from error
    if not isinstance(given, dict):
        raise BadLoop(f"{path} must hold fields and values, got {type(given).__name__}")
    try:
        config = LoopConfig.model_validate(given)
    except ValidationError as error:
        raise BadLoop("\n".join(f"{path}: {line}" for line in wrong_fields(error))) from error
    names = [strategy_of(each).name for each in config.strategies]
    if len(set(names)) != len(names) or FULL in names:
        raise BadLoop(f"{path}: strategies need names of their own, got {', '.join(names)}")
    here = path.parent
    return config.model_copy(
        update={
            "data": here / config.data,
            "start": None if config.start is None else here / config.start,
        }
    )
