"""Who may write into a run's folder: one loop at a time, and only the loop that began it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from glob import escape
from pathlib import Path
from typing import Any

from acquisition.queue import Rule
from training.experiments.loop_config import BadLoop, LoopConfig
from training.experiments.loop_data import Data, open_folder
from training.experiments.runs import Settings
from training.experiments.strategy import Strategy
from training.files import locked as one_at_a_time
from training.files import write_atomically


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second loop out: the lines of two would mix.

    Raises:
        BadLoop: another loop is at work in this folder.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(one_at_a_time(folder))
        except BlockingIOError as error:
            raise BadLoop(
                f"another loop is at work in {folder}: wait for its end, or stop it"
            ) from error
        yield


def claim(folder: Path, config: LoopConfig, data: Data) -> None:
    """Write config.json and run.json beside the results.

    Raises:
        BadLoop: the folder holds results of another loop, of a strategy that is defined otherwise
            now, or of images that have changed.
    """
    path = folder / "config.json"
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    _check_same_loop(folder, config, before)
    digest = _digest(config)
    _check_same_files(folder, config, before, digest)
    strategies = config.strategies_by_name()
    definitions: dict[str, Any] = before.get("definitions", {})
    _check_same_strategies(folder, strategies, definitions)
    definitions |= {name: asdict(strategy) for name, strategy in strategies.items()}
    kept = config.to_json() | {"definitions": definitions, "files": digest}
    write_atomically(path, json.dumps(kept, indent=2).encode())
    settings = Settings(
        title=config.title or config.data.name,
        data=config.data.resolve(),
        start=None if config.start is None else str(config.start.resolve()),
        classes=data.classes,
        strategies=tuple(strategies),
        seeds=tuple(range(config.seeds)),
        initial=config.initial,
        query=config.query,
        rounds=config.rounds,
        pool=data.pool_size,
        test=len(data.test),
        learner=config.learner,
    )
    write_atomically(folder / "run.json", settings.model_dump_json(indent=2).encode())


def _check_same_loop(folder: Path, config: LoopConfig, before: Mapping[str, Any]) -> None:
    now = config.to_json()
    differ = [name for name in now if before and before.get(name) != now[name]]
    # More strategies or seeds only add paths.
    if set(differ) - {"strategies", "seeds", "title", "full"}:
        raise BadLoop(
            f"{folder} holds the results of another loop ({', '.join(differ)} differ): name "
            "another folder, or delete it"
        )


def _check_same_files(
    folder: Path, config: LoopConfig, before: Mapping[str, Any], digest: str
) -> None:
    # A run from before the digest was kept is taken as it is.
    if before.get("files", digest) != digest:
        raise BadLoop(
            f"images, masks, classes or groups in {config.data}"
            + ("" if config.start is None else f" or {config.start}")
            + f" have changed since {folder} was begun, and its features and results are of what "
            "was there: name another folder, or delete it"
        )


def _check_same_strategies(
    folder: Path, strategies: Mapping[str, Strategy], definitions: Mapping[str, Any]
) -> None:
    for name, strategy in strategies.items():
        paths = f"{escape(name)}-[0-9]*.jsonl"
        begun = any((folder / "paths").glob(paths))
        if begun and name in definitions and not _same(strategy, definitions[name]):
            raise BadLoop(
                f"{folder} holds results of another strategy {name} ({definitions[name]}): call "
                f"the new one by another name, or delete {folder / 'paths' / paths}"
            )


def _same(strategy: Strategy, definition: Mapping[str, Any]) -> bool:
    """Whether a kept definition is this strategy. Fields that it lacks have their defaults."""
    try:
        return strategy == Strategy(**{**definition, "rule": Rule(**definition["rule"])})
    except (TypeError, KeyError, ValueError):  # it has fields that no longer exist
        return False


def _digest(config: LoopConfig) -> str:
    """Of the names, sizes and times of all files that a loop reads: cheap, and changed by an
    edit."""
    files = []
    for root in filter(None, (config.data, config.start)):
        files.append(root / "classes.txt")
        files += [path for item in open_folder(root).items for path in (item.image, item.mask)]
    if config.groups is not None:
        files.append(config.data / config.groups.file)
    digest = hashlib.sha256()
    for path in files:
        found = path.stat()
        digest.update(f"{path.name}/{found.st_size}/{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
