import json

import numpy as np
import pytest
from click.testing import CliRunner

from tests.training.discs import write_discs
from training.__main__ import cli
from training.datasets.labelled import by_hash, read_labelled_folder
from training.experiments.ablation import (
    BASE,
    BadVariant,
    Trial,
    _load,
    parse_changes,
    read_results,
    table,
)

TINY = "network=unet,steps=3,crop_px=64,batch=2"


def test_changes_are_read_by_their_types():
    assert parse_changes("zoom=1, steps=30,network=unet") == {
        "zoom": 1.0,
        "steps": 30,
        "network": "unet",
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nothing", "FIELD=VALUE"),
        ("speed=3", "field of seed"),
        ("members=3", "FIELD=VALUE"),
        ("steps=many", "must be of type int"),
        ("seek=2", "between 0 and 1"),
        ("network=resnet", "must be one of"),
    ],
)
def test_changes_that_no_configuration_has_are_refused(text, sentence):
    with pytest.raises(BadVariant, match=sentence):
        parse_changes(text)


def test_what_is_tested_on_is_never_drawn(tmp_path):
    folder = write_discs(tmp_path / "a", 8)
    _, test, pool = _load(Trial(folder, test=3))
    assert len(test) == 3
    assert not {e.key for e in test} & {e.key for e in pool}
    names = [item.name for item in by_hash(read_labelled_folder(folder).items)]
    assert [e.key for e in (*test, *pool)] == names
    with pytest.raises(BadVariant, match="cannot be held back"):
        _load(Trial(folder, test=8))


def result(variant, draw, iou, other=None):
    def tested(value):
        finds = {"predictive_entropy": 0.9, "mutual_information": 0.8}
        return {"mean_iou": value, "ece": 0.1, "finds_errors": finds}

    found = {"variant": variant, "changes": {}, "images": 5, "draw": draw, "test": tested(iou)}
    if other is not None:
        found |= {"other": tested(other), "foreign": {"predictive_entropy/top_quantile_mean": 0.7}}
    return found


def test_the_table_pairs_the_draws():
    rows = table(
        [result("b", 0, 0.5), result("b", 1, 0.7), result(BASE, 0, 0.6), result(BASE, 1, 0.9)]
    )
    assert rows[1][1:6] == [BASE, "2", "0.750", "0.600 to 0.900", ""]
    assert rows[2][1:6] == ["b", "2", "0.600", "0.500 to 0.700", "-0.150 ± 0.071"]
    assert "IoU elsewhere" not in rows[0]


def test_the_table_shows_the_other_laboratory():
    head, row = table([result(BASE, 0, 0.5, other=0.3)])
    assert row[head.index("IoU elsewhere")] == "0.300"
    assert row[head.index("entropy tells elsewhere")] == "0.700"


def test_the_command_measures_each_cell_once_and_goes_on_after_a_kill(tmp_path, request):
    folder = write_discs(tmp_path / "a", 7)
    other = write_discs(tmp_path / "b", 3, first_seed=50)
    output = tmp_path / "runs.jsonl"
    arguments = ["ablate", "--data", str(folder), "--other", str(other), "--test", "2"]
    arguments += ["--images", "2,4", "--draws", "1", "--set", TINY, "--vary", "seek=0"]
    arguments += ["--workers", "1", "--output", str(output)]
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 0, run.output
    assert "| 4 | seek=0 | 1 |" in run.output
    first = read_results(output)
    assert [(r["images"], r["variant"]) for r in first] == [
        (2, BASE),
        (2, "seek=0"),
        (4, BASE),
        (4, "seek=0"),
    ]
    assert all(np.isfinite(r["test"]["mean_iou"]) and r["steps"] == 3 for r in first)
    assert all(0 <= v <= 1 for v in first[0]["foreign"].values())
    # Killed in the middle of the last line: that cell alone is measured again, and the same.
    whole = output.read_text().splitlines(keepends=True)
    output.write_text("".join(whole[:-1]) + whole[-1][:40] + "\n")
    request.getfixturevalue("in_this_process")
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 0, run.output
    again = read_results(output)
    assert len(output.read_text().splitlines()) == 5
    for old, new in zip(first, again, strict=True):
        assert json.dumps(old["test"]) == json.dumps(new["test"])


def test_a_variant_that_is_none_is_refused_with_a_sentence(tmp_path):
    folder = write_discs(tmp_path / "a", 3)
    arguments = ["ablate", "--data", str(folder), "--output", str(tmp_path / "x"), "--vary", "x=1"]
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 1
    assert run.output.startswith("expected FIELD=VALUE")
