from training.experiments.ablation import BASE
from training.experiments.ablation_table import class_table, table


def result(variant, draw, iou, other=None):
    """A line of 0.2.0."""

    def tested(value):
        finds = {"predictive_entropy": 0.9, "mutual_information": 0.8}
        return {"mean_iou": value, "ece": 0.1, "finds_errors": finds}

    found = {"variant": variant, "changes": {}, "images": 5, "draw": draw, "test": tested(iou)}
    if other is not None:
        found |= {"other": tested(other), "foreign": {"predictive_entropy/top_quantile_mean": 0.7}}
    return found


def with_classes(variant, draw, iou, recall):
    """A line of today: of two classes one is in the test, by 30 particles."""
    found = result(variant, draw, iou)
    found["classes"] = ["background", "red cell", "crystal"]
    found["test"] |= {
        "mean_iou_supported": iou + 0.1,
        "iou": [0.9, iou, None],
        "particles": [0, 30, 0],
        "particle_recall": [None, recall, None],
        "particle_precision": [None, 0.25, None],
    }
    return found


def test_the_table_pairs_the_draws():
    ours = [result("b", 0, 0.5), result("b", 1, 0.7), result("b", 2, 0.1)]
    theirs = [result(BASE, 0, 0.6), result(BASE, 1, 0.9), result(BASE, 3, 0.8)]
    head, base, other = table([*ours, *theirs])
    assert base[1:6] == [BASE, "3", "0.600 to 0.900", "0.767", ""]
    # Of the draws 0 and 1; Student's t with one degree of freedom is 12.706.
    assert other[1:6] == ["b", "3", "0.100 to 0.700", "0.433", "-0.150 [-0.785, +0.485]"]
    assert "IoU elsewhere" not in head


def test_a_single_pair_has_no_interval():
    assert table([result("b", 0, 0.5), result(BASE, 0, 0.6)])[2][5] == "-0.100"


def test_the_table_shows_the_other_laboratory():
    head, _, row = table([result(BASE, 0, 0.5, other=0.3), result("b", 0, 0.5, other=0.4)])
    at = head.index("IoU elsewhere")
    assert row[at : at + 2] == ["0.400", "+0.100"]
    assert row[head.index("entropy tells elsewhere")] == "0.700"


def test_what_older_lines_do_not_hold_stays_empty():
    old, new = result(BASE, 0, 0.5), with_classes(BASE, 1, 0.7, 0.4)
    head, row = table([old, new])
    at = head.index("of classes with 20 particles")
    assert row[at - 2] == "0.600"
    assert row[at] == "0.800"
    assert table([old])[1][at] == ""
    assert class_table([old]) == []


def test_every_class_shows_its_particles_and_paired_differences():
    base = [with_classes(BASE, 0, 0.5, 0.4), with_classes(BASE, 1, 0.6, 0.5)]
    rows = class_table([*base, with_classes("b", 0, 0.6, 0.3), with_classes("b", 1, 0.7, 0.4)])
    assert [row[1:4] for row in rows[1:]] == [
        ["red cell", "30", BASE],
        ["red cell", "30", "b"],
        ["crystal", "0", BASE],
        ["crystal", "0", "b"],
    ]
    assert rows[2][4:] == [
        "2",
        "0.650",
        "+0.100 [+0.100, +0.100]",
        "0.350",
        "-0.100 [-0.100, -0.100]",
        "0.250",
    ]
    assert rows[4][5:] == ["", "", "", "", ""]
