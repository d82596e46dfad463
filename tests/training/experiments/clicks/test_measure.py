"""Simulated clicks and the methods they are given to, on drawn particles."""

from __future__ import annotations

import numpy as np

from training.experiments.clicks.measure import METHODS, measure, next_click, table
from training.particles.clicked import Click, Predicted

SIZE = (60, 90)


def test_the_next_click_is_where_the_larger_error_is_thickest() -> None:
    wanted, found = np.zeros((2, *SIZE), np.bool_)
    wanted[10:21, 10:21] = True
    assert next_click(wanted, found) == Click(15, 15)
    found[10:21, 10:41] = True
    surplus = next_click(wanted, found)
    assert (surplus.row, surplus.column > 20, surplus.adds) == (15, True, False)


def test_every_method_finds_a_clear_particle() -> None:
    truth = np.zeros(SIZE, np.int32)
    truth[20:40, 20:40] = 1
    grey = np.where(truth > 0, 60, 200).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 8, (*SIZE, 3), dtype=np.uint8)
    image = grey[:, :, None] + noise
    predicted = Predicted(image, (255 * truth).astype(np.uint8), truth, {"cell": 22.0})
    rows = measure("drawn", "one.png", predicted, truth, ["cell"])
    assert [(row.method, row.clicks) for row in rows] == [
        (method, n) for method in METHODS for n in (1, 2, 3)
    ]
    assert min(row.iou for row in rows if row.clicks == 1) > 0.8
    assert table(rows).count("| drawn |") == len(METHODS)
