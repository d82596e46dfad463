from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from tests.training.discs import disc_example, write_discs
from tests.training.experiments.small_loop import lines_in, write_config
from training.__main__ import cli
from training.experiments.learners import KEPT_IMAGES, NetworkLearner, train_config
from training.experiments.loop_config import BadLoop, read_config
from training.experiments.loop_data import find_data

pytestmark = pytest.mark.usefixtures("in_this_process")


def test_networks_learn_and_are_kept_for_the_paths_that_share_them(tmp_path):
    write_discs(tmp_path / "discs", 9)
    config = write_config(
        tmp_path,
        learner="network",
        network={
            "network": "tests.training.laboratory:small",
            "steps": 2,
            "batch": 2,
            "crop_px": 64,
        },
        rounds=1,
        full=False,
    )
    result = CliRunner().invoke(cli, ["loop", "--config", str(config), "--workers", "1"])
    assert result.exit_code == 0, result.output
    lines = lines_in(tmp_path / "loop")
    assert [line["labelled"] for line in lines] == [2, 4, 2, 4]
    assert lines[0]["iou"] == lines[2]["iou"]


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
