"""Rows, how they are timed, and how they are told."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tests.bench

ISSUES = ("live-loop", "committee", "acquisition", "nothing-lost")
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

    ``measure`` takes what ``setting`` yields, or nothing when there is no setting.
    """

    issue: str
    name: str
    against: str
    unit: str
    goal: float
    measure: Callable[..., Measured]
    setting: Callable[[], AbstractContextManager[Any]] | None


@dataclass(frozen=True)
class Outcome:
    """One entry of bench.json."""

    issue: str
    name: str
    against: str
    ours: float
    peer: float
    unit: str
    ratio: float
    goal: float
    met: bool


ROWS: dict[str, Row] = {}


def row(
    issue: str,
    name: str,
    *,
    against: str,
    unit: str,
    goal: float,
    setting: Callable[[], AbstractContextManager[Any]] | None = None,
) -> Callable[[Callable[..., Measured]], Callable[..., Measured]]:
    """Register a function as a row; ``goal`` is the least ratio peer / ours that is enough."""
    if issue not in ISSUES:
        raise ValueError(f"issue must be one of {ISSUES}, got {issue!r}")
    if name in ROWS:
        raise ValueError(f"there is a row {name!r} already")

    def register(measure: Callable[..., Measured]) -> Callable[..., Measured]:
        ROWS[name] = Row(issue, name, against, unit, goal, measure, setting)
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


def run(rows: Iterable[Row], output: Path) -> list[Outcome]:
    """Measure the rows, telling each as it comes; ``output`` holds those measured so far."""
    outcomes: list[Outcome] = []
    probes = [probe_s()]
    print(TABLE_HEAD, flush=True)
    with ExitStack() as stack:
        current: Callable[[], AbstractContextManager[Any]] | None = None
        given: Any = None
        for one in rows:
            if one.setting is not current:
                stack.close()
                current = one.setting
                given = stack.enter_context(current()) if current else None
            measured = one.measure(given) if one.setting else one.measure()
            probes.append(probe_s())
            outcomes.append(conclude(one, measured))
            print(table_line(outcomes[-1], measured.spread), flush=True)
            write(outcomes, output)
    print(noise_line(probes))
    return outcomes


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


def write(outcomes: Sequence[Outcome], output: Path) -> None:
    """Whole or not at all, so that an interrupted run leaves readable JSON."""
    staging = output.with_name(f".{output.name}.{os.getpid()}")
    entries = [asdict(outcome) for outcome in outcomes]
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
    f"{'row':<22}{'ours':>10}{'peer':>10}  {'unit':<15}{'ratio':>8}{'goal':>7}  "
    f"{'met':<5}{'spread':>7}  against"
)


def table_line(outcome: Outcome, spread_share: float) -> str:
    return (
        f"{outcome.name:<22}{outcome.ours:>10.4g}{outcome.peer:>10.4g}  {outcome.unit:<15}"
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
