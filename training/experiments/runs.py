"""The folder that `python -m training loop` writes, which can be read while it runs.

It holds run.json, and in paths/ a file for each strategy and seed, a line per round measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from training.errors import TrainingError
from training.experiments.strategy import NAMED

RANDOM = "random"
"""The strategy that all others are held against."""

FULL = "all"
"""Not a strategy: a learner that got the whole pool, once per seed, as round 0."""

Share = Annotated[float, Field(ge=0, le=1)]


class BadRun(TrainingError):
    """A folder is no run, or holds too little of one."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Settings(_Frozen):
    """What was run; the file run.json.

    Attributes:
        data: a labelled folder.
        start: the folder that the first images come from, if it is not ``data``.
        classes: names by index, background first.
        initial, query: images labelled at first, and in each round after.
        pool, test: images to choose from, and held back to test on.
    """

    title: str
    data: Path
    start: str | None = None
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    strategies: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    initial: Annotated[int, Field(ge=1)]
    query: Annotated[int, Field(ge=1)]
    rounds: Annotated[int, Field(ge=1)]
    pool: Annotated[int, Field(ge=1)]
    test: Annotated[int, Field(ge=1)]
    learner: Literal["probe", "network"]


class DistanceBins(_Frozen):
    """Doubt in the test images, by the distance of a pixel to the nearest boundary.

    Attributes:
        edges_px: where the bins begin, ascending; the last is open.
        pixels: in each bin.
        wrong: share of them that were predicted wrongly; None in an empty bin.
        measures: mean doubt of each measure in each bin, in its unit; None in an empty bin.
    """

    edges_px: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]
    pixels: tuple[int, ...]
    wrong: tuple[float | None, ...]
    measures: dict[str, tuple[float | None, ...]]


class Line(_Frozen):
    """One strategy with one seed after one round; a line of paths/.

    Attributes:
        labelled: images so far.
        particles: connected particles in them: what a person would have drawn.
        mean_iou: mean of the foreground classes that occur in the test images.
        iou, dice: by class; None for one that does not occur.
        pixels_wrong: share of the test images' pixels.
        known: which classes occur in a labelled image.
        chosen: file names of the images that this round added, in order.
        weights: of the arms "measure/aggregate" of an adaptive strategy.
        leader: the arm that saw the errors of the latest batch best.
    """

    strategy: str
    seed: int
    round: Annotated[int, Field(ge=0)]
    labelled: Annotated[int, Field(ge=1)]
    particles: Annotated[int, Field(ge=0)]
    mean_iou: Share
    iou: tuple[Share | None, ...]
    dice: tuple[Share | None, ...]
    pixels_wrong: Share
    ece: Share
    known: tuple[bool, ...]
    chosen: tuple[str, ...]
    weights: dict[str, FiniteFloat] | None = None
    leader: str | None = None
    # Runs of 0.1.0 call it doubt_by_distance.
    uncertainty_by_distance: DistanceBins | None = Field(
        None, validation_alias=AliasChoices("uncertainty_by_distance", "doubt_by_distance")
    )
    seconds: FiniteFloat

    @property
    def heaviest(self) -> str | None:
        """The arm with the most weight; None where several share it, as all do at first."""
        if not self.weights:
            return None
        most = max(self.weights.values())
        heaviest = [arm for arm, weight in self.weights.items() if weight == most]
        return heaviest[0] if len(heaviest) == 1 else None


@dataclass(frozen=True)
class Run:
    """A run, whole or in part.

    Attributes:
        folder: where it lies.
        settings: what was run.
        lines: by strategy, seed and round, ``FULL`` among the strategies.
        seeds: those of which every strategy has every round; all comparisons are made on them.
        missing: rounds that are not measured, of all strategies and seeds.
        unreadable: lines that are no JSON, as a killed process leaves its last.
        modes: of the strategies, as ``strategy_of`` has them, where they are known.
    """

    folder: Path
    settings: Settings
    lines: dict[tuple[str, int, int], Line]
    seeds: tuple[int, ...]
    missing: int
    unreadable: int
    modes: dict[str, str]

    @property
    def strategies(self) -> tuple[str, ...]:
        return self.settings.strategies

    @property
    def foreground(self) -> range:
        """The indices of the classes but background."""
        return range(1, len(self.settings.classes))

    @cached_property
    def budgets(self) -> NDArray[np.float64]:
        """[T] images labelled after each round, as ``asked``; the same for all strategies and
        seeds."""
        first = self.curve(self.strategies[0], self.seeds[0])
        return np.array([self.asked(line) for line in first], np.float64)

    @property
    def label_unit(self) -> str:
        """What ``budgets`` count."""
        return "labelled images" + (" of the pool" if self.settings.start else "")

    def asked(self, line: Line) -> int:
        """Labelled images without those that came from another folder: they cost the pool
        nothing."""
        return line.labelled - (self.settings.initial if self.settings.start else 0)

    @cached_property
    def quality(self) -> dict[str, NDArray[np.float64]]:
        """Each strategy's mean foreground IoU, [R, T]: seeds by rounds."""
        return {s: self.values(s, lambda line: line.mean_iou) for s in self.strategies}

    @cached_property
    def full_quality(self) -> dict[int, float]:
        """Mean foreground IoU of a learner that got the whole pool, of the seeds that have one."""
        return {
            seed: self.lines[FULL, seed, 0].mean_iou
            for seed in self.seeds
            if (FULL, seed, 0) in self.lines
        }

    def curve(self, strategy: str, seed: int) -> list[Line]:
        """The rounds of a strategy with a complete seed, in order."""
        return [self.lines[strategy, seed, r] for r in range(self.settings.rounds + 1)]

    def values(self, strategy: str, of: Callable[[Line], float | None]) -> NDArray[np.float64]:
        """[R, T]: a figure of each complete seed and round; NaN where it is None."""
        found: NDArray[np.float64] = np.array(
            [[of(line) for line in self.curve(strategy, seed)] for seed in self.seeds], np.float64
        )
        return found


def read_run(folder: Path) -> Run:
    """Read a run, finished or not.

    Raises:
        BadRun: a file is missing or not what `loop` writes, or no seed is complete.
    """
    settings = _checked(Settings, _read_text(folder / "run.json"), folder / "run.json")
    named = tuple(strategy for strategy in settings.strategies if strategy != FULL)
    settings = settings.model_copy(update={"strategies": named})
    lines: dict[tuple[str, int, int], Line] = {}
    unreadable = 0
    for seed in settings.seeds:
        for name in (*named, FULL):
            path = folder / "paths" / f"{name}-{seed}.jsonl"
            if path.exists():  # else its turn has not come
                unreadable += _read_lines(path, settings, lines)
    cells = {
        (strategy, seed, number)
        for strategy in named
        for seed in settings.seeds
        for number in range(settings.rounds + 1)
    }
    missing = cells - lines.keys()
    incomplete = {seed for _, seed, _ in missing}
    seeds = tuple(seed for seed in settings.seeds if seed not in incomplete)
    if not seeds or not named:
        raise BadRun(
            f"{folder} has no seed with all rounds of all strategies: {len(missing)} of "
            f"{len(cells)} rounds are missing. Let `python -m training loop` finish one seed."
        )
    run = Run(folder, settings, lines, seeds, len(missing), unreadable, _modes(folder, named))
    _check_budgets(run)
    return run


class _Definition(_Frozen):
    mode: str


class _Definitions(_Frozen):
    """What of config.json is read here; runs of before it held definitions have none."""

    definitions: dict[str, _Definition] = {}


def _modes(folder: Path, named: Sequence[str]) -> dict[str, str]:
    """Of each strategy the mode that the run keeps, else that of the strategy of this name."""
    path = folder / "config.json"
    kept = _checked(_Definitions, _read_text(path), path).definitions if path.exists() else {}
    known = {name: NAMED[name].mode for name in named if name in NAMED}
    return known | {name: kept[name].mode for name in named if name in kept}


def _check_budgets(run: Run) -> None:
    """Curves over different or standing budgets cannot be compared."""
    for strategy in run.strategies:
        for seed in run.seeds:
            found = [run.asked(line) for line in run.curve(strategy, seed)]
            if found != run.budgets.tolist() or (np.diff(found) <= 0).any():
                raise BadRun(
                    f"{run.folder / 'paths'}: {run.label_unit} must grow from round to "
                    f"round and alike for all; {strategy} with seed {seed} has {found}, "
                    f"{run.strategies[0]} {[int(b) for b in run.budgets]}."
                )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRun(
            f"A run holds run.json and paths/, as `python -m training loop` writes them; {path} "
            f"cannot be read ({error})."
        ) from error


def _read_lines(path: Path, settings: Settings, lines: dict[tuple[str, int, int], Line]) -> int:
    """Add a path's lines to ``lines``; returns how many were left out."""
    unreadable = 0
    for number, text in enumerate(_read_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            json.loads(text)
        except ValueError:
            # A killed loop leaves half a line, and goes on after it when it is started again.
            unreadable += 1
            continue
        line = _checked(Line, text, f"{path}, line {number}")
        _check_lengths(line, settings, f"{path}, line {number}")
        lines[line.strategy, line.seed, line.round] = line
    return unreadable


def _check_lengths(line: Line, settings: Settings, where: str) -> None:
    C = len(settings.classes)
    for name in ("iou", "dice", "known"):
        if len(getattr(line, name)) != C:
            raise BadRun(
                f"{where}: {name} must have an entry for each of the {C} classes in run.json, "
                f"got {len(getattr(line, name))}."
            )
    uncertainty = line.uncertainty_by_distance
    if uncertainty is not None:
        bins = len(uncertainty.edges_px)
        for name, entries in (
            ("pixels", uncertainty.pixels),
            ("wrong", uncertainty.wrong),
            *uncertainty.measures.items(),
        ):
            if len(entries) != bins:
                raise BadRun(
                    f"{where}: {name} by distance must have an entry for each of the {bins} edges "
                    f"(the last bin is open), got {len(entries)}."
                )


Model = TypeVar("Model", bound=BaseModel)


def _checked(model: type[Model], text: str, where: object) -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadRun(
            f"{where}: {place + ': ' if place else ''}{first['msg']}. "
            "Is it a run of `python -m training loop`, of this version?"
        ) from error
