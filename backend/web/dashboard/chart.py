"""Line charts with bands, as numbers for an SVG; the template draws them, and a table beside."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

HEIGHT = 260.0
WIDE, NARROW = 640.0, 340.0
"""Widths: of a chart alone, and of one among others."""

LEFT, RIGHT, TOP, BOTTOM = 60.0, 18.0, 14.0, 48.0


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        points: x, y, and the ends of y's interval, which may be None; a point whose y is None
            leaves a gap.
    """

    name: str
    points: Sequence[tuple[float, float | None, float | None, float | None]]


@dataclass(frozen=True)
class Line:
    """A series as it is drawn: paths, and a mark for each point."""

    name: str
    path: str
    band: str
    marks: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """What the template needs; lengths are in the units of its view box."""

    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    width: float
    height: float = HEIGHT
    left: float = LEFT
    bottom: float = HEIGHT - BOTTOM

    @property
    def right(self) -> float:
        return self.width - RIGHT


def line_chart(
    series: Sequence[Series], width: float = WIDE, unit: Literal["%", "s"] = "%"
) -> Chart | None:
    """A chart of shares (0 to 1), or of seconds; None where no series has a point."""
    xs = [x for each in series for x, y, *_ in each.points if y is not None]
    ys = [
        value
        for each in series
        for _x, *values in each.points
        if values[0] is not None
        for value in values
        if value is not None
    ]
    if not ys:
        return None
    low, high, step = _round_range(min(ys), max(ys))
    first, last = min(xs), max(xs)

    def across(x: float) -> float:
        share = 0.5 if first == last else (x - first) / (last - first)
        return round(LEFT + share * (width - LEFT - RIGHT), 1)

    def up(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    count = round((high - low) / step)
    rows = [low + place * step for place in range(count + 1)]
    digits = 0 if step >= 0.0099 else 1

    def written(y: float) -> str:
        return f"{y:.{digits}%}" if unit == "%" else f"{y:g} s"

    return Chart(
        lines=[_line(each, across, up) for each in series],
        x_ticks=[Tick(across(x), f"{x:.0f}") for x in _some(sorted(set(xs)), round(width / 80))],
        y_ticks=[Tick(up(y), written(y)) for y in rows],
        width=width,
    )


def _line(series: Series, across: Callable[[float], float], up: Callable[[float], float]) -> Line:
    marks, path, upper, lower = [], "", [], []
    gap = True
    for x, y, low, high in series.points:
        if y is None:
            gap = True
            continue
        at = (across(x), up(y))
        marks.append(at)
        path += f"{'M' if gap else 'L'}{at[0]} {at[1]}"
        gap = False
        if low is not None and high is not None:
            upper.append(f"{at[0]} {up(high)}")
            lower.append(f"{at[0]} {up(low)}")
    band = f"M{'L'.join([*upper, *reversed(lower)])}Z" if len(upper) > 1 else ""
    return Line(series.name, path, band, marks)


def _round_range(low: float, high: float) -> tuple[float, float, float]:
    """Ends and step of an axis: some four steps of 1, 2 or 5 times a power of ten."""
    spread = max(high - low, 0.01)
    power = 10.0 ** math.floor(math.log10(spread / 4))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= spread / 4)
    first, last = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return first, max(last, first + step), step


def _some(values: Sequence[float], most: int) -> Sequence[float]:
    """At most so many of the values, evenly, the first and the last among them."""
    if len(values) <= most:
        return values
    step = (len(values) - 1) / (most - 1)
    return [values[round(place * step)] for place in range(most)]
