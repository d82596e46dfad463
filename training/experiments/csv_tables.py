"""A run's numbers as CSV tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.experiments.analysis import (
    arm_weights,
    aubc_against,
    class_gains,
    classes_reached,
    penalties,
    quality_reached,
    standings,
)
from training.experiments.pooled_distance import last_uncertainties
from training.experiments.runs import Run
from training.experiments.statistics import Difference
from training.experiments.strategy import FULL

Row = Sequence[object]


def csv_tables(run: Run) -> dict[str, list[Row]]:
    """File names to rows, the head first. None is an empty field: a figure that does not exist."""
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
    """Every line measured, also those of incomplete seeds and of the whole pool."""
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
