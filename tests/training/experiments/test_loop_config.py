import re

import pytest
from click.testing import CliRunner

from tests.training.discs import write_discs
from tests.training.experiments.small_loop import write_config
from training.__main__ import cli
from training.experiments.loop_config import BadLoop, read_config
from training.experiments.strategy import UnknownStrategy

pytestmark = pytest.mark.usefixtures("in_this_process")


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
