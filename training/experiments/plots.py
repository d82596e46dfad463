"""The pictures of a run's report, as SVG: the same run gives the same bytes."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.experiments.runs import Run
from training.experiments.statistics import mean_interval, mean_known
from training.experiments.strategy import RANDOM

INK = "#333333"
GRID = "#dddddd"

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of the strategies but random, in turn. Colour-blind people can tell them apart (Okabe and Ito
2008). Their yellow is too pale for a line on white, and black is random's."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Seven, so that with six colours the first 42 strategies all differ."""

DASHES = ("-", "-.", ":")
"""Of the first six strategies, the next six and the rest; dashed is the whole pool."""

STYLE: dict[Any, Any] = {
    # Text stays text, in a typeface that every system can replace.
    "svg.fonttype": "none",
    "svg.hashsalt": "committee",
    "font.family": ["DejaVu Sans", "sans-serif"],
    # A dollar in a class name is a dollar.
    "text.parse_math": False,
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "xtick.color": INK,
    "ytick.color": INK,
}

NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def draw(make: Callable[[], Figure], format_: str = "svg") -> bytes:
    """A figure as a file of this format. A matplotlibrc has no effect."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        # Only the measuring of the text lacks these glyphs: the browser has its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        buffer = io.BytesIO()
        metadata = NO_METADATA if format_ == "svg" else None
        make().savefig(buffer, format=format_, metadata=metadata)
    return buffer.getvalue()


def style_of(run: Run, strategy: str) -> dict[str, Any]:
    """Colour, marker and order of a strategy's line, the same in all pictures."""
    if strategy == RANDOM:
        return {"color": "black", "marker": "x", "zorder": 3}
    others = [name for name in run.strategies if name != RANDOM]
    i = others.index(strategy)
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[min(i // len(COLOURS), len(DASHES) - 1)],
        "zorder": 2.5,
    }


def learning_curves(run: Run) -> Figure:
    """Mean foreground IoU over labelled images, with the band of the mean."""
    return _curves(run, dict.fromkeys(run.strategies, run.budgets), run.label_unit)


def effort_curves(run: Run) -> Figure:
    """The same over the particles that a person would have drawn (mean over the seeds)."""
    effort = {}
    for strategy in run.strategies:
        particles = run.values(strategy, lambda line: line.particles)
        if run.settings.start:  # those of another folder were drawn before
            particles = particles - particles[:, :1]
        effort[strategy] = particles.mean(axis=0)
    return _curves(run, effort, f"particles drawn in the {run.label_unit}")


def _curves(run: Run, across: Mapping[str, NDArray[np.float64]], unit: str) -> Figure:
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots()
    for strategy in run.strategies:
        quality, style = run.quality[strategy], style_of(run, strategy)
        axes.plot(across[strategy], quality.mean(axis=0), label=strategy, **style)
        bands = [mean_interval(column) for column in quality.T]
        ends = [(b.low, b.high) for b in bands if b.low is not None and b.high is not None]
        if ends:
            low, high = np.array(ends).T
            axes.fill_between(
                across[strategy], low, high, color=style["color"], alpha=0.13, linewidth=0
            )
    if run.full_quality:
        full = float(np.mean(list(run.full_quality.values())))
        label = f"whole pool ({run.settings.pool})"
        axes.axhline(full, color=INK, linestyle=(0, (6, 3)), linewidth=1.3, label=label)
    axes.set_xlabel(unit)
    axes.set_ylabel("mean foreground IoU")
    figure.legend(loc="outside right upper")
    return figure


def class_curves(run: Run) -> Figure:
    """IoU of each class but background over labelled images, a panel each."""
    columns = min(3, len(run.foreground))
    rows = math.ceil(len(run.foreground) / columns)
    figure = Figure(figsize=(9, 0.6 + 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for index, axes in zip(run.foreground, panels, strict=False):
        for strategy in run.strategies:
            curve = mean_known(run.class_iou(strategy, index))
            axes.plot(run.budgets, curve, label=strategy, **style_of(run, strategy), markersize=3.5)
        axes.set_title(run.settings.classes[index])
        axes.set_ylim(0, 1)
    for unused in panels[len(run.foreground) :]:
        unused.set_axis_off()
    for i, axes in enumerate(panels[: len(run.foreground)]):
        if i % columns == 0:
            axes.set_ylabel("IoU")
        # The last panel of a column, where the one below it may be unused.
        if i + columns >= len(run.foreground):
            axes.set_xlabel(run.label_unit)
            axes.tick_params(labelbottom=True)
    handles, labels = panels[0].get_legend_handles_labels()
    _legend_below(figure, handles, labels)
    return figure


def weight_curves(run: Run, weights: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> Figure:
    """How the weight of adaptive strategies moves between measures and between aggregates.

    Args:
        weights: by strategy and arm "measure/aggregate", [T], NaN for a round without weights.
    """
    figure = Figure(figsize=(9, 1.2 + 2.2 * len(weights)), layout="constrained")
    (halves,) = figure.subfigures(1, 2, squeeze=False)
    for half, kind, part in zip(halves, ("measures", "aggregates"), (0, 1), strict=True):
        panels = half.subplots(len(weights), 1, squeeze=False, sharex=True).ravel()
        shown: dict[str, Any] = {}
        for (strategy, arms), axes in zip(weights.items(), panels, strict=True):
            shares = summed(arms, part)
            for name, share in shares.items():
                i = list(shown).index(name) if name in shown else len(shown)
                (shown[name],) = axes.plot(
                    run.budgets,
                    share,
                    color=COLOURS[i % len(COLOURS)],
                    marker=MARKERS[i % len(MARKERS)],
                )
            equal = axes.axhline(1 / len(shares), color=INK, linestyle=":", linewidth=1.2)
            axes.set_title(f"{strategy}: {kind}")
            axes.set_ylim(bottom=0)
            axes.set_ylabel("share of the weight" if part == 0 else "")
        panels[-1].set_xlabel(run.label_unit)
        half.legend(
            [*shown.values(), equal],
            [*map(plain, shown), "all equal"],
            loc="outside lower center",
            ncols=2,
            fontsize=9,
        )
    return figure


def summed(arms: Mapping[str, NDArray[np.float64]], part: int) -> dict[str, NDArray[np.float64]]:
    """Weights summed by the arms' measure (part 0) or aggregate (part 1)."""
    shares: dict[str, NDArray[np.float64]] = {}
    for arm, weight in arms.items():
        measure, _, aggregate = arm.partition("/")
        name = (measure, aggregate)[part]
        shares[name] = shares.get(name, np.zeros(weight.shape)) + weight
    return shares


def distance_curves(
    edges_px: Sequence[float],
    wrong: NDArray[np.float64],
    measures: Mapping[str, NDArray[np.float64]],
) -> Figure:
    """Uncertainty and errors by the distance to the nearest boundary.

    Args:
        edges_px: where the bins begin; the last is open.
        wrong: [bins] share of wrong pixels, NaN in an empty bin.
        measures: each [bins], drawn as a share of its own maximum.
    """
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    places = np.arange(len(edges_px))
    for i, (name, uncertainty) in enumerate(measures.items()):
        most = np.nanmax(uncertainty) if np.isfinite(uncertainty).any() else 0
        left.plot(
            places,
            uncertainty / most if most > 0 else uncertainty,
            label=plain(name),
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
        )
    left.set_title("uncertainty, as a share of its own maximum")
    left.set_ylim(0, 1.05)
    right.plot(places, 100 * wrong, color="black", marker="o")
    right.set_title("wrong pixels, %")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        _label_bins(axes, edges_px)
    _legend_below(figure, *left.get_legend_handles_labels())
    return figure


def _label_bins(axes: Axes, edges_px: Sequence[float]) -> None:
    axes.set_xticks(range(len(edges_px)), bin_names(edges_px), rotation=45, ha="right")
    axes.set_xlabel("distance to the nearest boundary, px")


def bin_names(edges_px: Sequence[float]) -> list[str]:
    """ "0–1" and so on; "20+" for the open one."""
    ends = [f"{low:g}–{high:g}" for low, high in pairwise(edges_px)]
    return [*ends, f"{edges_px[-1]:g}+"]


def plain(name: str) -> str:
    """The name of a measure or aggregate as it is printed."""
    return name.replace("_", " ")


def _legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    # In points: a letter of this size is 6 wide on average, a column's key and gaps take 55.
    widest = 6.2 * max(map(len, labels)) + 55
    columns = max(1, int(72 * figure.get_figwidth() // widest))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))
