import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from tests.limits import scaled, wait_until
from tests.training.discs import write_discs
from tests.training.experiments.sleeper import sleep_or_fail
from tests.training.experiments.small_loop import lines_in, loop, without_time, write_config
from training.datasets.labelled import read_indices
from training.experiments.loop import follow, run_side_by_side
from training.experiments.loop_config import read_config
from training.experiments.loop_data import find_data
from training.experiments.runs import lines_file, read_lines
from training.experiments.strategy import FULL
from training.images import encode_png


@pytest.mark.usefixtures("in_this_process")
def test_a_path_that_was_cut_off_goes_on_to_the_same_end(copied):
    run, config = copied
    before = without_time(lines_in(run))
    path = lines_file(run, "committee", 0)
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n" + lines[1] + "\n" + lines[2][:40])  # killed while writing
    result = loop(config, run)
    assert result.exit_code == 0, result.output
    assert without_time(lines_in(run)) == before


def test_a_run_of_many_processes_that_is_killed_goes_on(copied, request):
    run, config = copied
    before = without_time(lines_in(run))
    path = lines_file(run, "random", 0)
    for left in (path, lines_file(run, FULL, 0)):  # the other path and the features are there
        left.unlink()
    command = [sys.executable, "-m", "training", "loop", "--config", str(config)]
    command += ["--output", str(run), "--workers", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )

    def begun():
        assert process.poll() is None, "it ended before it could be killed"
        return path.exists() and read_lines(path).lines

    wait_until(begun, 120, "the first round", every_s=0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(scaled(30))
    request.getfixturevalue("in_this_process")
    result = loop(config, run)
    assert result.exit_code == 0, result.output
    assert without_time(lines_in(run)) == before


def test_a_task_that_fails_ends_all_at_once(tmp_path):
    tasks = [partial(sleep_or_fail, tmp_path, number) for number in (1, 0, 2, 3, 4, 5, 6, 7)]
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="the first one fails"):
        run_side_by_side(tasks, 2, lambda: None)
    assert time.monotonic() - started < scaled(45)
    assert not (tmp_path / "7").exists()


def test_ctrl_c_ends_all_at_once(tmp_path):
    def interrupted():
        if (tmp_path / "1").exists():
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side([partial(sleep_or_fail, tmp_path, n) for n in (1, 2, 3)], 1, interrupted)
    assert time.monotonic() - started < scaled(45)
    assert not (tmp_path / "3").exists()


def test_masks_of_other_tools_are_refused_before_anything_is_written(tmp_path):
    masks = write_discs(tmp_path / "discs", 14) / "masks"
    path = next(masks.iterdir())
    path.write_bytes(encode_png(np.full_like(read_indices(path), 9)))
    result = loop(write_config(tmp_path), tmp_path / "loop")
    assert result.exit_code == 1
    assert "masks hold 9" in result.output
    assert not (tmp_path / "loop").exists()


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


def test_different_images_of_one_fold_are_settings_before_any_path_runs(tmp_path, monkeypatch):
    write_discs(tmp_path / "discs", 14)
    config = write_config(tmp_path, initial_by="diverse")
    monkeypatch.setattr(
        "training.experiments.simulation.training_keys",
        lambda keys, members, m: [] if len(keys) == 2 and m == 1 else keys,
    )
    result = loop(config, tmp_path / "loop")
    assert result.exit_code == 1
    assert re.search(r"seed \d+: the 2 most different images", result.output)
    assert not (tmp_path / "loop" / "paths").exists()


def test_rounds_that_two_loops_wrote_between_each_other_are_done_again(done, tmp_path):
    run, config = done
    path = lines_file(tmp_path, "random", 0)
    path.parent.mkdir()
    whole = lines_file(run, "random", 0).read_text().splitlines(keepends=True)
    path.write_text("".join([whole[0], whole[1], whole[1], *whole[2:]]))
    for name in ("features", "particles.json"):
        (tmp_path / name).symlink_to(run / name)
    follow(read_config(config), tmp_path, "random", 0)
    again = [json.loads(line) for line in path.read_text().splitlines()]
    first = [json.loads(line) for line in whole]
    assert [line["keys"] for line in again] == [line["keys"] for line in first]


def test_an_interrupted_path_that_uses_the_newer_word_goes_on(copied):
    run, config = copied
    path = lines_file(run, "committee", 0)
    whole = [json.loads(line) for line in path.read_text().splitlines()]
    old = [dict(line) for line in whole]
    for line in old:
        line["uncertainty_by_distance"] = line.pop("doubt_by_distance")
    path.write_text("".join(json.dumps(line) + "\n" for line in old[:-1]))
    follow(read_config(config), run, "committee", 0)
    again = [json.loads(line) for line in path.read_text().splitlines()]
    assert without_time(again) == without_time(whole)
