"""A figure of where a committee is uncertain about one image."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from acquisition.masks import UNKNOWN
from acquisition.uncertainty import MEASURES
from training.committee.prediction import Prediction
from training.examples import make_example
from training.figures.fonts import Fonts
from training.figures.overlay import as_rgb, colour_of, overlay
from training.figures.scales import UNITS, Scale, most_possible, scale_of
from training.images import shrink
from training.pixels import Image8
from training.quality.distance import BINS, EDGES_PX, UncertaintyByDistance, uncertainty_by_distance

COLOURMAP = "inferno"

WRONG_COLOUR = (230, 0, 70)
"""On a grey picture: neither a class's colour nor the unknown's."""

LINE_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")
"""One per measure; Okabe and Ito's without the yellow, which is faint on white."""

LINE_MARKERS = ("o", "s", "^", "v", "D")
"""One per measure: where lines cover each other, the markers still show two."""

# Inches; an image of 512 px is drawn about as large as it is.
DPI = 150
COLUMNS = 5
PANEL_IN = 3.2
GAP_IN = 0.25
MARGIN_IN = 0.3
TITLE_IN = 0.5
HEAD_IN = 0.32
LEGEND_LINE_IN = 0.26
LEGEND_COLUMNS = 6
BAR_IN = 0.13
BELOW_BAR_IN = 0.72
AXIS_IN = 0.55
"""What an axis with numbers and a name needs at its side."""

FLATTEST, TALLEST = 0.45, 1.6
"""Bounds of a panel's height to its width; beyond them an image leaves room at its sides."""

NAME_CHARACTERS = 26

FONT = 9


def uncertainty_figure(
    prediction: Prediction,
    image: Image8,
    classes: Sequence[str],
    truth: NDArray[np.uint8] | None = None,
    title: str = "",
) -> bytes:
    """Draw one image, its prediction, the five uncertainty maps, and the error if it is known.

    A further panel shows uncertainty against the distance to the nearest boundary, of the truth if
    there is one, otherwise of the prediction; its axis says which.

    Args:
        prediction: the committee's, of this image.
        image: [H, W, channels] uint8, the one that was predicted.
        classes: names by index, background first.
        truth: [H, W] uint8 class indices, 255 where nothing is known.
        title: stands on top.

    Returns:
        A PNG, the same for the same input.

    Raises:
        ValueError: image, truth and prediction do not belong together.
    """
    picture, known = at_prediction_size(prediction, image, truth)
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Ignore a matplotlibrc; and a dollar in a class's name is a dollar.
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False
        fonts = Fonts.of([title, *classes])
        matplotlib.rcParams["font.family"] = fonts.families
        # Of invisible characters, which need no glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        sheet = _Sheet(
            prediction, as_rgb(picture), fonts.class_names(classes), known, fonts.note(classes)
        )
        return sheet.draw(fonts.readable(title))


def at_prediction_size(
    prediction: Prediction, image: Image8, truth: NDArray[np.uint8] | None
) -> tuple[Image8, NDArray[np.uint8] | None]:
    """Image [h, w, channels] and truth [h, w], shrunk as the image was for the prediction.

    Raises:
        ValueError: they do not belong together.
    """
    if image.shape[:2] != prediction.size:
        raise ValueError(
            f"the prediction is of an image of {prediction.size}, got one of {image.shape[:2]}"
        )
    longest = max(prediction.predicted.shape)
    if truth is None:
        return shrink(image, longest), None
    example = make_example("", image, truth, longest)
    return example.image, example.mask


def error_map(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[h, w] uint8: 1 where the prediction is wrong, 0 where right, 255 where nothing is known."""
    error: NDArray[np.uint8] = (truth != predicted).astype(np.uint8)
    error[truth == UNKNOWN] = UNKNOWN
    return error


class _Sheet:
    """The figure being drawn. Places are in inches from the upper left corner."""

    def __init__(
        self,
        prediction: Prediction,
        picture: Image8,
        classes: Sequence[str],
        truth: NDArray[np.uint8] | None,
        note: str,
    ) -> None:
        self.prediction, self.picture, self.truth = prediction, picture, truth
        self.classes, self.note = classes, note
        h, w = prediction.predicted.shape
        self.panel_in = PANEL_IN * min(max(h / w, FLATTEST), TALLEST)
        self.names = self._legend_entries()
        legend_in = math.ceil(len(self.names) / LEGEND_COLUMNS) * LEGEND_LINE_IN + 0.15
        self.first_in = TITLE_IN + HEAD_IN
        self.legend_at_in = self.first_in + self.panel_in + 0.08
        # The panel with axes may need more room below it than the legend beside it.
        self.second_in = self.first_in + self.panel_in + max(legend_in, AXIS_IN) + HEAD_IN
        self.height_in = self.second_in + self.panel_in + BELOW_BAR_IN + BAR_IN
        self.height_in += LEGEND_LINE_IN if note else 0
        self.width_in = 2 * MARGIN_IN + COLUMNS * PANEL_IN + (COLUMNS - 1) * GAP_IN
        # Not pyplot's: it would keep the figure, and ask for a display.
        self.figure = Figure(figsize=(self.width_in, self.height_in), dpi=DPI, facecolor="white")

    def draw(self, title: str) -> bytes:
        self.figure.text(
            MARGIN_IN / self.width_in,
            1 - 0.12 / self.height_in,
            title,
            fontsize=FONT + 3,
            va="top",
        )
        prediction, truth = self.prediction, self.truth
        self._picture(0, _image_title(prediction), self.picture)
        self._picture(1, "prediction", overlay(self.picture, prediction.predicted))
        column = 2
        if truth is not None:
            self._picture(2, "truth", overlay(self.picture, truth))
            self._picture(3, _error_title(truth, prediction.predicted), self._error(truth))
            column = 4
        self._uncertainty_by_distance(column)
        self._legend()
        for place, measure in enumerate(MEASURES):
            self._map(place, measure)
        left = MARGIN_IN / self.width_in
        self.figure.text(left, 0.1 / self.height_in, self.note, fontsize=FONT, va="bottom")
        buffer = io.BytesIO()
        # Matplotlib would write its release into the file.
        self.figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    def _axes(self, column: float, top_in: float, width_in: float, height_in: float) -> Axes:
        left_in = MARGIN_IN + column * (PANEL_IN + GAP_IN)
        return self.figure.add_axes(
            (
                left_in / self.width_in,
                1 - (top_in + height_in) / self.height_in,
                width_in / self.width_in,
                height_in / self.height_in,
            )
        )

    def _panel(self, column: int, top_in: float, title: str) -> Axes:
        axes = self._axes(column, top_in, PANEL_IN, self.panel_in)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("0.7")  # or a white image would have no end
        axes.set_title(title, fontsize=FONT + 1, loc="left", pad=4)
        return axes

    def _picture(self, column: int, title: str, picture: Image8) -> None:
        self._panel(column, self.first_in, title).imshow(picture)

    def _error(self, truth: NDArray[np.uint8]) -> Image8:
        """The picture in faint grey, with the wrong pixels and the unknown ones."""
        grey = 110 + self.picture.mean(axis=2, keepdims=True) * (145 / 255)
        shown = np.repeat(grey, 3, axis=2).astype(np.uint8)
        error = error_map(truth, self.prediction.predicted)
        shown[error == 1] = WRONG_COLOUR
        shown[error == UNKNOWN] = colour_of(UNKNOWN)
        return shown

    def _legend_entries(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Names and colours of what the first row shows, and of nothing else."""
        shown = np.unique(self.prediction.predicted)
        if self.truth is not None:
            shown = np.union1d(shown, self.truth)
        entries = [
            (_short(self.classes[index]), colour_of(int(index)))
            for index in shown
            if 0 < index < len(self.classes)
        ]
        if self.truth is not None:
            entries.append(("wrong", WRONG_COLOUR))
            if UNKNOWN in shown:
                entries.append(("unknown", colour_of(UNKNOWN)))
        return entries or [("background only", (255, 255, 255))]

    def _legend(self) -> None:
        self.figure.legend(
            [Patch(color="#{:02x}{:02x}{:02x}".format(*colour)) for _, colour in self.names],
            [name for name, _ in self.names],
            loc="upper left",
            bbox_to_anchor=(MARGIN_IN / self.width_in, 1 - self.legend_at_in / self.height_in),
            ncols=LEGEND_COLUMNS,
            fontsize=FONT,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
        )

    def _map(self, column: int, measure: str) -> None:
        members, classes = len(self.prediction.features), len(self.classes)
        shown = self.prediction.maps[measure]
        scale = scale_of(shown, most_possible(measure, members, classes))
        axes = self._panel(column, self.second_in, _spaced(measure))
        # A lone member's disagreement is 0 throughout, and a scale needs two ends.
        drawn = axes.imshow(shown, cmap=COLOURMAP, vmin=0, vmax=scale.top or 1)
        beside = self._axes(column, self.second_in + self.panel_in + 0.08, PANEL_IN - 0.15, BAR_IN)
        bar = self.figure.colorbar(
            drawn,
            cax=beside,
            orientation="horizontal",
            extend="max" if scale.cut else "neither",
        )
        ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, scale.top or 1)
        bar.set_ticks([tick for tick in ticks if tick <= scale.top])
        bar.ax.tick_params(labelsize=FONT - 1, length=2, pad=2)
        bar.set_label(_scale_label(measure, scale), fontsize=FONT - 1, labelpad=2)

    def _uncertainty_by_distance(self, column: int) -> None:
        """Means by distance, as multiples of the mean over all, so that units do not matter."""
        prediction = self.prediction
        boundary_of = "truth" if self.truth is not None else "prediction"
        found = uncertainty_by_distance(
            prediction.maps,
            prediction.predicted if self.truth is None else self.truth,
            prediction.predicted,
        )
        # The axis's numbers and name stand inside the column.
        axes = self._axes(
            column + AXIS_IN / (PANEL_IN + GAP_IN),
            self.first_in,
            self.width_in - 2 * MARGIN_IN - column * (PANEL_IN + GAP_IN) - AXIS_IN,
            self.panel_in,
        )
        axes.set_title("uncertainty against distance", fontsize=FONT + 1, loc="left", pad=4)
        if found.without_boundary:
            axes.set_axis_off()
            message = f"The {boundary_of} shows one class\nat most: there is no boundary."
            axes.text(0, 0.9, message, fontsize=FONT, va="top", transform=axes.transAxes)
            return
        _plot_by_distance(axes, found)
        axes.set_xlabel(f"up to so many px from a boundary of the {boundary_of}", fontsize=FONT - 1)


def _plot_by_distance(axes: Axes, found: UncertaintyByDistance) -> None:
    thin: dict[str, Any] = {"markersize": 3.5, "linewidth": 1.2}
    for measure, colour, marker in zip(MEASURES, LINE_COLOURS, LINE_MARKERS, strict=True):
        relative = _relative(found.means()[measure], found)
        if relative is not None:
            name = _spaced(measure)
            axes.plot(relative, marker=marker, color=colour, label=name, **thin)
    wrong = _relative(found.wrong_share(), found)
    if wrong is not None:
        axes.plot(wrong, "x--", color="black", label="share of wrong pixels", **thin)
    axes.axhline(1, color="0.6", lw=0.8, zorder=0)
    axes.set_xticks(range(BINS), labels=_bin_names())
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=FONT - 1, length=2)
    axes.set_ylabel("times its mean", fontsize=FONT - 1)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.lines:
        axes.legend(fontsize=FONT - 2, frameon=False, loc="upper right", handlelength=1.5)


def _relative(
    means: NDArray[np.float64], found: UncertaintyByDistance
) -> NDArray[np.float64] | None:
    """Bin means as multiples of the mean over all bins' pixels; None where that is 0."""
    mean = float(np.nansum(means * found.pixels) / found.pixels.sum())
    return means / mean if mean > 0 else None


def _bin_names() -> list[str]:
    """Each bin by the largest distance in it."""
    return [*(f"{edge}" for edge in EDGES_PX[1:]), f">{EDGES_PX[-1]}"]


def _image_title(prediction: Prediction) -> str:
    (H, W), (h, w) = prediction.size, prediction.predicted.shape
    shrunk = f", shrunk from {W} x {H}" if (h, w) != (H, W) else ""
    return f"image, {w} x {h} px{shrunk}"


def _error_title(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> str:
    known = truth != UNKNOWN
    if not known.any():
        return "error: nothing is known"
    return f"error: {100 * float((truth != predicted)[known].mean()):.1f} % of what is known"


def _scale_label(measure: str, scale: Scale) -> str:
    if scale.most == 0:
        return f"{UNITS[measure]}: a lone member cannot disagree"
    most = f"at most {scale.most:.2g}"
    if scale.cut:
        return f"{UNITS[measure]}, {most}; cut at {scale.top:.2g},\nthe 99.9th percentile"
    return f"{UNITS[measure]}, {most}"


def _spaced(measure: str) -> str:
    return measure.replace("_", " ")


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else f"{name[: NAME_CHARACTERS - 1]}…"
