"""The images of a simulated loop: which are in the pool, which are held back to test on."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.datasets.labelled import Labelled, LabelledFolder, by_hash, read_labelled_folder
from training.examples import Example
from training.experiments.loop_config import BadLoop, Groups, LoopConfig
from training.files import write_atomically
from training.particles.matching import count_particles

START_PREFIX = "start:"
"""Begins the key of an image from the folder that a domain shift starts from."""


@dataclass(frozen=True, eq=False)
class Data:
    """The images of a loop, by key.

    Attributes:
        pool: keys that can be asked for.
        test: keys that quality is measured on.
        start: keys of the folder that a domain shift starts from; empty without one.
    """

    config: LoopConfig
    classes: tuple[str, ...]
    pool: tuple[str, ...]
    test: tuple[str, ...]
    start: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.pool, *self.test, *self.start)

    @property
    def pool_size(self) -> int:
        """Images of the pool that one seed draws from."""
        return min(len(self.pool), self.config.pool or len(self.pool))

    def read(self, key: str) -> Example:
        """Image and truth at the network's resolution."""
        folder, item = self._find(key)
        return folder.read_example(item, key, self.config.max_side_px)

    def read_mask(self, key: str) -> NDArray[np.uint8]:
        """[H, W] class indices as the folder holds them."""
        folder, item = self._find(key)
        return folder.read_mask(item)

    def _find(self, key: str) -> tuple[LabelledFolder, Labelled]:
        root = self.config.start if key.startswith(START_PREFIX) else self.config.data
        assert root is not None  # only a loop with ``start`` has keys with that prefix
        return open_folder(root), _items(root)[key.removeprefix(START_PREFIX)]


@lru_cache(maxsize=4)
def open_folder(root: Path) -> LabelledFolder:
    """``read_labelled_folder``, once per process."""
    return read_labelled_folder(root)


@lru_cache(maxsize=4)
def _items(root: Path) -> dict[str, Labelled]:
    return {item.name: item for item in open_folder(root).items}


def find_data(config: LoopConfig) -> Data:
    """Split the folder into pool and test, the same for every seed and strategy.

    Raises:
        BadLoop: too few images or candidates, or groups that cannot be read.
        BadFolder: a folder is not what it should be.
    """
    if config.candidates < config.query:
        raise BadLoop(
            f"candidates must be at least query, of which they are chosen: got {config.candidates} "
            f"candidates for {config.query} images"
        )
    folder = open_folder(config.data)
    names = [item.name for item in by_hash(folder.items)]
    test = held_back(config.data, names, config.test, config.groups)
    pool = [name for name in names if name not in set(test)]
    start = [] if config.start is None else _start_keys(config, config.start)
    data = Data(config, folder.classes, tuple(pool), tuple(test), tuple(start))
    needed = config.rounds * config.query + (0 if start else config.initial)
    if data.pool_size < needed or (start and len(start) < config.initial):
        raise BadLoop(
            f"{config.rounds} rounds of {config.query} need {needed} images in the pool, and there "
            f"are {data.pool_size}" + (f"; {len(start)} to start with" if start else "")
        )
    return data


def _start_keys(config: LoopConfig, start: Path) -> list[str]:
    if start.resolve() == config.data.resolve():
        raise BadLoop(f"start and data are both {config.data}: a shift starts elsewhere")
    folder, classes = open_folder(start), open_folder(config.data).classes
    if folder.classes != classes:
        raise BadLoop(
            f"{start} has the classes {', '.join(folder.classes)}, {config.data} has "
            f"{', '.join(classes)}: a shift needs the same"
        )
    return [START_PREFIX + item.name for item in by_hash(folder.items)]


def held_back(data: Path, names: Sequence[str], test: int, groups: Groups | None) -> list[str]:
    """The images to test on.

    Args:
        data: the labelled folder.
        names: of its images, in the order of ``by_hash``.
        test: how many; with groups, the most.
        groups: those of which whole ones are held back.

    Raises:
        BadLoop: too few images, or groups that cannot be read or held back.
    """
    if groups is None:
        if test >= len(names):
            raise BadLoop(f"{data} holds {len(names)} images: {test} are too many to hold back")
        return list(names[:test])
    path = data / groups.file
    group_of = _read_groups(path, groups, names)
    known = sorted(
        set(group_of.values()), key=lambda group: hashlib.sha256(group.encode()).hexdigest()
    )
    if groups.test:
        unknown = sorted(set(groups.test) - set(known))
        if unknown:
            raise BadLoop(f"{path} has no group {', '.join(unknown)}")
        return [name for name in names if group_of[name] in groups.test]
    found: list[str] = []
    for group in known:
        members = [name for name in names if group_of[name] == group]
        if len(found) + len(members) <= test:
            found += members
    if not found:
        raise BadLoop(f"no group of {path} has at most {test} images: raise test")
    return found


def _read_groups(path: Path, groups: Groups, names: Sequence[str]) -> dict[str, str]:
    """Image name to group, for at least these names."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        group_of = {next(iter(row.values())): row[groups.column] for row in rows}
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise BadLoop(
            f"{path} must be a CSV file with image names first and a column "
            f"{groups.column!r}: {error!r}"
        ) from error
    # The reader gives None for the fields that a short row lacks.
    short = [name for name, group in group_of.items() if group is None]
    if short:
        raise BadLoop(f"{path} has no {groups.column} in the row of {short[0]}")
    missing = [name for name in names if name not in group_of]
    if missing:
        raise BadLoop(f"{path} has no row for {len(missing)} images, the first is {missing[0]}")
    return group_of


@lru_cache(maxsize=2)
def particles_of(folder: Path, data: Data) -> dict[str, int]:
    """Key to the connected particles that a person would draw in it; counted once per run."""
    kept = folder / "particles.json"
    if kept.exists():
        found: dict[str, int] = json.loads(kept.read_text())
        if found.keys() == set(data.keys):
            return found
    found = {key: count_particles(data.read_mask(key)) for key in data.keys}
    write_atomically(kept, json.dumps(found).encode())
    return found
