"""A figure of counts: each class by the committee, corrected, and by the audits alone."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from training.figures.fonts import Fonts
from training.quality.audit import Interval

CORRECTED, ALONE, PLAIN = "#0072b2", "#d55e00", "#555555"
"""Okabe and Ito's blue and vermilion, which colour-blind people tell apart, and a grey."""

MOST_GROUPS = 12
"""Of a class that are drawn; more are too thin to read."""

# Inches.
WIDTH_IN = 7.5
ROW_IN = 0.42
PANEL_IN = 0.55
TOP_IN = 0.85
DPI = 150
NAME_CHARACTERS = 28


@dataclass(frozen=True)
class Estimates:
    """One class in one group of images: particles per image.

    Attributes:
        plain: the committee's count.
        corrected, alone: by the audits, with predictions and without; None without an interval.
    """

    group: str
    plain: float
    corrected: Interval | None
    alone: Interval | None


def counts_figure(panels: Mapping[str, Sequence[Estimates]], title: str) -> bytes:
    """A PNG with a panel for each class, and a line in it for each group of images.

    Args:
        panels: class name to its groups, of which the first ``MOST_GROUPS`` are drawn.
        title: above all.
    """
    shown = {name: list(groups)[:MOST_GROUPS] for name, groups in panels.items()}
    if any(len(panels[name]) > len(groups) for name, groups in shown.items()):
        title += f"\nThe first {MOST_GROUPS} groups; counts.csv has all"
    texts = [title, *shown, *(each.group for groups in shown.values() for each in groups)]
    heights = [PANEL_IN + ROW_IN * len(groups) for groups in shown.values()]
    total = TOP_IN + sum(heights)
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"text.parse_math": False, "font.size": 9})
        fonts = Fonts.of(texts)
        matplotlib.rcParams["font.family"] = fonts.families
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH_IN, total), dpi=DPI)
        figure.text(0.02, 1 - 0.12 / total, fonts.readable(title), va="top", fontsize=10.5)
        top = total - TOP_IN
        for (name, groups), height in zip(shown.items(), heights, strict=True):
            bottom = top - height + 0.35
            box = (0.3, bottom / total, 0.66, (height - PANEL_IN) / total)
            _draw_class(figure.add_axes(box), fonts.readable(name), groups, fonts)
            top -= height
        figure.legend(
            handles=_legend(),
            loc="upper left",
            ncols=3,
            frameon=False,
            bbox_to_anchor=(0.015, 1 - 0.5 / total),
            borderaxespad=0,
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_class(axes: Axes, name: str, groups: Sequence[Estimates], fonts: Fonts) -> None:
    for row, each in enumerate(groups):
        axes.plot(
            *(each.plain, row, "D"),
            color=PLAIN,
            markersize=5,
            markerfacecolor="white",
            clip_on=False,
        )
        for interval, colour, marker, at in (
            (each.corrected, CORRECTED, "o", row - 0.17),
            (each.alone, ALONE, "s", row + 0.17),
        ):
            if interval is None or interval.low is None or interval.high is None:
                continue
            axes.plot((interval.low, interval.high), (at, at), "-", color=colour, linewidth=2)
            axes.plot(interval.value, at, marker, color=colour, markersize=5)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    lone = len(groups) == 1
    names = [name] if lone else [fonts.readable(each.group) for each in groups]
    axes.set_yticks(range(len(groups)), [_short(each) for each in names])
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    for row, each in enumerate(groups):
        if each.corrected is None and each.alone is None:
            right = each.plain < sum(axes.get_xlim()) / 2
            axes.annotate(
                "no interval",
                (each.plain, row),
                (8 if right else -8, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                color=PLAIN,
            )
    if not lone:
        axes.set_title(name, loc="left", fontsize=9, fontweight="bold", pad=3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)


def _legend() -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            color=PLAIN,
            marker="D",
            markerfacecolor="white",
            linestyle="",
            label="committee alone",
        ),
        Line2D(
            [], [], color=CORRECTED, marker="o", linewidth=2, label="corrected by the audits, 95 %"
        ),
        Line2D([], [], color=ALONE, marker="s", linewidth=2, label="audits alone, 95 %"),
    ]


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…"
