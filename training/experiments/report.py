"""A run's report: one HTML file that loads nothing, and its numbers as CSV.

What it says is worked out in ``training.experiments.analysis``; ``write_report`` alone writes.
"""

from __future__ import annotations

import base64
import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from training.datasets.labelled import Labelled, LabelledFolder, read_image
from training.errors import TrainingError
from training.experiments import plots
from training.experiments.analysis import (
    SHARES_OF_FULL,
    adaptive_strategies,
    arm_weights,
    aubc_against,
    claim_sentences,
    class_gains,
    class_target,
    classes_reached,
    heaviest,
    hypothesis_sentences,
    last_uncertainties,
    leaders,
    p_digits,
    penalties,
    pooled_distance,
    quality_reached,
    quality_target,
    ratio_sentence,
    seed_words,
    standings,
    summary_sentences,
)
from training.experiments.runs import Run, read_run
from training.experiments.statistics import ALPHA, Difference, mean_interval
from training.experiments.strategy import FULL, RANDOM
from training.figures.contact_sheet import as_rgb, colour_of, overlay
from training.images import Image8

LEADERS = 5
"""Arms named per strategy; those that stood first less often are summed."""

THUMBNAIL_PX = 160
THUMBNAILS = 8
JPEG_QUALITY = 82

Row = Sequence[object]


def write_report(folder: Path) -> tuple[Path, list[str]]:
    """Write report.html and csv/ into a run's folder.

    Returns:
        The report's path, and the sentences on the hypotheses and on the gain over random.

    Raises:
        BadRun: the folder is no run, or no seed of it is complete.
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


def csv_tables(run: Run) -> dict[str, list[Row]]:
    """File names to rows, a head first; an empty field is what does not exist."""
    classes = run.settings.classes
    return {
        "curves.csv": _curve_rows(run),
        "aubc.csv": _aubc_rows(run),
        "aubc_against.csv": [
            ["strategy", "against", "seeds", *DIFFERENCE],
            *(
                [a.strategy, a.other, a.difference.pairs, *_cells(a.difference, a.p_holm)]
                for a in aubc_against(run)
            ),
        ],
        "aubc_classes.csv": [
            ["strategy", "class", "seeds", *DIFFERENCE],
            *(
                [g.strategy, classes[g.index], g.difference.pairs, *_cells(g.difference, g.p_holm)]
                for g in class_gains(run)
            ),
        ],
        "penalty.csv": _penalty_rows(run),
        "weights.csv": _weight_rows(run),
        "labels_to.csv": [
            ["strategy", "seed", "target", "labels"],
            *(
                [reach.strategy, reach.seed, reach.target, reach.labels]
                for reach in (*quality_reached(run), *classes_reached(run))
            ),
        ],
        "distance.csv": _distance_rows(run),
    }


DIFFERENCE = ("difference", "low", "high", "p", "p_holm")


def _cells(d: Difference | None, p_holm: float | None) -> list[object]:
    """The columns ``DIFFERENCE``."""
    return [*([None] * 4 if d is None else [d.mean, d.low, d.high, d.p]), p_holm]


def _curve_rows(run: Run) -> list[Row]:
    """Every line measured, those of incomplete seeds and of the whole pool too."""
    classes = run.settings.classes
    counted = ("labelled", "particles", "mean_iou", "pixels_wrong", "ece", "seconds")
    figures = (*counted, "leader", "heaviest")
    head = ["strategy", "seed", "round", *figures]
    for name in ("iou", "dice", "known"):
        head += [f"{name}_{each}" for each in classes]
    order = {name: i for i, name in enumerate((*run.strategies, FULL))}
    rows: list[Row] = [head]
    for key in sorted(run.lines, key=lambda key: (order.get(key[0], len(order)), *key)):
        line = run.lines[key]
        row: list[object] = [*key, *(getattr(line, figure) for figure in figures)]
        rows.append([*row, *line.iou, *line.dice, *map(int, line.known)])
    return rows


def _aubc_rows(run: Run) -> list[Row]:
    rows: list[Row] = [["strategy", "seeds", "aubc", "sd", *DIFFERENCE]]
    for each in standings(run):
        row: list[object] = [each.strategy, len(run.seeds), each.mean, each.sd]
        rows.append([*row, *_cells(each.difference, each.p_holm)])
    return rows


def _penalty_rows(run: Run) -> list[Row]:
    head: Row = ["beats", *run.strategies]
    matrix = penalties(run)
    if matrix is None:
        return [head]
    rows: list[Row] = [
        [name, *row] for name, row in zip(run.strategies, matrix.tolist(), strict=True)
    ]
    return [head, *rows, ["penalty", *matrix.mean(axis=0).tolist()]]


def _weight_rows(run: Run) -> list[Row]:
    rows: list[Row] = [["strategy", "measure", "aggregate", "round", "labelled", "weight"]]
    for strategy, arms in arm_weights(run).items():
        for arm, weights in arms.items():
            measure, _, aggregate = arm.partition("/")
            rows += [
                [strategy, measure, aggregate, number, int(labelled), weight]
                for number, (labelled, weight) in enumerate(
                    zip(run.budgets.tolist(), weights.tolist(), strict=True)
                )
                if np.isfinite(weight)
            ]
    return rows


def _distance_rows(run: Run) -> list[Row]:
    found = last_uncertainties(run)
    names = list(found[0][3].measures) if found else []
    rows: list[Row] = [["strategy", "seed", "round", "from_px", "to_px", "pixels", "wrong", *names]]
    for strategy, seed, number, uncertainty in found:
        ends = [*uncertainty.edges_px[1:], None]
        for i, (low, high) in enumerate(zip(uncertainty.edges_px, ends, strict=True)):
            held = [uncertainty.wrong[i], *(uncertainty.measures[name][i] for name in names)]
            if not uncertainty.pixels[i]:
                held = [None] * len(held)
            rows.append([strategy, seed, number, low, high, uncertainty.pixels[i], *held])
    return rows


CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
.read { color: #444; } .note { background: #fff4d6; padding: .5rem .8rem; }
.wide { overflow-x: auto; } img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
th { font-weight: 600; vertical-align: bottom; } th.words, td.words { text-align: left; }
.thumbs { display: flex; flex-wrap: wrap; gap: .5rem; margin-bottom: 1rem; }
.thumbs figure { margin: 0; width: 160px; } .thumbs figcaption { font-size: 11px;
  overflow-wrap: anywhere; line-height: 1.2; }
.key i { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 1em;
  vertical-align: -.1em; }
"""


def report_html(run: Run) -> str:
    """The whole report as one page, without a link to anything outside it."""
    parts = [
        _head(run),
        _learning(run),
        _areas(run),
        _penalty(run),
        _classes(run),
        _arms(run),
        _distances(run),
        _choices(run),
    ]
    title = escape(run.settings.title)
    # The policy forbids the page to load anything, whatever a class or file is called.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _head(run: Run) -> str:
    s = run.settings
    seeds = ", ".join(map(str, run.seeds))
    if len(run.seeds) < len(s.seeds):
        seeds += f" ({len(run.seeds)} of {len(s.seeds)} are complete)"
    rows = [
        ["data", str(s.data)],
        ["learner", s.learner],
        ["classes", ", ".join(s.classes)],
        ["strategies", ", ".join(run.strategies)],
        ["seeds", seeds],
        ["images", f"{s.pool} in the pool, {s.test} held back to test on"],
        [
            "labels",
            f"{s.initial} at first{f' from {s.start}' if s.start else ''}, then {s.rounds} rounds "
            f"of {s.query}" + (", which alone are counted below" if s.start else ""),
        ],
    ]
    parts = [_table([], rows, left=(0, 1))]
    cells = len(run.strategies) * len(s.seeds) * (s.rounds + 1)
    if run.missing:
        parts.append(
            _note(
                f"This run is incomplete: {run.missing} of {cells} rounds are missing. All that "
                f"follows uses the {len(run.seeds)} of {len(s.seeds)} seeds of which every "
                "strategy has every round."
            )
        )
    if run.unreadable:
        lines = "line was" if run.unreadable == 1 else "lines were"
        parts.append(_note(f"{run.unreadable} half-written {lines} left out."))
    parts.append(_list(summary_sentences(run)))
    parts.append("<h3>Hypotheses</h3>")
    parts.append(
        _read(
            "What adaptive acquisition was hoped to do. The best fixed measure is the best of "
            "these very seeds, which favours it; a share of full-data quality has Fieller's "
            "interval."
        )
    )
    parts.append(_list(hypothesis_sentences(run)))
    parts.append("<h3>Labels until full-data quality</h3>")
    parts.append(_reached(run))
    parts.append("<h3>Gain over random</h3>")
    parts.append(
        _read(
            "What a strategy finds beyond random with equally many labels, as a share of random's "
            "mean foreground IoU, with Fieller's paired interval; each interval stands alone, "
            "uncorrected for the number of strategies."
        )
    )
    first, *others = claim_sentences(run)
    parts.append(f"<p>{escape(first)}</p>")
    parts.append(_list(others))
    read = (
        "AUBC, the area under the budget curve, is the mean foreground IoU while the labels are "
        "spent; a point is a hundredth of IoU, and a difference counts as shown where Holm's "
        "corrected p is below .05."
    )
    return _section("What was run, and what came of it", read, *parts)


def _reached(run: Run) -> str:
    if not run.full_quality:
        return _note(
            f'No learner got the whole pool (strategy "{FULL}"), so full-data quality is unknown.'
        )
    full = mean_interval(list(run.full_quality.values()))
    read = _read(
        f"The median over {seed_words(full.count)} of the {run.label_unit} at which a strategy "
        f"first reaches so much of what its seed reaches with all {run.settings.pool} of them "
        f"({full.mean:.3f} mean IoU), and their share of the pool."
    )
    found = quality_reached(run)
    rows = []
    for strategy in run.strategies:
        cells = [
            _median_text(
                [r.labels for r in found if (r.strategy, r.target) == (strategy, target)],
                run.settings.pool,
            )
            for target in map(quality_target, SHARES_OF_FULL)
        ]
        rows.append([strategy, *cells])
    head = ["strategy", *(f"labels for {100 * share:.0f} %" for share in SHARES_OF_FULL)]
    return read + _table(head, rows)


def _median_text(labels: Sequence[float | None], pool: int | None = None) -> str:
    """The median, with what was not reached counted as later than all else."""
    never = sum(each is None for each in labels)
    # At least half of the seeds unreached makes the median endless, which is said by its absence.
    middle = float(np.median([np.inf if each is None else each for each in labels]))
    parts = []
    if np.isfinite(middle):
        share = "" if pool is None else f" ({100 * middle / pool:.0f} % of the pool)"
        parts.append(f"{middle:.0f}{share}")
    if never:
        parts.append(f"not reached in {never} of {seed_words(len(labels))}")
    return "; ".join(parts)


def _learning(run: Run) -> str:
    band = (
        "a line is the mean over the seeds, its band the 95 % t-interval of that mean; higher and "
        "further left is better"
    )
    return _section(
        "Learning curves",
        f"Quality on the test images as labels are added: {band}. Bands of two strategies may "
        "overlap although their paired difference is clear; the next table tests that.",
        _figure(plots.draw(lambda: plots.learning_curves(run)), "Learning curves by labels"),
        _read(
            "The same against a person's effort: each point is a round, at the mean number of "
            "particles to draw. A strategy that asks for crowded images moves to the right."
        ),
        _figure(plots.draw(lambda: plots.effort_curves(run)), "Learning curves by particles"),
    )


def _areas(run: Run) -> str:
    rows = [
        [
            each.strategy,
            f"{100 * each.mean:.2f}",
            "" if each.sd is None else f"{100 * each.sd:.2f}",
            *_difference_words(each.difference, each.p_holm),
            each.verdict,
        ]
        for each in standings(run)
    ]
    head = ["strategy", "AUBC", "sd", *DIFFERENCE_HEAD, "against random"]
    parts = [_table(head, rows, left=(0, len(head) - 1))]
    for strategy in adaptive_strategies(run):
        parts.append(f"<h3>{escape(strategy)} against each other strategy</h3>")
        parts.append(_read("Paired by seed; Holm's correction is over the rows of this table."))
        against = [
            [each.other, *_difference_words(each.difference, each.p_holm)]
            for each in aubc_against(run)
            if each.strategy == strategy
        ]
        parts.append(_table(["against", *DIFFERENCE_HEAD], against))
    return _section(
        "Area under the budget curve",
        "In points of mean foreground IoU, largest first; the difference from random is paired by "
        "seed, and a star marks what stays below .05 after Holm's correction over the strategies. "
        '"No difference shown" does not say that there is none: few seeds show little.',
        *parts,
    )


DIFFERENCE_HEAD = ("difference", "95 %", "p", "p, Holm")


def _difference_words(d: Difference | None, p_holm: float | None) -> list[str]:
    """The columns ``DIFFERENCE_HEAD``, in points."""
    if d is None:
        return [""] * 4
    return [
        f"{100 * d.mean:+.2f}",
        _interval_words(d),
        "" if d.p is None else p_digits(d.p),
        "" if p_holm is None else p_digits(p_holm),
    ]


def _interval_words(d: Difference) -> str:
    if d.low is None or d.high is None:
        return ""
    return f"{100 * d.low:+.2f} to {100 * d.high:+.2f}"


def _penalty(run: Run) -> str:
    matrix = penalties(run)
    if matrix is None:
        body = _note("This needs at least two seeds.")
    else:
        # Light enough at 1 for black text to stand out.
        rows: list[Sequence[str | tuple[str, str]]] = [
            [name, *((f"{x:.2f}", f"background: rgba(0, 114, 178, {0.55 * x:.3f})") for x in row)]
            for name, row in zip(run.strategies, matrix.tolist(), strict=True)
        ]
        strong = "font-weight: 600; border-top: 2px solid #888"
        mean = matrix.mean(axis=0).tolist()
        rows.append([("penalty", strong), *((f"{x:.2f}", strong) for x in mean)])
        body = _table(["beats", *run.strategies], rows)
    return _section(
        "Who beats whom",
        "An entry is the share of budgets at which the row's strategy beats the column's in a "
        "paired t-test over the seeds (Holm's correction over all pairs, 5 %); the last row, the "
        "column's mean, is the penalty of Ash et al. 2020: lower is better.",
        body,
    )


def _classes(run: Run) -> str:
    names = [run.settings.classes[index] for index in run.foreground]
    final = []
    for strategy in run.strategies:
        at_end = [
            plots.mean_known(run.values(strategy, plots.iou_of(index)))[-1]
            for index in run.foreground
        ]
        final.append([strategy, *(f"{x:.3f}" if np.isfinite(x) else "–" for x in at_end)])
    found = classes_reached(run)
    known = [
        [
            strategy,
            *(
                _median_text(
                    [
                        r.labels
                        for r in found
                        if (r.strategy, r.target) == (strategy, class_target(name))
                    ]
                )
                for name in names
            ),
        ]
        for strategy in run.strategies
    ]
    return _section(
        "Class by class",
        "IoU of each class, mean over the seeds: a strategy may gain on a common class what it "
        "loses on a rare one.",
        _figure(plots.draw(lambda: plots.class_curves(run)), "IoU by class and labels"),
        _read("IoU after the last round; a dash is a class that the test images do not show."),
        _table(["strategy", *names], final),
        _read(
            "The area under the curve of each class's IoU, less random's with the same seeds, in "
            "points with its 95 % interval; a star marks what stays below .05 after Holm's "
            "correction over the classes of a strategy."
        ),
        _table(["strategy", *names], _class_rows(run)),
        _read(
            f"{run.label_unit.capitalize()} until one shows the class: the median over the seeds, "
            "and how many never saw it."
        ),
        _table(["strategy", *names], known),
    )


def _class_rows(run: Run) -> list[list[str]]:
    gains = {(gain.strategy, gain.index): gain for gain in class_gains(run)}
    rows = []
    for strategy in run.strategies:
        if strategy == RANDOM:
            continue
        row = [strategy]
        for index in run.foreground:
            gain = gains.get((strategy, index))
            if gain is None:
                row.append("–")
                continue
            words = f"{100 * gain.difference.mean:+.2f}"
            interval = _interval_words(gain.difference)
            words += f" ({interval})" if interval else ""
            row.append(words + (" *" if gain.p_holm is not None and gain.p_holm < ALPHA else ""))
        rows.append(row)
    return rows


def _arms(run: Run) -> str:
    weights = arm_weights(run)
    read = (
        "Adaptive strategies weigh arms, a measure of doubt with a way to sum it up over an image; "
        "a line above the dotted one has more than an equal share, mean over the seeds."
    )
    if not weights:
        return _section("Weights of the arms", read, _note("No strategy of this run has weights."))
    rows = [
        row
        for strategy in weights
        for row in _first_arms(
            strategy,
            heaviest(run, strategy),
            leaders(run, strategy),
            sum(
                line.weights is not None for seed in run.seeds for line in run.curve(strategy, seed)
            ),
        )
    ]
    return _section(
        "Weights of the arms",
        read,
        _figure(plots.draw(lambda: plots.weight_curves(run, weights)), "Weights of the arms"),
        _read(
            "In how many rounds, over all seeds, an arm alone had the most weight, which it earns "
            "over all rounds, and in how many it was the one that saw the errors of the latest "
            "batch best."
        ),
        _table(["strategy", "arm", "most weight", "best of the latest batch"], rows, left=(0, 1)),
    )


def _first_arms(
    strategy: str, heavy: Counter[str], best: Counter[str], rounds: int
) -> list[list[str]]:
    def row(name: str, arms: Iterable[str]) -> list[str]:
        named = list(arms)
        cells = [
            f"{sum(counts[arm] for arm in named)} of {rounds} rounds" for counts in (heavy, best)
        ]
        return [strategy, name, *cells]

    ranked = sorted({*heavy, *best}, key=lambda arm: (-heavy[arm], -best[arm], arm))
    rows = [row(plots.plain(arm).replace("/", " / "), [arm]) for arm in ranked[:LEADERS]]
    rest = ranked[LEADERS:]
    return [*rows, row(f"{len(rest)} other arms", rest)] if rest else rows


def _distances(run: Run) -> str:
    read = (
        "Doubt and errors of the last networks by the distance of a pixel to the nearest boundary "
        "in the truth: doubt that falls as errors fall is doubt in the right place."
    )
    distance = pooled_distance([uncertainty for *_, uncertainty in last_uncertainties(run)])
    title = "Doubt by distance to a boundary"
    if distance is None:
        return _section(title, read, _note("No round of this run holds doubt by distance."))
    picture = plots.draw(
        lambda: plots.distance_curves(distance.edges_px, distance.wrong, distance.measures)
    )
    networks = "network" if distance.networks == 1 else "networks"
    return _section(
        title,
        read,
        f"<p>{escape(ratio_sentence(distance))} Mean over {distance.networks} {networks}, the "
        "last of each strategy and seed.</p>",
        _figure(picture, "Doubt by distance to a boundary"),
    )


def _choices(run: Run) -> str:
    seed = min(run.seeds)
    read = (
        f"The first images that each strategy asked for after the initial ones (seed {seed}), with "
        "the outlines of the true masks: what it looks for can be seen."
    )
    title = "What each strategy chose first"
    images = run.settings.data / "images"
    if not images.is_dir():
        return _section(
            title, read, _note(f"The images are not shown: there is no folder {images} here.")
        )
    folder = LabelledFolder(run.settings.data, run.settings.classes, ())
    parts = [_colour_key(run.settings.classes)]
    for strategy in run.strategies:
        chosen = run.lines[strategy, seed, 1].chosen[:THUMBNAILS]
        tiles = "".join(_tile(folder, name) for name in chosen)
        parts.append(f'<h3>{escape(strategy)}</h3>\n<div class="thumbs">{tiles}</div>')
    return _section(title, read, *parts)


def _colour_key(classes: Sequence[str]) -> str:
    entries = "".join(
        f'<i style="background: rgb{colour_of(index)}"></i>{escape(name)}'
        for index, name in enumerate(classes)
        if index
    )
    return f'<p class="key">{entries}</p>'


def _tile(folder: LabelledFolder, name: str) -> str:
    try:
        picture = _thumbnail(folder, name)
    except (OSError, TrainingError) as error:
        return f"<figure><figcaption>{escape(name)}: {escape(str(error))}</figcaption></figure>"
    return (
        f'<figure><img alt="{escape(name)}" src="{_data_uri(picture, "jpeg")}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )


def _thumbnail(folder: LabelledFolder, name: str) -> bytes:
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


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _figure(svg: bytes, alt: str) -> str:
    # Inside an image the ids of two pictures cannot meet.
    return f'<p><img alt="{escape(alt)}" src="{_data_uri(svg, "svg+xml")}"></p>'


def _section(title: str, read: str, *parts: str) -> str:
    body = "\n".join(parts)
    return f"<section>\n<h2>{escape(title)}</h2>\n{_read(read)}\n{body}\n</section>"


def _read(sentence: str) -> str:
    return f'<p class="read">{escape(sentence)}</p>'


def _note(sentence: str) -> str:
    return f'<p class="note">{escape(sentence)}</p>'


def _list(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str | tuple[str, str]]],
    left: Sequence[int] = (0,),
) -> str:
    """Cells are texts, or texts with a CSS style; ``left`` are the columns of words."""
    lines = []
    if head:
        # Long names may break where a reader would break them.
        names = (escape(name).replace("_", "_<wbr>") for name in head)
        lines.append(_row(names, "th", left))
    for row in rows:
        pairs = [cell if isinstance(cell, tuple) else (cell, "") for cell in row]
        lines.append(
            _row((escape(words) for words, _ in pairs), "td", left, [style for _, style in pairs])
        )
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _row(
    cells: Iterable[str], tag: str, left: Sequence[int], styles: Sequence[str] | None = None
) -> str:
    parts = []
    for column, cell in enumerate(cells):
        words = ' class="words"' if column in left else ""
        style = f' style="{styles[column]}"' if styles and styles[column] else ""
        parts.append(f"<{tag}{words}{style}>{cell}</{tag}>")
    return "<tr>" + "".join(parts) + "</tr>"
