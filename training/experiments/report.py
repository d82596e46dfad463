"""A run's report: one HTML file that loads nothing, and its numbers as CSV.

``training.experiments.analysis`` and ``sentences`` work out what it says; the prose around it is in
templates/report.html.j2.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from training.datasets.labelled import Labelled, LabelledFolder, read_image
from training.errors import TrainingError
from training.experiments import plots
from training.experiments.analysis import (
    SHARES_OF_FULL,
    ClassGain,
    Reach,
    adaptive_strategies,
    arm_weights,
    aubc_against,
    class_gains,
    class_target,
    classes_reached,
    heaviest,
    leaders,
    penalties,
    quality_reached,
    quality_target,
    standings,
)
from training.experiments.csv_tables import csv_tables
from training.experiments.pooled_distance import last_uncertainties, pooled_distance
from training.experiments.runs import Run, read_run
from training.experiments.sentences import (
    claim_sentences,
    format_p,
    format_seeds,
    hypothesis_sentences,
    ratio_sentence,
    summary_sentences,
)
from training.experiments.statistics import ALPHA, Difference, mean_interval, mean_known
from training.experiments.strategy import FULL, RANDOM
from training.figures.overlay import as_rgb, colour_of, overlay
from training.pixels import Image8

LEADERS = 5
"""Arms named per strategy; those that stood first less often are summed."""

THUMBNAIL_PX = 160
THUMBNAILS = 8
JPEG_QUALITY = 82

DASH = "–"
"""Of a class that the test images do not show."""

Cells = list[list[str]]


def write_report(folder: Path) -> tuple[Path, list[str]]:
    """Write report.html and csv/ into a run's folder.

    Returns:
        The report's path, and the sentences on the hypotheses and on the gain over random.

    Raises:
        BadRun: the folder is not a run, or no seed of it is complete.
        OSError: it cannot be written to.
    """
    run = read_run(folder)
    page, tables = report_html(run), csv_tables(run)
    (folder / "csv").mkdir(exist_ok=True)
    for name, rows in tables.items():
        with (folder / "csv" / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path, [*hypothesis_sentences(run), *claim_sentences(run)]


def report_html(run: Run) -> str:
    """The whole report as one page, without a link to anything outside it."""
    matrix, weights = penalties(run), arm_weights(run)
    foreground = [run.settings.classes[index] for index in run.foreground]
    return _template().render(
        run=run,
        settings=run.settings,
        foreground=foreground,
        full=FULL,
        rounds_in_all=len(run.strategies) * len(run.settings.seeds) * (run.settings.rounds + 1),
        summary=summary_sentences(run),
        hypotheses=hypothesis_sentences(run),
        claims=claim_sentences(run),
        full_quality=mean_interval(list(run.full_quality.values())) if run.full_quality else None,
        labels_for=[f"labels for {100 * share:.0f} %" for share in SHARES_OF_FULL],
        reached=_median_rows(
            run, quality_reached(run), map(quality_target, SHARES_OF_FULL), run.settings.pool
        )
        if run.full_quality
        else None,
        curves=_svg(lambda: plots.learning_curves(run)),
        effort=_svg(lambda: plots.effort_curves(run)),
        areas=_area_rows(run),
        against={name: _against_rows(run, name) for name in adaptive_strategies(run)},
        penalties=None if matrix is None else matrix.tolist(),
        penalty=None if matrix is None else matrix.mean(axis=0).tolist(),
        class_curves=_svg(lambda: plots.class_curves(run)),
        last_iou=_last_iou_rows(run),
        class_gains=_class_gain_rows(run),
        classes_known=_median_rows(run, classes_reached(run), map(class_target, foreground)),
        weights=_svg(lambda: plots.weight_curves(run, weights)) if weights else None,
        arms=[row for strategy in weights for row in _arm_rows(run, strategy)],
        distance=_distance(run),
        choices=_choices(run),
    )


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("training.experiments"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"breakable": _breakable, "seeds": format_seeds}
    return environment.get_template("report.html.j2")


def _breakable(name: str) -> Markup:
    """A long name that may break where a reader would break it."""
    return Markup("_<wbr>").join(name.split("_"))


def _svg(make: Callable[[], Figure]) -> str:
    # Inside an image the ids of two pictures cannot meet.
    return _data_uri(plots.draw(make), "svg+xml")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _median_rows(
    run: Run, reached: Sequence[Reach], targets: Iterable[str], pool: int | None = None
) -> Cells:
    """A row for each strategy, a column for each target."""
    labels: dict[tuple[str, str], list[float | None]] = {}
    for each in reached:
        labels.setdefault((each.strategy, each.target), []).append(each.labels)
    targets = list(targets)
    return [[s, *(_format_median(labels[s, t], pool) for t in targets)] for s in run.strategies]


def _format_median(labels: Sequence[float | None], pool: int | None = None) -> str:
    """The median; a seed that did not reach the target counts as later than all others."""
    never = sum(each is None for each in labels)
    # If at least half of the seeds did not reach it, the median is endless and left out.
    middle = float(np.median([np.inf if each is None else each for each in labels]))
    parts = []
    if np.isfinite(middle):
        share = "" if pool is None else f" ({100 * middle / pool:.0f} % of the pool)"
        parts.append(f"{middle:.0f}{share}")
    if never:
        parts.append(f"not reached in {never} of {format_seeds(len(labels))}")
    return "; ".join(parts)


def _area_rows(run: Run) -> Cells:
    return [
        [
            each.strategy,
            f"{100 * each.mean:.2f}",
            "" if each.sd is None else f"{100 * each.sd:.2f}",
            *_format_difference(each.difference, each.p_holm),
            each.verdict,
        ]
        for each in standings(run)
    ]


def _against_rows(run: Run, strategy: str) -> Cells:
    return [
        [each.other, *_format_difference(each.difference, each.p_holm)]
        for each in aubc_against(run)
        if each.strategy == strategy
    ]


def _format_difference(d: Difference | None, p_holm: float | None) -> list[str]:
    """Difference and interval in points, p, and p by Holm."""
    if d is None:
        return [""] * 4
    return [
        f"{100 * d.mean:+.2f}",
        _format_interval(d),
        "" if d.p is None else format_p(d.p),
        "" if p_holm is None else format_p(p_holm),
    ]


def _format_interval(d: Difference) -> str:
    if d.low is None or d.high is None:
        return ""
    return f"{100 * d.low:+.2f} to {100 * d.high:+.2f}"


def _last_iou_rows(run: Run) -> Cells:
    rows = []
    for strategy in run.strategies:
        last = [mean_known(run.class_iou(strategy, index))[-1] for index in run.foreground]
        rows.append([strategy, *(f"{x:.3f}" if np.isfinite(x) else DASH for x in last)])
    return rows


def _class_gain_rows(run: Run) -> Cells:
    gains = {(gain.strategy, gain.index): gain for gain in class_gains(run)}

    def cell(gain: ClassGain | None) -> str:
        if gain is None:
            return DASH
        interval = _format_interval(gain.difference)
        star = " *" if gain.p_holm is not None and gain.p_holm < ALPHA else ""
        return f"{100 * gain.difference.mean:+.2f}{f' ({interval})' if interval else ''}{star}"

    return [
        [strategy, *(cell(gains.get((strategy, index))) for index in run.foreground)]
        for strategy in run.strategies
        if strategy != RANDOM
    ]


def _arm_rows(run: Run, strategy: str) -> Cells:
    heavy, best = heaviest(run, strategy), leaders(run, strategy)
    curves = [line for seed in run.seeds for line in run.curve(strategy, seed)]
    rounds = sum(line.weights is not None for line in curves)

    def row(name: str, arms: Sequence[str]) -> list[str]:
        counts = [sum(count[arm] for arm in arms) for count in (heavy, best)]
        return [strategy, name, *(f"{count} of {rounds} rounds" for count in counts)]

    ranked = sorted({*heavy, *best}, key=lambda arm: (-heavy[arm], -best[arm], arm))
    rows = [row(plots.plain(arm).replace("/", " / "), [arm]) for arm in ranked[:LEADERS]]
    rest = ranked[LEADERS:]
    return [*rows, row(f"{len(rest)} other arms", rest)] if rest else rows


@dataclass(frozen=True)
class DistanceView:
    """What the page says of uncertainty by distance."""

    sentence: str
    networks: int
    curves: str


def _distance(run: Run) -> DistanceView | None:
    pooled = pooled_distance([uncertainty for *_, uncertainty in last_uncertainties(run)])
    if pooled is None:
        return None
    curves = _svg(lambda: plots.distance_curves(pooled.edges_px, pooled.wrong, pooled.measures))
    return DistanceView(ratio_sentence(pooled), pooled.networks, curves)


@dataclass(frozen=True)
class Thumbnail:
    """One chosen image; without a source where it cannot be read, and the caption says why."""

    name: str
    caption: str
    source: str | None


@dataclass(frozen=True)
class Choices:
    """What each strategy chose first; no strategies where there is no folder of images."""

    seed: int
    images: Path
    key: list[tuple[str, tuple[int, int, int]]]
    strategies: dict[str, list[Thumbnail]] | None


def _choices(run: Run) -> Choices:
    seed, classes = min(run.seeds), run.settings.classes
    images = run.settings.data / "images"
    key = [(classes[index], colour_of(index)) for index in run.foreground]
    if not images.is_dir():
        return Choices(seed, images, key, None)
    folder = LabelledFolder(run.settings.data, classes, ())
    chosen = {name: run.lines[name, seed, 1].chosen[:THUMBNAILS] for name in run.strategies}
    return Choices(
        seed,
        images,
        key,
        {strategy: [_thumbnail(folder, n) for n in names] for strategy, names in chosen.items()},
    )


def _thumbnail(folder: LabelledFolder, name: str) -> Thumbnail:
    try:
        return Thumbnail(name, name, _data_uri(_draw_thumbnail(folder, name), "jpeg"))
    except (OSError, TrainingError) as error:
        return Thumbnail(name, f"{name}: {error}", None)


def _draw_thumbnail(folder: LabelledFolder, name: str) -> bytes:
    """A JPEG of at most ``THUMBNAIL_PX``, the classes of its mask laid over it.

    Raises:
        OSError: the image is not there.
        TrainingError: it or its mask cannot be read.
    """
    path = folder.root / "images" / name
    image = as_rgb(read_image(path))
    mask = folder.read_mask(Labelled(path, folder.root / "masks" / f"{path.stem}.png"))
    H, W = image.shape[:2]
    scale = min(1.0, THUMBNAIL_PX / max(H, W))
    size = (max(1, round(W * scale)), max(1, round(H * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small_mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    buffer = io.BytesIO()
    shown: Image8 = overlay(small.astype(np.uint8), small_mask.astype(np.uint8))
    Image.fromarray(shown).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
