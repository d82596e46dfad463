import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from acquisition.queue import Rule
from tests.training.discs import disc_example
from tests.training.experiments.test_ablation import write_discs
from training.__main__ import cli
from training.datasets.labelled import read_indices, read_labelled_folder
from training.experiments.ablation import read_results
from training.experiments.loop import (
    ALL,
    KEPT_IMAGES,
    BadLoop,
    NetworkLearner,
    Walk,
    _alone,
    _claim,
    _side_by_side,
    count_particles,
    find_data,
    follow,
    lines_of,
    read_config,
    train_config,
)
from training.experiments.strategy import NAMED, UnknownStrategy
from training.fitting.folds import fold
from training.images import encode_png

SMALL = {
    "test": 3,
    "strategies": ["random", "committee"],
    "seeds": 1,
    "initial": 2,
    "query": 2,
    "rounds": 2,
    "members": 2,
    "candidates": 6,
}


def write_config(folder, **changes):
    path = folder / "loop.yaml"
    path.write_text(yaml.safe_dump({"data": "discs", **SMALL, **changes}))
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run of two strategies on drawn discs, and its configuration."""
    folder = tmp_path_factory.mktemp("loop")
    write_discs(folder / "discs", 14)
    config = write_config(folder)
    result = CliRunner().invoke(cli, ["loop", "--config", str(config), "--workers", "2"])
    assert result.exit_code == 0, result.output
    return folder / "loop", config


def lines_in(run):
    told = json.loads((run / "run.json").read_text())
    return [
        line
        for seed in told["seeds"]
        for name in (*told["strategies"], ALL)
        for line in read_results(lines_of(run, name, seed))
    ]


def loop(config, output, *options):
    return CliRunner().invoke(
        cli, ["loop", "--config", str(config), "--output", str(output), "--workers", "1", *options]
    )


@pytest.fixture
def copied(done, tmp_path):
    """The finished run and its configuration, to spoil."""
    folder = tmp_path / "copied"
    shutil.copytree(done[0].parent, folder)
    kept = folder / "loop" / "config.json"
    told = json.loads(kept.read_text()) | {"data": str(folder / "discs")}
    kept.write_text(json.dumps(told))
    return folder / "loop", folder / "loop.yaml"


def without_time(lines):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_every_strategy_begins_with_the_same_images_and_the_same_committee(done):
    first = [line for line in lines_in(done[0]) if line["round"] == 0 and line["strategy"] != ALL]
    assert len(first) == 2
    assert first[0]["keys"] == first[1]["keys"]
    assert first[0]["iou"] == first[1]["iou"]


def test_no_image_is_asked_for_twice_and_none_is_tested_on(done):
    run, config = done
    test = set(find_data(read_config(config)).test)
    for strategy in SMALL["strategies"]:
        keys = [k for line in lines_in(run) if line["strategy"] == strategy for k in line["keys"]]
        assert len(keys) == len(set(keys)) == 6
        assert not set(keys) & test


def test_the_whole_pool_is_what_there_is_to_reach(done):
    run, config = done
    (line,) = [line for line in lines_in(run) if line["strategy"] == ALL]
    assert line["labelled"] == len(find_data(read_config(config)).pool) == 11


def test_a_committee_of_discs_learns(done):
    (line,) = [line for line in lines_in(done[0]) if line["strategy"] == ALL]
    assert line["mean_iou"] > 0.4
    assert 0 <= line["ece"] < 0.2
    assert line["known"] == [True, True, True]


def test_the_adaptive_strategy_tells_its_weights_and_its_evidence(done):
    lines = [line for line in lines_in(done[0]) if line["strategy"] == "committee"]
    assert lines[0]["weights"] is None
    assert sum(lines[1]["weights"].values()) == pytest.approx(1)
    assert [len(line["evidence"]) for line in lines] == [0, 2, 2]
    assert {each["batch"] for each in lines[2]["evidence"]} == {2}


def test_a_path_that_was_cut_off_goes_on_to_the_same_end(done, tmp_path):
    run, config = done
    again = tmp_path / "again"
    assert (
        CliRunner()
        .invoke(cli, ["loop", "--config", str(config), "--output", str(again), "--workers", "1"])
        .exit_code
        == 0
    )
    assert without_time(lines_in(again)) == without_time(lines_in(run))
    path = lines_of(again, "committee", 0)
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n" + lines[1] + "\n" + lines[2][:40])  # killed while writing
    result = CliRunner().invoke(
        cli, ["loop", "--config", str(config), "--output", str(again), "--workers", "1"]
    )
    assert result.exit_code == 0, result.output
    assert without_time(lines_in(again)) == without_time(lines_in(run))


def test_a_run_that_is_killed_goes_on(tmp_path, done):
    run, config = done
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "training", "loop", "--config", str(config)]
    command += ["--output", str(out), "--workers", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not read_results(lines_of(out, "random", 0)):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    signal_group(process)
    process.wait(timeout=30)
    result = CliRunner().invoke(
        cli, ["loop", "--config", str(config), "--output", str(out), "--workers", "1"]
    )
    assert result.exit_code == 0, result.output
    assert without_time(lines_in(out)) == without_time(lines_in(run))


def signal_group(process):
    os.killpg(process.pid, signal.SIGKILL)


def test_more_seeds_are_added_to_a_run_and_another_loop_is_refused(done):
    run, config = done
    given = yaml.safe_load(config.read_text())
    other = config.parent / "other.yaml"
    other.write_text(yaml.safe_dump({**given, "query": 3, "rounds": 1}))
    result = CliRunner().invoke(cli, ["loop", "--config", str(other), "--output", str(run)])
    assert result.exit_code == 1
    assert "another loop (query, rounds differ)" in result.output


def test_networks_learn_and_are_kept_for_the_paths_that_share_them(tmp_path):
    write_discs(tmp_path / "discs", 9)
    config = write_config(
        tmp_path,
        learner="network",
        network={"network": "unet", "steps": 2, "batch": 2, "crop_px": 64},
        rounds=1,
        full=False,
    )
    result = CliRunner().invoke(cli, ["loop", "--config", str(config), "--workers", "1"])
    assert result.exit_code == 0, result.output
    lines = lines_in(tmp_path / "loop")
    assert [line["labelled"] for line in lines] == [2, 4, 2, 4]
    assert lines[0]["iou"] == lines[2]["iou"]


def test_a_shift_starts_from_another_folder(tmp_path):
    write_discs(tmp_path / "discs", 9)
    write_discs(tmp_path / "elsewhere", 4, first_seed=50)
    config = write_config(tmp_path, start="elsewhere", rounds=1, full=False)
    assert CliRunner().invoke(cli, ["loop", "--config", str(config)]).exit_code == 0
    first, second, *_ = lines_in(tmp_path / "loop")
    assert all(key.startswith("start:") for key in first["keys"])
    assert not any(key.startswith("start:") for key in second["keys"])
    assert second["labelled"] == 4


def test_the_whole_pool_after_a_shift_comes_with_the_seeds_first_images(tmp_path):
    write_discs(tmp_path / "discs", 9)
    write_discs(tmp_path / "elsewhere", 4, first_seed=50)
    config = write_config(tmp_path, start="elsewhere", rounds=1, strategies=["random"])
    assert loop(config, tmp_path / "loop").exit_code == 0
    first, _, whole = lines_in(tmp_path / "loop")
    begun = [key for key in whole["keys"] if key.startswith("start:")]
    assert begun == first["keys"]
    assert whole["labelled"] == 2 + len(find_data(read_config(config)).pool)


def test_a_strategy_defined_anew_is_refused_until_its_paths_are_gone(copied, monkeypatch):
    run, config = copied
    new = replace(NAMED["committee"], rule=Rule(beta=3.0))
    monkeypatch.setattr("training.experiments.strategy.NAMED", {**NAMED, "committee": new})
    data, settings = find_data(read_config(config)), read_config(config)
    strategies = {"random": NAMED["random"], "committee": new}
    with pytest.raises(BadLoop, match=r"another strategy committee .*paths/committee-\[0-9\]"):
        _claim(run, settings, data, strategies)
    lines_of(run, "committee", 0).unlink()
    _claim(run, settings, data, strategies)
    kept = json.loads((run / "config.json").read_text())["definitions"]
    assert kept["committee"]["rule"]["beta"] == 3


def test_a_definition_that_says_less_than_today_s_is_the_same(copied):
    run, config = copied
    told = json.loads((run / "config.json").read_text())
    assert told["definitions"]["random"]["mode"] == "random"
    del told["definitions"]["random"]["anneal"]
    (run / "config.json").write_text(json.dumps(told))
    assert loop(config, run).exit_code == 0
    told["definitions"]["random"]["speed"] = 3
    (run / "config.json").write_text(json.dumps(told))
    assert "another strategy random" in loop(config, run).output


@pytest.mark.parametrize("name", ["masks", "images"])
def test_a_run_whose_images_were_edited_does_not_go_on(copied, name):
    run, config = copied
    path = sorted((config.parent / "discs" / name).iterdir())[0]
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(0, 0))
    told = json.loads((run / "config.json").read_text())
    result = loop(config, run)
    assert result.exit_code == 1
    assert "have changed since" in result.output
    del told["files"], told["definitions"]  # a run of before they were kept
    (run / "config.json").write_text(json.dumps(told))
    result = loop(config, run)
    assert result.exit_code == 0, result.output


def sleep_or_fail(folder, number):
    """Task 0 fails, the others take long and say that they began."""
    (folder / str(number)).touch()
    if number == 0:
        raise BadLoop("the first one fails")
    threading.Event().wait(60)


def test_a_task_that_fails_ends_all_at_once(tmp_path):
    tasks = [partial(sleep_or_fail, tmp_path, number) for number in (1, 0, 2, 3, 4, 5, 6, 7)]
    started = time.monotonic()
    with pytest.raises(BadLoop, match="the first one fails"):
        _side_by_side(tasks, 2, lambda: None)
    assert time.monotonic() - started < 45
    assert not (tmp_path / "7").exists()


def test_ctrl_c_ends_all_at_once(tmp_path):
    def interrupted():
        if (tmp_path / "1").exists():
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _side_by_side([partial(sleep_or_fail, tmp_path, n) for n in (1, 2, 3)], 1, interrupted)
    assert time.monotonic() - started < 45
    assert not (tmp_path / "3").exists()


def test_a_test_that_shows_no_class_is_refused(tmp_path):
    write_discs(tmp_path / "discs", 14)
    config = write_config(tmp_path)
    for name in find_data(read_config(config)).test:
        path = tmp_path / "discs" / "masks" / name
        mask = read_indices(path)
        path.write_bytes(encode_png(np.where(mask == 1, 255, 0).astype(np.uint8)))
    result = loop(config, tmp_path / "loop")
    assert result.exit_code == 1
    assert "none of the 3 test images" in result.output
    assert not (tmp_path / "loop").exists()


def test_a_round_that_can_measure_nothing_is_no_nan(done, monkeypatch):
    walk = Walk(read_config(done[1]), done[0], "random", 0, [])
    walk.committee = walk.learner.fit(walk.initial(), 0)
    monkeypatch.setattr(walk.learner, "truth", lambda key: np.zeros((16, 16), np.uint8))
    monkeypatch.setattr(
        walk.committee,
        "predict_classes",
        lambda key: (np.full((3, 16, 16), 1 / 3), np.zeros((16, 16), int)),
    )
    with pytest.raises(BadLoop, match="at the resolution"):
        walk._test(last=False)


def test_first_images_that_teach_a_member_nothing_are_refused(done, tmp_path):
    config = read_config(done[1]).model_copy(update={"initial_by": "diverse"})
    walk = Walk(config, done[0], "random", 0, [])
    assert len(walk.initial()) == 2
    one_fold = [f"{n}.png" for n in range(99) if fold(f"{n}.png", 2) == 0][:2]
    walk.pool = one_fold
    walk.learner.features = dict.fromkeys(one_fold, np.ones(4, np.float32))
    with pytest.raises(BadLoop, match=r"seed 0: .* held back from one and the same member"):
        walk.initial()
    walk.config = read_config(done[1])  # by chance no draw could help, and it would not end
    with pytest.raises(BadLoop, match="seed 0: "):
        walk.initial()


def test_different_images_of_one_fold_are_told_before_any_path_runs(tmp_path, monkeypatch):
    write_discs(tmp_path / "discs", 14)
    config = write_config(tmp_path, initial_by="diverse")
    monkeypatch.setattr(
        "training.experiments.loop.training_keys",
        lambda keys, members, m: [] if len(keys) == 2 and m == 1 else keys,
    )
    result = loop(config, tmp_path / "loop")
    assert result.exit_code == 1
    assert re.search(r"seed \d+: the 2 most different images", result.output)
    assert not (tmp_path / "loop" / "paths").exists()


def test_a_learner_of_networks_holds_few_decoded_images(done):
    read = []

    def decode(key):
        read.append(key)
        return disc_example(key, 0)

    learner = NetworkLearner(
        SimpleNamespace(read=decode), SimpleNamespace(image={}), done[0] / "members"
    )
    for number in range(KEPT_IMAGES + 1):
        learner.truth(str(number))
    learner.truth(str(KEPT_IMAGES))
    assert len(read) == KEPT_IMAGES + 1
    learner.truth("0")
    assert len(read) == KEPT_IMAGES + 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image,session\n0.png\n1.png,s1\n", "has no session in the row of 0.png"),
        ("image,session\n0.png,caf\udce9\n", "must be a CSV file"),
        ("image,day\n0.png,s1\n", "a column 'session'"),
    ],
)
def test_groups_that_cannot_be_read_are_refused_with_a_sentence(tmp_path, text, sentence):
    folder = write_discs(tmp_path / "discs", 9)
    (folder / "info.csv").write_bytes(text.encode(errors="surrogateescape"))
    config = write_config(tmp_path, groups={"file": "info.csv", "column": "session"}, rounds=1)
    with pytest.raises(BadLoop, match=sentence):
        find_data(read_config(config))


def test_whole_groups_are_held_back(tmp_path):
    folder = write_discs(tmp_path / "discs", 9)
    rows = ["image,session"] + [f"{n}.png,s{n // 3}" for n in range(9)]
    (folder / "info.csv").write_text("\n".join(rows))
    config = write_config(tmp_path, groups={"file": "info.csv", "column": "session"}, rounds=1)
    data = find_data(read_config(config))
    assert len(data.test) == 3
    assert len({int(name.removesuffix(".png")) // 3 for name in data.test}) == 1
    groups = {"file": "info.csv", "column": "session", "test": ["s1"]}
    data = find_data(read_config(write_config(tmp_path, groups=groups, rounds=1)))
    assert sorted(data.test) == ["3.png", "4.png", "5.png"]
    with pytest.raises(BadLoop, match="has no group s7"):
        find_data(read_config(write_config(tmp_path, groups={**groups, "test": ["s7"]})))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"speed": 3}, "speed: Extra inputs are not permitted, got 3"),
        ({"seeds": 0}, "seeds: Input should be greater than or equal to 1, got 0"),
        ({"learner": "forest"}, "learner: .*got 'forest'"),
        ({"strategies": ["random", "random"]}, "names of their own"),
        ({"strategies": ["all"]}, "there is no strategy 'all'"),
        ({"strategies": ["oracle"]}, "there is no strategy 'oracle'; there are random, "),
        ({"strategies": [{"name": "a", "mode": "fixed:entropy"}]}, "fixed:measure/aggregate"),
        ({"strategies": [{"name": "a", "mode": "hedge", "beta": 0}]}, "beta: .* greater than 0"),
        ({"strategies": [{"name": "a", "mode": "hedge", "b": 1}]}, "strategy 'a'"),
        ({"rounds": 9}, "9 rounds of 2 need 20 images in the pool, and there are 11"),
        ({"test": 14}, "14 are too many"),
        ({"candidates": 1}, "candidates must be at least query.*got 1 candidates for 2 images"),
        ({"groups": {"file": "none.csv", "column": "session"}}, "must be a CSV file"),
        ({"learner": "network", "network": {"speed": 1}}, "network: "),
    ],
)
def test_a_loop_that_cannot_be_run_is_refused_with_a_sentence(tmp_path, changes, sentence):
    write_discs(tmp_path / "discs", 14)
    result = CliRunner().invoke(cli, ["loop", "--config", str(write_config(tmp_path, **changes))])
    assert result.exit_code == 1
    assert result.output.strip()
    assert re.search(sentence, result.output), result.output


def test_a_file_that_is_no_yaml_is_refused(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text("{")
    with pytest.raises(BadLoop, match="must be a YAML file"):
        read_config(path)
    path.write_text("- 1")
    with pytest.raises(BadLoop, match="fields and values"):
        read_config(path)
    with pytest.raises(UnknownStrategy):
        read_config(write_config(tmp_path, strategies=["best"]))


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ({"foo": 1}, "network: foo is none of"),
        ({"members": 4}, "network: members is none of"),
        ({"steps": "abc"}, "network: steps must be of type int, got 'abc'"),
        ({"steps": True}, "network: steps must be of type int, got True"),
    ],
)
def test_a_network_described_wrongly_is_refused(done, network, sentence):
    config = read_config(done[1]).model_copy(update={"network": network})
    with pytest.raises(BadLoop, match=sentence):
        train_config(find_data(config), 0)


def test_a_shift_to_the_same_folder_is_refused(done):
    config = read_config(done[1])
    with pytest.raises(BadLoop, match="a shift starts elsewhere"):
        find_data(config.model_copy(update={"start": config.data}))


def test_a_second_loop_in_the_same_folder_is_refused(done):
    with _alone(done[0]):
        result = loop(done[1], done[0])
    assert result.exit_code == 1
    assert "another loop is at work in" in result.output


def test_rounds_that_two_loops_wrote_between_each_other_are_done_again(done, tmp_path):
    run, config = done
    path = lines_of(tmp_path, "random", 0)
    path.parent.mkdir()
    whole = lines_of(run, "random", 0).read_text().splitlines(keepends=True)
    path.write_text("".join([whole[0], whole[1], whole[1], *whole[2:]]))
    for name in ("features", "particles.json"):
        (tmp_path / name).symlink_to(run / name)
    follow(read_config(config), tmp_path, "random", 0)
    again = [json.loads(line) for line in path.read_text().splitlines()]
    first = [json.loads(line) for line in whole]
    assert [line["keys"] for line in again] == [line["keys"] for line in first]


def test_particles_are_counted_class_by_class():
    mask = np.zeros((9, 9), np.uint8)
    mask[0:2, 0:2] = 1
    mask[2:4, 2:4] = 1  # touches by a corner: one with the first
    mask[2:4, 4:6] = 2  # beside it, another class
    mask[7:, 7:] = 255
    assert count_particles(mask) == 2


def test_the_folder_s_own_masks_are_counted(done):
    run, config = done
    data = find_data(read_config(config))
    folder = read_labelled_folder(Path(config).parent / "discs")
    item = next(i for i in folder.items if i.name == data.pool[0])
    kept = json.loads((run / "particles.json").read_text())
    assert kept[data.pool[0]] == count_particles(folder.read_mask(item))
