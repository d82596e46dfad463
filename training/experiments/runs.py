"""The folder that `python -m training loop` writes. It can be read while the loop runs.

It holds run.json, and in paths/ a file for each strategy and seed with a line per round.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from acquisition.adaptive import Evidence
from training.errors import TrainingError
from training.experiments.strategy import FULL, NAMED

Share = Annotated[float, Field(ge=0, le=1)]


class BadRun(TrainingError):
    """A folder is not a run, or too little of the run is done."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Settings(_Frozen):
    """What was run: the file run.json.

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
    """Uncertainty in the test images, by the distance of a pixel to the nearest boundary.

    Attributes:
        edges_px: where the bins begin, ascending; the last is open.
        pixels: in each bin.
        wrong: share of them that were predicted wrongly; None in an empty bin.
        measures: mean of each measure in each bin, in its unit; None in an empty bin.
    """

    edges_px: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]
    pixels: tuple[int, ...]
    wrong: tuple[float | None, ...]
    measures: dict[str, tuple[float | None, ...]]


class Line(_Frozen):
    """One strategy with one seed after one round; a line of paths/.

    Attributes:
        labelled: images so far.
        particles: connected particles in them, each of which a person would have drawn.
        mean_iou: mean of the foreground classes that occur in the test images.
        iou, dice: by class; None for one that does not occur.
        pixels_wrong: share of the test images' pixels.
        known: which classes occur in a labelled image.
        chosen: file names of the images that this round added, in order; none for ``FULL``.
        keys: of all images that this round added, in order.
        weights: of the arms "measure/aggregate" of an adaptive strategy.
        leader: the arm that saw the errors of the latest batch best.
        rewards: of the arms in that batch.
        evidence: how well the committee's uncertainty saw its errors in the images chosen.
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
    keys: tuple[str, ...] = ()
    weights: dict[str, FiniteFloat] | None = None
    leader: str | None = None
    rewards: dict[str, FiniteFloat] | None = None
    evidence: tuple[Evidence, ...] = ()
    # The files call it by an older word, since scripts read them.
    uncertainty_by_distance: DistanceBins | None = Field(
        None,
        validation_alias=AliasChoices("uncertainty_by_distance", "doubt_by_distance"),
        serialization_alias="doubt_by_distance",
    )
    seconds: FiniteFloat

    def to_text(self) -> str:
        """The line as a file holds it. ASCII, so that a cut-off line is still text."""
        return self.model_dump_json(ensure_ascii=True, by_alias=True) + "\n"

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
        seeds: those with every round of every strategy; all comparisons are made on them.
        missing: rounds that are not measured yet, over all strategies and seeds.
        unreadable: lines that are not JSON, such as the last one of a killed process.
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

    def class_iou(self, strategy: str, index: int) -> NDArray[np.float64]:
        """[R, T] IoU of one class; NaN where the test images do not show it."""
        return self.values(strategy, lambda line: line.iou[index])

    def values(self, strategy: str, of: Callable[[Line], float | None]) -> NDArray[np.float64]:
        """[R, T]: a figure of each complete seed and round; NaN where it is None."""
        found: NDArray[np.float64] = np.array(
            [[of(line) for line in self.curve(strategy, seed)] for seed in self.seeds], np.float64
        )
        return found


def read_run(folder: Path) -> Run:
    """Read a run, finished or not.

    Raises:
        BadRun: a file is missing or is not what `loop` writes, or no seed is complete.
    """
    settings = _checked(Settings, _read_text(folder / "run.json"), folder / "run.json")
    named = tuple(strategy for strategy in settings.strategies if strategy != FULL)
    settings = settings.model_copy(update={"strategies": named})
    lines: dict[tuple[str, int, int], Line] = {}
    unreadable = 0
    for seed in settings.seeds:
        for name in (*named, FULL):
            path = lines_file(folder, name, seed)
            if path.exists():  # else its turn has not come
                found = read_lines(path)
                unreadable += found.unreadable
                for line in found.lines:
                    _check_lengths(line, settings, path)
                    lines[line.strategy, line.seed, line.round] = line
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
    """The part of config.json that is read here; old runs have no definitions."""

    definitions: dict[str, _Definition] = {}


def _modes(folder: Path, named: Sequence[str]) -> dict[str, str]:
    """The mode of each strategy as the run keeps it, else that of the strategy of this name."""
    path = folder / "config.json"
    kept = _checked(_Definitions, _read_text(path), path).definitions if path.exists() else {}
    known = {name: NAMED[name].mode for name in named if name in NAMED}
    return known | {name: kept[name].mode for name in named if name in kept}


def _check_budgets(run: Run) -> None:
    """Curves can be compared only over the same budgets, which grow from round to round."""
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


class ReadLines(NamedTuple):
    """A path's lines in order, and how many lines were left out because they are not JSON."""

    lines: list[Line]
    unreadable: int


def lines_file(folder: Path, strategy: str, seed: int) -> Path:
    """The file of one path's lines."""
    return folder / "paths" / f"{strategy}-{seed}.jsonl"


def read_lines(path: Path) -> ReadLines:
    """Read one path's lines.

    Raises:
        BadRun: the file cannot be read, or holds JSON that is not a line of a run.
    """
    lines = []
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
        lines.append(_checked(Line, text, f"{path}, line {number}"))
    return ReadLines(lines, unreadable)


def _check_lengths(line: Line, settings: Settings, path: Path) -> None:
    C = len(settings.classes)
    where = f"{path}, round {line.round}"
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
