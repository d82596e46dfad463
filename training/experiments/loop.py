"""Active learning simulated on a labelled folder: which strategy teaches a committee fastest.

A *path* is one strategy with one seed: an initial set, then so many rounds in which the strategy
chooses, the truth answers and the committee is trained anew. Every round is one line of JSON,
written when it is done, from which an interrupted path goes on.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from glob import escape
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from acquisition.adaptive import Evidence, Trust, trust, weights_of
from acquisition.masks import UNKNOWN
from acquisition.queue import Rule, farthest_first
from training.committee.inference import Committee, Prediction
from training.committee.registry import load_weights, save_weights
from training.config import BadConfig, TrainConfig
from training.datasets.labelled import Labelled, LabelledFolder, by_hash, read_labelled_folder
from training.errors import TrainingError, wrong_fields
from training.examples import Example, images_showing
from training.experiments.ablation import read_results
from training.experiments.probe import (
    STRIDE,
    Features,
    ProbeCommittee,
    fit_probe,
    keep_features,
    load_features,
)
from training.experiments.strategy import Candidates, Strategy, choose, strategy_of
from training.files import write_atomically
from training.fitting.fit import fit_member
from training.fitting.folds import training_keys
from training.networks.build import Weights
from training.process_pool import process_pool
from training.quality.assessment import assess
from training.quality.distance import UncertaintyByDistance, uncertainty_by_distance
from training.quality.quality import Quality

ALL = "all"
"""The strategy that labels the whole pool at once: what there is to reach."""

TEST_PX = 2000
"""Pixels of each test image that calibration is measured on."""

OTHER = "start:"
"""Begins the key of an image of the folder that a domain shift starts from."""

KEPT_IMAGES = 256
"""Decoded images that a process holds: all that a small loop reads again and again, and at most a
gigabyte of large ones."""


class BadLoop(TrainingError):
    """A loop that cannot be run: what was expected, and what came."""


class Groups(BaseModel):
    """Images that belong together, as those of one session do: whole groups are held back.

    Attributes:
        file: a CSV file in the folder, image names in its first column.
        column: the one that names the group.
        test: the groups to hold back; by default as many as hold ``LoopConfig.test`` images at
            most, by a hash of their names.
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
    test: int = Field(40, ge=1)
    pool: int | None = Field(None, ge=1)
    learner: str = Field("probe", pattern="^(probe|network)$")
    strategies: list[str | dict[str, Any]] = Field(min_length=1)
    seeds: int = Field(10, ge=1)
    initial: int = Field(10, ge=2)
    initial_by: str = Field("random", pattern="^(random|diverse)$")
    query: int = Field(10, ge=1)
    rounds: int = Field(6, ge=1)
    candidates: int = Field(300, ge=1)
    members: int = Field(5, ge=2, le=20)
    max_side_px: int = Field(1024, ge=64)
    full: bool = True
    network: dict[str, Any] = Field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON, to keep beside the results."""
        return self.model_dump(mode="json")


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
    if len(set(names)) != len(names) or ALL in names:
        raise BadLoop(f"{path}: strategies need names of their own, got {', '.join(names)}")
    here = path.parent
    return config.model_copy(
        update={
            "data": here / config.data,
            "start": None if config.start is None else here / config.start,
        }
    )


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

    def read(self, key: str) -> Example:
        """Image and truth at the network's resolution."""
        folder, item = self._find(key)
        return folder.read_example(item, key, self.config.max_side_px)

    def read_mask(self, key: str) -> NDArray[np.uint8]:
        """[H, W] class indices as the folder holds them."""
        folder, item = self._find(key)
        return folder.read_mask(item)

    def _find(self, key: str) -> tuple[LabelledFolder, Labelled]:
        root = self.config.start if key.startswith(OTHER) else self.config.data
        assert root is not None  # else there is no key that begins so
        return _folder(root), _items(root)[key.removeprefix(OTHER)]


@lru_cache(maxsize=4)
def _folder(root: Path) -> LabelledFolder:
    return read_labelled_folder(root)


@lru_cache(maxsize=4)
def _items(root: Path) -> dict[str, Labelled]:
    return {item.name: item for item in _folder(root).items}


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
    folder = _folder(config.data)
    names = [item.name for item in by_hash(folder.items)]
    test = _test_names(config, names)
    pool = [name for name in names if name not in set(test)]
    start: list[str] = []
    if config.start is not None:
        if config.start.resolve() == config.data.resolve():
            raise BadLoop(f"start and data are both {config.data}: a shift starts elsewhere")
        other = _folder(config.start)
        if other.classes != folder.classes:
            raise BadLoop(
                f"{config.start} has the classes {', '.join(other.classes)}, {config.data} has "
                f"{', '.join(folder.classes)}: a shift needs the same"
            )
        start = [OTHER + item.name for item in by_hash(other.items)]
    needed = config.rounds * config.query + (0 if start else config.initial)
    there = min(len(pool), config.pool or len(pool))
    if there < needed or (start and len(start) < config.initial):
        raise BadLoop(
            f"{config.rounds} rounds of {config.query} need {needed} images in the pool, and there "
            f"are {there}" + (f"; {len(start)} to start with" if start else "")
        )
    return Data(config, folder.classes, tuple(pool), tuple(test), tuple(start))


def _test_names(config: LoopConfig, names: Sequence[str]) -> list[str]:
    if config.groups is None:
        if config.test >= len(names):
            raise BadLoop(f"{config.data} holds {len(names)} images: {config.test} are too many")
        return list(names[: config.test])
    path = config.data / config.groups.file
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        group_of = {next(iter(row.values())): row[config.groups.column] for row in rows}
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise BadLoop(
            f"{path} must be a CSV file with image names first and a column "
            f"{config.groups.column!r}: {error!r}"
        ) from error
    # The reader gives None for the fields that a short row lacks.
    short = [name for name, group in group_of.items() if group is None]
    if short:
        raise BadLoop(f"{path} has no {config.groups.column} in the row of {short[0]}")
    missing = [name for name in names if name not in group_of]
    if missing:
        raise BadLoop(f"{path} says nothing of {len(missing)} images, the first is {missing[0]}")
    groups = sorted(
        set(group_of.values()), key=lambda group: hashlib.sha256(group.encode()).hexdigest()
    )
    if config.groups.test:
        unknown = sorted(set(config.groups.test) - set(groups))
        if unknown:
            raise BadLoop(f"{path} has no group {', '.join(unknown)}")
        return [name for name in names if group_of[name] in config.groups.test]
    test: list[str] = []
    for group in groups:
        members = [name for name in names if group_of[name] == group]
        if len(test) + len(members) <= config.test:
            test += members
    if not test:
        raise BadLoop(f"no group of {path} has at most {config.test} images: raise test")
    return test


class Predictor(Protocol):
    """A trained committee that looks at images by key."""

    def predict(self, key: str) -> Prediction:
        """All that it sees."""

    def predict_classes(self, key: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The mean probabilities [C, h, w] and the classes [h, w] only, where that is quicker."""


class Learner(Protocol):
    """Trains committees on the images of a loop.

    Attributes:
        features: key to [F] float32 of the pretrained encoder.
    """

    features: Mapping[str, NDArray[np.float32]]

    def truth(self, key: str) -> NDArray[np.uint8]:
        """[h, w] class indices at the resolution of its looks."""

    def fit(self, keys: Sequence[str], seed: int) -> Predictor:
        """A committee that has seen these."""


class ProbeLearner:
    """Heads on kept features (``training.experiments.probe``)."""

    def __init__(self, data: Data, features: Features) -> None:
        self._data, self._features = data, features
        self.features = features.image

    def truth(self, key: str) -> NDArray[np.uint8]:
        return self._features.truth[key]

    def fit(self, keys: Sequence[str], seed: int) -> ProbeCommittee:
        C = len(self._data.classes)
        return fit_probe(self._features, keys, C, self._data.config.members, seed)


class NetworkLearner:
    """The networks that serve live, trained and calibrated as a round does it."""

    def __init__(self, data: Data, features: Features, scratch: Path) -> None:
        self._data, self._scratch = data, scratch
        self.features = features.image
        self._read = lru_cache(maxsize=KEPT_IMAGES)(data.read)

    def truth(self, key: str) -> NDArray[np.uint8]:
        return self._read(key).mask

    def fit(self, keys: Sequence[str], seed: int) -> Predictor:
        config = train_config(self._data, seed)
        examples = [self._read(key) for key in sorted(keys)]
        weights = [self._member(examples, config, member) for member in range(config.members)]
        committee = assess(weights, config, examples, device=torch.device("cpu")).committee
        return _NetworkPredictor(committee, self._read)

    def _member(self, examples: Sequence[Example], config: TrainConfig, member: int) -> Weights:
        """Trained once: all strategies begin with the same committee, and a path that goes on
        needs its last one again."""
        said = json.dumps([config.to_json(), member, [each.key for each in examples]])
        path = self._scratch / f"{hashlib.sha256(said.encode()).hexdigest()[:24]}.safetensors"
        if path.exists():
            return load_weights(path.read_bytes())
        weights, _ = fit_member(examples, config, member, device=torch.device("cpu"))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save_weights(weights))
        return weights


@dataclass(frozen=True)
class _NetworkPredictor:
    committee: Committee
    read: Callable[[str], Example]

    def predict(self, key: str) -> Prediction:
        return self.committee.predict(self.read(key).image)

    def predict_classes(self, key: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        prediction = self.predict(key)
        return prediction.probs, prediction.predicted


def train_config(data: Data, seed: int) -> TrainConfig:
    """The networks' configuration.

    Raises:
        BadLoop: the loop's ``network`` holds what no configuration has.
    """
    config = data.config
    _check_network(config.network)
    try:
        return TrainConfig(
            data.classes,
            members=config.members,
            seed=seed,
            max_side_px=config.max_side_px,
            **{"threads": 1, **config.network},
        )
    except BadConfig as error:
        raise BadLoop(f"network: {error}") from error


def _check_network(given: Mapping[str, Any]) -> None:
    own = {"classes", "members", "seed", "max_side_px"}
    kinds = {each.name: type(each.default) for each in fields(TrainConfig) if each.name not in own}
    for name, value in given.items():
        kind = kinds.get(name)
        if kind is None:
            raise BadLoop(f"network: {name} is none of {', '.join(kinds)}")
        sound = type(value) in (int, float) if kind is float else type(value) is kind
        if not sound:
            raise BadLoop(f"network: {name} must be of type {kind.__name__}, got {value!r}")


def run(
    config: LoopConfig, folder: Path, workers: int, progress: Callable[[str, int, int], None]
) -> None:
    """Run every path that is not done, several side by side; each writes lines of its own.

    Args:
        config: what to run.
        folder: where the results are kept; made if need be.
        workers: paths side by side, each with one thread.
        progress: called with what is going on, how much of it is done, and of how much.

    Raises:
        BadLoop: see ``find_data``; no test image shows a class; a seed's first images leave a
            member nothing; or the folder holds results of another loop, strategy or image.
    """
    data = find_data(config)
    if config.learner == "network":
        train_config(data, 0)
    if not any(np.isin(data.read_mask(key), (0, UNKNOWN), invert=True).any() for key in data.test):
        raise BadLoop(
            f"none of the {len(data.test)} test images of {config.data} shows a class but "
            "background, so there is no quality to measure: hold back others"
        )
    strategies = _strategies(config)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _claim(folder, config, data, strategies)
        keep_features(
            folder / "features",
            data.keys,
            data.read,
            workers,
            lambda done: progress("features", done, len(data.keys)),
        )
        if config.initial_by == "diverse":
            # A seed that cannot begin is told now, not when its turn comes after hours.
            for seed in range(config.seeds):
                Walk(config, folder, ALL, seed, []).initial()
        names = [*strategies, *([ALL] if config.full else [])]
        paths = [(name, seed) for seed in range(config.seeds) for name in names]
        lines = sum(1 if name == ALL else config.rounds + 1 for name, _ in paths)
        _side_by_side(
            [partial(follow, config, folder, *path) for path in paths],
            workers,
            lambda: progress(
                "rounds", sum(_count(lines_of(folder, *path)) for path in paths), lines
            ),
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two loops would write their rounds between each other's.

    Raises:
        BadLoop: another one is at work in this folder.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadLoop(
                f"another loop is at work in {folder}: wait for its end, or stop it"
            ) from error
        yield


def _side_by_side(
    tasks: Sequence[Callable[[], None]], workers: int, tick: Callable[[], None]
) -> None:
    """Call all tasks in so many processes, and ``tick`` every second; the first error ends all."""
    others = set(multiprocessing.active_children())
    executor = process_pool(workers)
    try:
        waiting = {executor.submit(task) for task in tasks}
        while waiting:
            done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            tick()
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        # A path goes on from its last whole line, and one of networks may take hours to its end.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    executor.shutdown()


def _count(path: Path) -> int:
    """Lines in a file; none if it is not there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _claim(
    folder: Path, config: LoopConfig, data: Data, strategies: Mapping[str, Strategy]
) -> None:
    """Write what is run beside its results, or refuse a folder whose results are of another loop,
    of a strategy that has been defined anew, or of images that have changed."""
    kept, said = folder / "config.json", config.to_json()
    before: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    differ = [name for name in said if before and before.get(name) != said[name]]
    # More strategies or seeds only add paths.
    if set(differ) - {"strategies", "seeds", "title", "full"}:
        raise BadLoop(
            f"{folder} holds the results of another loop ({', '.join(differ)} differ): name "
            "another folder, or delete it"
        )
    # A run of before these two were kept is taken as it is.
    digest = _digest(config)
    if before.get("files", digest) != digest:
        raise BadLoop(
            f"images, masks, classes or groups in {config.data}"
            + ("" if config.start is None else f" or {config.start}")
            + f" have changed since {folder} was begun, and its features and results are of what "
            "was there: name another folder, or delete it"
        )
    definitions: dict[str, Any] = before.get("definitions", {})
    for name, strategy in strategies.items():
        paths = f"{escape(name)}-[0-9]*.jsonl"
        there = any((folder / "paths").glob(paths))
        if there and name in definitions and not _same(strategy, definitions[name]):
            raise BadLoop(
                f"{folder} holds results of another strategy {name} ({definitions[name]}): call "
                f"the new one by another name, or delete {folder / 'paths' / paths}"
            )
    definitions |= {name: asdict(strategy) for name, strategy in strategies.items()}
    kept_too = {"definitions": definitions, "files": digest}
    write_atomically(kept, json.dumps(said | kept_too, indent=2).encode())
    told = {
        "title": config.title or config.data.name,
        "data": str(config.data.resolve()),
        "start": None if config.start is None else str(config.start.resolve()),
        "classes": data.classes,
        "strategies": list(strategies),
        "seeds": list(range(config.seeds)),
        "initial": config.initial,
        "query": config.query,
        "rounds": config.rounds,
        "pool": min(len(data.pool), config.pool or len(data.pool)),
        "test": len(data.test),
        "learner": config.learner,
    }
    write_atomically(folder / "run.json", json.dumps(told, indent=2).encode())


def _same(strategy: Strategy, definition: Mapping[str, Any]) -> bool:
    """Whether a kept definition is this strategy; what it does not say is as it is by default."""
    try:
        return strategy == Strategy(**{**definition, "rule": Rule(**definition["rule"])})
    except (TypeError, KeyError, ValueError):  # it has fields that there are no more
        return False


def _digest(config: LoopConfig) -> str:
    """Of the names, sizes and times of all files that a loop reads: cheap, and changed by an
    edit."""
    files = []
    for root in filter(None, (config.data, config.start)):
        files.append(root / "classes.txt")
        files += [path for item in _folder(root).items for path in (item.image, item.mask)]
    if config.groups is not None:
        files.append(config.data / config.groups.file)
    said = hashlib.sha256()
    for path in files:
        found = path.stat()
        said.update(f"{path.name}/{found.st_size}/{found.st_mtime_ns}\n".encode())
    return said.hexdigest()


def lines_of(folder: Path, strategy: str, seed: int) -> Path:
    """The file of one path's lines."""
    return folder / "paths" / f"{strategy}-{seed}.jsonl"


def follow(config: LoopConfig, folder: Path, strategy: str, seed: int) -> None:
    """One path, from where it stands to its end."""
    path = lines_of(folder, strategy, seed)
    found = read_results(path)
    # Whatever became of the file, what is not the next round is none.
    lines = [
        line for _, line in takewhile(lambda each: each[1]["round"] == each[0], enumerate(found))
    ]
    last = 0 if strategy == ALL else config.rounds
    if len(lines) > last:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A line that a kill cut off must not run into the next.
    write_atomically(path, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    walk = Walk(config, folder, strategy, seed, lines)
    for number in range(len(lines), last + 1):
        line = walk.round(number)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Walk:
    """One strategy with one seed, round by round.

    Args:
        lines: of the rounds that are done.
    """

    def __init__(
        self,
        config: LoopConfig,
        folder: Path,
        strategy: str,
        seed: int,
        lines: Sequence[Mapping[str, Any]],
    ) -> None:
        self.config, self.name, self.seed = config, strategy, seed
        self.strategy = None if strategy == ALL else _strategies(config)[strategy]
        self.data = find_data(config)
        features = load_features(folder / "features")
        self.learner: Learner = (
            ProbeLearner(self.data, features)
            if config.learner == "probe"
            else NetworkLearner(self.data, features, folder / "members")
        )
        self.particles = _particles(folder, self.data)
        rng = np.random.default_rng(seed)
        pool = list(self.data.pool)
        size = config.pool or len(pool)
        self.pool = sorted(rng.permutation(pool)[:size].tolist())
        self.labelled = [key for line in lines for key in line["keys"]]
        self.known = self._showing(self.labelled)
        self.evidence = [Evidence(**each) for line in lines for each in line["evidence"]]
        self.committee: Predictor | None = None

    def round(self, number: int) -> dict[str, Any]:
        """Choose, label, judge, train and test."""
        started = time.perf_counter()
        found = trust(self.evidence)
        weights: Mapping[str, float] | None = None
        judged: list[Evidence] = []
        if self.strategy is None:
            # What a strategy would hold if it asked for the whole pool.
            begun = self.initial() if self.data.start else []
            keys = [*begun, *self.pool]
        elif number == 0:
            keys = self.initial()
        else:
            if self.strategy.mode in ("hedge", "leader"):
                weights = weights_of(self.strategy.mode, found)
            keys, judged = self._ask(self.strategy, number, found)
        self.labelled += keys
        self.known += self._showing(keys)
        self.evidence += judged
        self.committee = self.learner.fit(self.labelled, self.seed)
        line = {
            "strategy": self.name,
            "seed": self.seed,
            "round": number,
            "labelled": len(self.labelled),
            "particles": sum(self.particles[key] for key in self.labelled),
            "known": [bool(count) for count in self.known.tolist()],
            "chosen": [key.removeprefix(OTHER) for key in keys] if self.strategy else [],
            "keys": keys,
            "weights": None if weights is None else dict(weights),
            "leader": found.leader if weights else None,
            "rewards": dict(found.rewards) if weights else None,
            "evidence": [asdict(each) for each in judged],
        }
        line |= self._test(last=number == self.config.rounds)
        line["seconds"] = time.perf_counter() - started
        return line

    def initial(self) -> list[str]:
        """The images that everything begins with, the same for all strategies of a seed.

        Raises:
            BadLoop: they leave a member of the committee nothing to learn from.
        """
        source = list(self.data.start) or self.pool
        generator = torch.Generator().manual_seed(self.seed)
        self._check_teaches(source, "all images that it could begin with")
        if self.config.initial_by == "random":
            keys = self._drawn(source, generator)
            # As live, where a round waits until each member has something to learn from.
            while not self._teaches(keys):
                keys = self._drawn(source, generator)
            return keys
        order = farthest_first(self._features(source), self.config.initial, generator)
        keys = [source[i] for i in order]
        self._check_teaches(keys, f"the {len(keys)} most different images that it begins with")
        return keys

    def _teaches(self, keys: Sequence[str]) -> bool:
        members = self.config.members
        return all(training_keys(keys, members, m) for m in range(members))

    def _check_teaches(self, keys: Sequence[str], which: str) -> None:
        if not self._teaches(keys):
            raise BadLoop(
                f"seed {self.seed}: {which} are held back from one and the same member, which is "
                "left with nothing to learn from: raise initial, or members"
            )

    def _drawn(self, source: Sequence[str], generator: torch.Generator) -> list[str]:
        order = torch.randperm(len(source), generator=generator)
        return [source[i] for i in order[: self.config.initial].tolist()]

    def _ask(
        self, strategy: Strategy, number: int, found: Trust
    ) -> tuple[list[str], list[Evidence]]:
        """What the strategy chooses, and how the committee's doubt fared there."""
        rng = np.random.default_rng([self.seed, number])
        left = sorted(set(self.pool) - set(self.labelled))
        drawn = [left[i] for i in rng.permutation(len(left))[: self.config.candidates]]
        predictions: list[Prediction] = []
        if strategy.needs_predictions:
            if self.committee is None:  # the path goes on after an interruption
                self.committee = self.learner.fit(self.labelled, self.seed)
            predictions = [self.committee.predict(key) for key in drawn]
        errors = None
        if strategy.mode == "oracle_error":
            errors = [
                _error(prediction, self.learner.truth(key))
                for key, prediction in zip(drawn, predictions, strict=True)
            ]
        picks = choose(
            strategy,
            Candidates(self._features(drawn), predictions, errors, torch.from_numpy(self.known)),
            self.config.query,
            found,
            (number - 1) / max(1, self.config.rounds - 1),
            torch.Generator().manual_seed(1000 * self.seed + number),
        )
        chosen = [drawn[pick.index] for pick in picks]
        judged = [
            evidence_of(predictions[pick.index], self.learner.truth(drawn[pick.index]), number)
            for pick in (picks if predictions else [])
        ]
        return chosen, judged

    def _features(self, keys: Sequence[str]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.learner.features[key] for key in keys]))

    def _showing(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """[C] how many of these images show each class."""
        return images_showing(map(self.learner.truth, keys), len(self.data.classes))

    def _test(self, *, last: bool) -> dict[str, Any]:
        """Quality on the test images; of the last round also where the doubt lies."""
        assert self.committee is not None
        quality = Quality(len(self.data.classes), TEST_PX)
        distance: UncertaintyByDistance | None = None
        for key in self.data.test:
            truth = self.learner.truth(key)
            if last:
                prediction = self.committee.predict(key)
                probs, predicted = prediction.probs, prediction.predicted
                found = uncertainty_by_distance(prediction.maps, truth, predicted)
                distance = found if distance is None else distance + found
            else:
                probs, predicted = self.committee.predict_classes(key)
            quality.add(truth, predicted, probs)
        counts = quality.overlap
        if not counts.truth[1:].any():
            raise BadLoop(
                f"none of the {len(self.data.test)} test images shows a class but background at "
                "the resolution that is measured at: hold back others, or raise max_side_px"
            )
        return {
            "mean_iou": counts.mean_iou(),
            "iou": counts.where_shown(counts.iou()),
            "dice": counts.where_shown(counts.dice()),
            "pixels_wrong": float(1 - counts.shared.sum() / counts.truth.sum()),
            "ece": quality.ece(),
            "uncertainty_by_distance": None if distance is None else self._in_image_px(distance),
        }

    def _in_image_px(self, distance: UncertaintyByDistance) -> dict[str, Any]:
        found = distance.to_json()
        scale = STRIDE if self.config.learner == "probe" else 1
        return found | {"edges_px": [edge * scale for edge in found["edges_px"]]}


def evidence_of(prediction: Prediction, truth: NDArray[np.uint8], batch: int) -> Evidence:
    """How a committee's doubt fared on an image whose truth came to be known."""
    found = prediction.judge(truth)
    return Evidence(batch, batch, dict(found.rewards), dict(prediction.arms), found.error)


def _error(prediction: Prediction, truth: NDArray[np.uint8]) -> float:
    known = truth != UNKNOWN
    return float((prediction.predicted != truth)[known].mean()) if known.any() else 0.0


def _strategies(config: LoopConfig) -> dict[str, Strategy]:
    return {each.name: each for each in map(strategy_of, config.strategies)}


@lru_cache(maxsize=2)
def _particles(folder: Path, data: Data) -> dict[str, int]:
    """Key to the connected particles that a person would draw in it."""
    kept = folder / "particles.json"
    if kept.exists():
        found: dict[str, int] = json.loads(kept.read_text())
        if found.keys() == set(data.keys):
            return found
    found = {key: count_particles(data.read_mask(key)) for key in data.keys}
    write_atomically(kept, json.dumps(found).encode())
    return found


def count_particles(mask: NDArray[np.uint8]) -> int:
    """Connected sets (8 neighbours) of pixels of one class but background, in a mask [H, W]."""
    classes = [int(c) for c in np.unique(mask) if c not in (0, UNKNOWN)]
    return sum(cv2.connectedComponents((mask == c).astype(np.uint8))[0] - 1 for c in classes)
