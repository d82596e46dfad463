import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from training.experiments.count_coverage import (
    BadCounts,
    main,
    read_count_table,
    simulate,
    write_coverage,
)

DOCS = Path(__file__).resolve().parents[3] / "docs"

CELLS = "small cell counted"


def write_table(path, rng, images=150):
    """A common class that two committees count well, and one that hardly any image shows."""
    counted = rng.poisson(5, images) + 1
    rare = np.zeros(images, int)
    rare[:3] = 1
    lines = [f"image,{CELLS},small cell 0,small cell 1,cast counted,cast 0,cast 1"]
    for i, (n, r) in enumerate(zip(counted, rare, strict=True)):
        good, bad = n - rng.integers(0, 2), rng.poisson(5)
        lines.append(f"{i + 1},{n},{good},{bad},{r},0,0")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_table_is_read_by_its_head(tmp_path):
    table = read_count_table(write_table(tmp_path / "urine.csv", np.random.default_rng(0)))
    assert table.name == "urine"
    assert list(table.counted) == ["small cell", "cast"]
    assert table.predicted["small cell"].shape == (2, 150)


@pytest.mark.parametrize(
    "text", ["", "image,cell counted\n1,2\n", "cell counted,cell 0\n1,many\n", "cell 0\n1\n"]
)
def test_another_table_is_refused(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(BadCounts, match=r"t\.csv"):
        read_count_table(path)


def test_intervals_hold_where_they_are_given_and_are_withheld_elsewhere(tmp_path):
    table = read_count_table(write_table(tmp_path / "t.csv", np.random.default_rng(1)))
    found = list(simulate(table, [40, 80, 150], draws=400))
    assert [(row.class_name, row.audits) for row in found] == [
        ("small cell", 40),
        ("cast", 40),
        ("small cell", 80),
        ("cast", 80),
    ]
    for row in found[::2]:
        assert row.given == 1
        assert row.coverage == pytest.approx(0.95, abs=0.03)
        assert row.least <= row.coverage
        assert row.width < 0.8
    assert all(row.given == 0 and row.coverage is None for row in found[1::2])
    assert found == list(simulate(table, [40, 80], draws=400))  # the same draws again
    write_coverage(tmp_path / "out.csv", found)
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert (rows[0]["class"], rows[1]["coverage"], rows[1]["given"]) == ("small cell", "", "0.0000")


def test_the_command_writes_a_file_and_prints_a_table(tmp_path):
    table = write_table(tmp_path / "t.csv", np.random.default_rng(1))
    arguments = [str(table), "--draws", "50", "--audits", "30", "--audits", "60", "--output"]
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "out.csv")])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert [line.count("|") for line in lines] == [12] * 6
    assert lines[4].startswith("| t | small cell | 60 | 60 | 1.000 |")
    assert "| cast | 60 | 1 | 0.000 | - |" in lines[5]
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 5


def published():
    return list(csv.DictReader((DOCS / "counts/coverage.csv").read_text().splitlines()))


def test_the_published_intervals_hold_as_promised():
    # Where fewer than one draw in a hundred gives one, they are too few to tell.
    told = [row for row in published() if float(row["given"]) >= 0.01]
    coverage = [float(row["coverage"]) for row in told]
    assert min(coverage) >= 0.92
    assert 0.93 <= np.mean(coverage) <= 0.98
    assert max(float(row["width"]) for row in told) <= 1.05
    assert {row["set"] for row in told} == {"urine", "fluorescence"}


def test_the_published_figures_are_those_of_the_published_counts(tmp_path):
    found = list(simulate(read_count_table(DOCS / "counts/fluorescence.csv"), [60], draws=2000))
    write_coverage(tmp_path / "again.csv", found)
    (again,) = csv.DictReader((tmp_path / "again.csv").read_text().splitlines())
    (row,) = [r for r in published() if (r["set"], r["audits"]) == ("fluorescence", "60")]
    assert again == row
