"""A replay's curves: the numbers of a point, and how they are shown."""

import csv
from pathlib import Path

import numpy as np
import pytest

from backend.commands.replay.curves import (
    Curve,
    Point,
    ReplayResult,
    describe,
    quality,
    table,
    write_csv,
)
from training.quality.metrics import overlap

CLASSES = ("background", "red cell", "crystal", "cast")


def point(number: int, red: float, crystal: float | None, **fields: object) -> Point:
    given: dict[str, object] = {
        "round": number,
        "labels": 10 * number,
        "made": number,
        "promoted": True,
        "version": number,
        "publication": f"committee-v{number}.1",
        "iou": {"red cell": red, "crystal": crystal, "cast": None},
        "dice": {"red cell": red, "crystal": crystal, "cast": None},
        "seconds": {"label": 1.5, "wait": 10.0, "collect": 2.0, "fit": 30.25, "test": 4.0},
        "served": 0 if number == 1 else 10,
        "mismatches": 0,
    }
    return Point(**{**given, **fields})  # type: ignore[arg-type]  # fields are the test's own


def result(*orders: str) -> ReplayResult:
    curves = tuple(
        Curve(order, 7 + i, f"replay f {order}", (point(1, 0.5, None), point(2, 0.75, 0.25 * i)))
        for i, order in enumerate(orders)
    )
    return ReplayResult("f", CLASSES, 30, 8, deleted=False, curves=curves)


def test_quality_is_by_class_name_and_none_where_nothing_can_be_judged() -> None:
    truth = np.array([[1, 1, 2, 0, 255, 255]], dtype=np.uint8)
    seen = np.array([[1, 0, 2, 2, 3, 1]], dtype=np.uint8)
    iou, dice = quality(overlap(truth, seen, len(CLASSES)), CLASSES)
    assert iou == {"red cell": 0.5, "crystal": 0.5, "cast": None}
    assert dice == pytest.approx({"red cell": 2 / 3, "crystal": 2 / 3, "cast": None})


def test_a_point_s_mean_leaves_out_the_classes_that_nothing_showed() -> None:
    assert point(1, 0.75, 0.25).mean_iou == 0.5
    assert point(1, 0.75, None).mean_iou == 0.75


def test_a_point_where_no_class_was_there_and_none_was_seen_is_perfect() -> None:
    assert point(1, None, None).mean_dice == 1.0  # type: ignore[arg-type]  # None is allowed


def test_one_curve_is_shown_with_its_seconds_and_its_order() -> None:
    said = describe(result("queue"))
    assert "30 images to learn from, 8 held back" in said
    assert "10 of 10 tasks that Label Studio served were the head of the ranking" in said
    row = next(line for line in said.splitlines() if "committee-v2.1" in line)
    assert row.split() == [
        "2",
        "20",
        "v2",
        "committee-v2.1",
        "0.375",
        "0.375",
        "0.750",
        "0.000",
        "-",
    ]
    assert "47.8" in said  # the seconds of a round in all
    assert "Side by side" not in said


def test_two_curves_are_shown_side_by_side_with_their_difference() -> None:
    last = describe(result("queue", "random")).splitlines()[-1]
    assert last.split() == ["2", "20", "0.375", "0.500", "-0.125", "0.375", "0.500", "-0.125"]


def test_a_version_that_was_kept_is_shown_as_such() -> None:
    curve = Curve("queue", 7, "t", (point(2, 0.5, 0.5, promoted=False, version=1),))
    said = describe(ReplayResult("f", CLASSES, 3, 1, deleted=False, curves=(curve,)))
    assert "v1 (v2 kept)" in said


def test_tasks_out_of_order_are_counted_aloud() -> None:
    curve = Curve("queue", 7, "t", (point(2, 0.5, 0.5, mismatches=3),))
    said = describe(ReplayResult("f", CLASSES, 3, 1, deleted=False, curves=(curve,)))
    assert "7 of 10 tasks" in said
    assert "3 were not" in said


def test_json_holds_the_means_too() -> None:
    curve = result("queue").to_json()["curves"][0]
    assert curve["points"][1]["mean_iou"] == 0.375
    assert curve["points"][0]["iou"]["crystal"] is None


def test_csv_has_a_line_for_each_round_of_each_curve(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    write_csv(result("queue", "random"), path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["order"], row["round"]) for row in rows] == [
        ("queue", "1"),
        ("queue", "2"),
        ("random", "1"),
        ("random", "2"),
    ]
    assert rows[3]["iou:crystal"] == "0.25"
    assert rows[3]["iou:cast"] == ""
    assert rows[3]["seconds:fit"] == "30.25"


def test_a_table_is_aligned_to_the_right() -> None:
    assert table(["a", "long"], [[100, 2]]) == "  a  long\n100     2"
