import json
import os
from dataclasses import replace

import pytest
import yaml
from click.testing import CliRunner

from acquisition.queue import Rule
from tests.training.experiments.small_loop import loop
from training.__main__ import cli
from training.experiments.loop_config import BadLoop, read_config
from training.experiments.loop_data import find_data
from training.experiments.run_folder import claim, locked
from training.experiments.runs import lines_file
from training.experiments.strategy import NAMED

pytestmark = pytest.mark.usefixtures("in_this_process")


def test_more_seeds_are_added_to_a_run_and_another_loop_is_refused(done):
    run, config = done
    given = yaml.safe_load(config.read_text())
    other = config.parent / "other.yaml"
    other.write_text(yaml.safe_dump({**given, "query": 3, "rounds": 1}))
    result = CliRunner().invoke(cli, ["loop", "--config", str(other), "--output", str(run)])
    assert result.exit_code == 1
    assert "another loop (query, rounds differ)" in result.output


def test_a_strategy_defined_anew_is_refused_until_its_paths_are_gone(copied, monkeypatch):
    run, config = copied
    new = replace(NAMED["committee"], rule=Rule(beta=3.0))
    monkeypatch.setattr("training.experiments.strategy.NAMED", {**NAMED, "committee": new})
    data, settings = find_data(read_config(config)), read_config(config)
    with pytest.raises(BadLoop, match=r"another strategy committee .*paths/committee-\[0-9\]"):
        claim(run, settings, data)
    lines_file(run, "committee", 0).unlink()
    claim(run, settings, data)
    kept = json.loads((run / "config.json").read_text())["definitions"]
    assert kept["committee"]["rule"]["beta"] == 3


def test_a_definition_that_says_less_than_today_s_is_the_same(copied):
    run, config = copied
    settings = json.loads((run / "config.json").read_text())
    assert settings["definitions"]["random"]["mode"] == "random"
    del settings["definitions"]["random"]["anneal"]
    (run / "config.json").write_text(json.dumps(settings))
    assert loop(config, run).exit_code == 0
    settings["definitions"]["random"]["speed"] = 3
    (run / "config.json").write_text(json.dumps(settings))
    assert "another strategy random" in loop(config, run).output


@pytest.mark.parametrize("name", ["masks", "images"])
def test_a_run_whose_images_were_edited_does_not_go_on(copied, name):
    run, config = copied
    path = sorted((config.parent / "discs" / name).iterdir())[0]
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(0, 0))
    settings = json.loads((run / "config.json").read_text())
    result = loop(config, run)
    assert result.exit_code == 1
    assert "have changed since" in result.output
    del settings["files"], settings["definitions"]  # a run of before they were kept
    (run / "config.json").write_text(json.dumps(settings))
    result = loop(config, run)
    assert result.exit_code == 0, result.output


def test_a_second_loop_in_the_same_folder_is_refused(done):
    with locked(done[0]):
        result = loop(done[1], done[0])
    assert result.exit_code == 1
    assert "another loop is at work in" in result.output
