"""The tables that intervals are simulated on hold what people and committees counted."""

import csv

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from training.experiments import count_committees
from training.experiments.count_coverage import read_count_table

IMAGES = 6


class InThisProcess:
    """Stands in for the pool, whose processes would not see what the tests replace."""

    def __init__(self, processes, mp_context):
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def folder(tmp_path):
    """Images 0 to 5, each with as many cells of class 1 as its number, and a cast in the last."""
    for name in ("images", "masks", "instances"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.txt").write_text("background\ncell\ncast\n")
    for number in range(IMAGES):
        numbers = np.zeros((64, 64), np.uint16)
        for cell in range(number):
            numbers[10:16, 10 * cell : 10 * cell + 6] = cell + 1
        mask = (numbers > 0).astype(np.uint8)
        if number == IMAGES - 1:
            mask[40:60, 10:50] = 2
        Image.fromarray(np.repeat(mask[..., None] * 90, 3, axis=2)).save(
            tmp_path / "images" / f"{number}.png"
        )
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
        Image.fromarray(numbers).save(tmp_path / "instances" / f"{number}.png")
    return tmp_path


def make(folder, draws):
    arguments = [str(folder), "--labels=5", f"--draws={draws}", f"--output={folder / 't.csv'}"]
    done = CliRunner().invoke(count_committees.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return read_count_table(folder / "t.csv")


def test_boxes_are_counted_and_draws_that_are_there_stay(folder, monkeypatch):
    with (folder / "boxes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "class", "x0", "y0", "x1", "y1"])
        rows.writerows([["3.png", 1, 0, 0, 9, 9]] * 4 + [["5.png", 2, 0, 0, 9, 9]])
    asked = []

    def count(root, labels, draw):
        asked.append(draw)
        return np.full((2, IMAGES), draw + labels)

    monkeypatch.setattr(count_committees, "counted_by_committee", count)
    monkeypatch.setattr(count_committees, "ProcessPoolExecutor", InThisProcess)
    make(folder, 1)
    table = make(folder, 3)
    assert asked == [0, 1, 2]
    assert table.counted["cell"].tolist() == [0, 0, 0, 4, 0, 0]
    assert table.counted["cast"].tolist() == [0, 0, 0, 0, 0, 1]
    assert table.predicted["cast"].tolist() == [[5] * IMAGES, [6] * IMAGES, [7] * IMAGES]


def test_a_committee_counts_every_image(folder, monkeypatch):
    monkeypatch.setattr(count_committees, "STEPS", 2)
    read = count_committees.read_labelled_folder(folder)
    assert count_committees.counted_by_people(read)[0].tolist() == [0, 1, 2, 3, 4, 5]
    counts = count_committees.counted_by_committee(folder, 5, 0)
    assert counts.shape == (2, IMAGES)
