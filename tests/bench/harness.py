"""Rows, how they are timed, and how they are told."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import tests.bench

ISSUES = ("live-loop", "committee", "acquisition", "nothing-lost", "results", "dashboard", "scale")
LIVE = ("tests.bench.rows_live", "tests.bench.rows_load")
# Long enough that the clock's grain and one context switch vanish in it.
SAMPLE_S = 0.05


@dataclass(frozen=True)
class Measured:
    """What a row's function found, in the row's unit; smaller is better.

    ``peer`` is the peer's figure or the limit. ``spread`` is how far the samples lie apart: half
    the distance between the quartiles over the median, the larger one of ours and the peer's.
    ``note`` is what else must be known of this very measurement; it is told behind ``against``.
    """

    ours: float
    peer: float
    spread: float
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table, before it is measured.

    Attributes:
        measure: takes the sizes, and what ``setting`` yields when there is one.
        sizes: how much work the row does: what `make bench` measures.
        small: the same for the smoke run of the tests, which only shows that the row still runs.
        setting: the servers or models that the row needs; takes the sizes.
    """

    issue: str
    name: str
    against: str
    unit: str
    goal: float
    measure: Callable[..., Measured]
    sizes: Any
    small: Any
    setting: Callable[[Any], AbstractContextManager[Any]] | None

    @property
    def live(self) -> bool:
        """Whether the row needs real servers."""
        return self.setting is not None and self.setting.__module__ in LIVE


@dataclass(frozen=True)
class Outcome:
    """One entry of bench.json. The figures of a row that failed are None."""

    issue: str
    name: str
    against: str
    ours: float | None
    peer: float | None
    unit: str
    ratio: float | None
    goal: float
    met: bool
    error: str | None = None

    def entry(self) -> dict[str, Any]:
        """What bench.json holds: ``error`` stands only where there is one."""
        entry = asdict(self)
        if self.error is None:
            del entry["error"]
        return entry


ROWS: dict[str, Row] = {}


def row(
    issue: str,
    name: str,
    *,
    against: str,
    unit: str,
    goal: float,
    sizes: Any,
    small: Any,
    setting: Callable[[Any], AbstractContextManager[Any]] | None = None,
) -> Callable[[Callable[..., Measured]], Callable[..., Measured]]:
    """Register a function as a row; ``goal`` is the least ratio peer / ours that is enough."""
    if issue not in ISSUES:
        raise ValueError(f"issue must be one of {ISSUES}, got {issue!r}")
    if name in ROWS:
        raise ValueError(f"there is a row {name!r} already")

    def register(measure: Callable[..., Measured]) -> Callable[..., Measured]:
        ROWS[name] = Row(issue, name, against, unit, goal, measure, sizes, small, setting)
        return measure

    return register


def load_rows() -> None:
    """Import every ``rows_*`` module of this folder, which registers its rows."""
    for module in pkgutil.iter_modules(tests.bench.__path__):
        if module.name.startswith("rows_"):
            importlib.import_module(f"{tests.bench.__name__}.{module.name}")


def choose(names: Sequence[str]) -> list[Row]:
    """The rows of these names, or all; rows that share a setting stand together.

    Raises:
        ValueError: there is no row of such a name.
    """
    unknown = sorted(set(names) - ROWS.keys())
    if unknown:
        raise ValueError(f"no row {', '.join(unknown)}; there are {', '.join(sorted(ROWS))}")
    rows = [ROWS[name] for name in dict.fromkeys(names or ROWS)]
    # Without a setting first: servers that wind down must not disturb the small ones.
    settings = list(dict.fromkeys(chosen.setting for chosen in rows if chosen.setting))
    return sorted(rows, key=lambda one: settings.index(one.setting) + 1 if one.setting else 0)


def run(rows: Iterable[Row], output: Path, *, small: bool = False) -> list[Outcome]:
    """Measure the rows and print each as it comes; ``output`` holds those measured so far.

    A row that fails, or whose setting does not start, is written with its error, and the rows
    after it are measured all the same.

    Args:
        small: tiny sizes, for a smoke run whose figures mean nothing.
    """
    if small:
        rows = [replace(one, sizes=one.small) for one in rows]
    outcomes: list[Outcome] = []
    probes = [probe_s()]
    print(TABLE_HEAD, flush=True)
    with Setting() as setting:
        for one in rows:
            try:
                measured = one.measure(one.sizes, *setting.enter(one))
                outcomes.append(conclude(one, measured))
                line = table_line(outcomes[-1], measured.spread)
            except Exception as error:  # a row may fail in any way; the others are still wanted
                traceback.print_exc()
                outcomes.append(failed(one, error))
                line = f"{one.name:<28}failed: {outcomes[-1].error}"
            probes.append(probe_s())
            print(line, flush=True)
            write(outcomes, output)
    print(noise_line(probes))
    return outcomes


class Setting:
    """What the row under way needs, left when a row needs another one."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._current: Callable[[Any], AbstractContextManager[Any]] | None = None
        self._given: tuple[Any, ...] = ()
        self._error: Exception | None = None

    def __enter__(self) -> Setting:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def enter(self, one: Row) -> tuple[Any, ...]:
        """What the row's setting yields, as the rest of the row's arguments.

        Raises:
            Exception: the setting did not start, now or for a row before.
        """
        if one.setting is not self._current:
            self._leave()
            self._current = one.setting
            if one.setting is not None:
                try:
                    self._given = (self._stack.enter_context(one.setting(one.sizes)),)
                except Exception as error:
                    self._error = error
        if self._error is not None:
            raise self._error
        return self._given

    def _leave(self) -> None:
        self._current, self._given, self._error = None, (), None
        try:
            self._stack.close()
        except Exception:  # servers that do not stop cleanly spoil no figure
            traceback.print_exc(file=sys.stderr)


def conclude(one: Row, measured: Measured) -> Outcome:
    ratio = measured.peer / measured.ours
    return Outcome(
        issue=one.issue,
        name=one.name,
        against="; ".join(filter(None, (one.against, measured.note))),
        ours=measured.ours,
        peer=measured.peer,
        unit=one.unit,
        ratio=ratio,
        goal=one.goal,
        met=ratio >= one.goal,
    )


def failed(one: Row, error: Exception) -> Outcome:
    return Outcome(
        issue=one.issue,
        name=one.name,
        against=one.against,
        ours=None,
        peer=None,
        unit=one.unit,
        ratio=None,
        goal=one.goal,
        met=False,
        error=f"{type(error).__name__}: {error}"[:1000],
    )


def write(outcomes: Sequence[Outcome], output: Path) -> None:
    """Whole or not at all, so that an interrupted run leaves readable JSON."""
    staging = output.with_name(f".{output.name}.{os.getpid()}")
    entries = [outcome.entry() for outcome in outcomes]
    staging.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    staging.replace(output)


def side_by_side(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    scale: float = 1.0,
    rounds: int = 9,
) -> Measured:
    """Median wall time of one call of each, in ms times ``scale``; after a warm-up, in turns.

    The order within a round alternates, so that neither always finds the cache as the other
    left it and a slow drift of the machine hits both alike.
    """
    calls = [calls_per_sample(function, time.perf_counter) for function in (ours, peer)]
    samples: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            function = (ours, peer)[which]
            samples[which].append(sample_ms(function, calls[which], time.perf_counter) * scale)
    ours_ms, peer_ms = (statistics.median(taken) for taken in samples)
    return Measured(ours_ms, peer_ms, max(spread(taken) for taken in samples))


def against_limit(
    ours: Callable[[], object],
    *,
    limit: float,
    scale: float = 1.0,
    rounds: int = 9,
    clock: Callable[[], float] = time.process_time,
) -> Measured:
    """Median time of one call after a warm-up, in ms times ``scale``, beside a fixed limit.

    The default clock counts this process's CPU time over all threads.
    """
    calls = calls_per_sample(ours, clock)
    samples = [sample_ms(ours, calls, clock) * scale for _ in range(rounds)]
    return Measured(statistics.median(samples), limit, spread(samples))


def calls_per_sample(function: Callable[[], object], clock: Callable[[], float]) -> int:
    """Warm up, and find how many calls fill ``SAMPLE_S``."""
    function()
    once_s = sample_ms(function, 1, clock) / 1e3
    return max(1, round(SAMPLE_S / max(once_s, 1e-7)))


def sample_ms(function: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    """Mean time of one of ``calls`` calls, in ms."""
    start = clock()
    for _ in range(calls):
        function()
    return (clock() - start) / calls * 1e3


def spread(samples: Sequence[float]) -> float:
    """Half the distance between the quartiles, over the median."""
    if len(samples) < 2:
        return 0.0
    lower, middle, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return (upper - lower) / 2 / middle


def probe_s() -> float:
    """Wall time of a fixed piece of work: what moves between two probes is the machine."""
    numbers = np.random.default_rng(0).random(1 << 18)
    start = time.perf_counter()
    for _ in range(20):
        np.sort(numbers)
    return time.perf_counter() - start


TABLE_HEAD = (
    f"{'row':<28}{'ours':>10}{'peer':>10}  {'unit':<15}{'ratio':>8}{'goal':>7}  "
    f"{'met':<5}{'spread':>7}  against"
)


def table_line(outcome: Outcome, spread_share: float) -> str:
    return (
        f"{outcome.name:<28}{outcome.ours:>10.4g}{outcome.peer:>10.4g}  {outcome.unit:<15}"
        f"{outcome.ratio:>8.3g}{outcome.goal:>7.3g}  {'yes' if outcome.met else 'NO':<5}"
        f"{spread_share:>7.1%}  {outcome.against}"
    )


def noise_line(probes: Sequence[float]) -> str:
    """How quiet the machine was, from the same piece of work done before and after each row."""
    slowest, fastest = max(probes), min(probes)
    one_minute = os.getloadavg()[0]
    return (
        f"Machine: {os.cpu_count()} cores, load {one_minute:.1f}; one fixed piece of work, done "
        f"{len(probes)} times between the rows, took up to {slowest / fastest - 1:.0%} longer than "
        "at best. A ratio nearer to its goal than that is not settled."
    )
