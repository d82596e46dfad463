"""What splitting is worth is measured as it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.experiments.touching import Counted, measure, read_rows, table, write_rows


def test_both_methods_are_measured_on_the_same_images(tmp_path: Path) -> None:
    y, x = np.mgrid[:60, :120]
    truth = np.zeros(y.shape, np.int32)
    for number, column in ((1, 25), (4, 55), (5, 85)):
        truth[(y - 30) ** 2 + (x - column) ** 2 < 300] = number
    mask = (truth > 0).astype(np.uint8)
    sure = np.ones(truth.shape, np.float32)
    rows = measure("cells", 3, [(truth, mask, sure, {1: 34.0})] * 2)
    assert rows == [
        Counted("cells", 3, "components", 2, 6, 2, 0, 0, 4),
        Counted("cells", 3, "watershed", 2, 6, 6, 6, 6, 0),
    ]
    write_rows(tmp_path / "rows.csv", rows)
    assert read_rows(tmp_path / "rows.csv") == rows
    lines = table(rows).splitlines()
    assert lines[2] == "| cells | F1 at IoU .5 | 0.000 | 1.000 | +1.000 |"
    assert lines[5] == "| cells | bias of the count | -0.667 | 0.000 | +0.667 |"
