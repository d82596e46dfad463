import numpy as np
import pytest

from tests.training.discs import write_discs
from tests.training.experiments.small_loop import (
    SMALL,
    lines_in,
    loop,
    use_this_process,
    write_config,
)
from training.experiments.loop_config import BadLoop, read_config
from training.experiments.loop_data import find_data
from training.experiments.simulation import Simulation, measure_quality
from training.experiments.strategy import FULL
from training.fitting.folds import fold


def test_every_strategy_begins_with_the_same_images_and_the_same_committee(done):
    first = [line for line in lines_in(done[0]) if line["round"] == 0 and line["strategy"] != FULL]
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
    (line,) = [line for line in lines_in(run) if line["strategy"] == FULL]
    assert line["labelled"] == len(find_data(read_config(config)).pool) == 11


def test_a_committee_of_discs_learns(done):
    (line,) = [line for line in lines_in(done[0]) if line["strategy"] == FULL]
    assert line["mean_iou"] > 0.4
    assert 0 <= line["ece"] < 0.2
    assert line["known"] == [True, True, True]


def test_the_adaptive_strategy_tells_its_weights_and_its_evidence(done):
    lines = [line for line in lines_in(done[0]) if line["strategy"] == "committee"]
    assert lines[0]["weights"] is None
    assert sum(lines[1]["weights"].values()) == pytest.approx(1)
    assert [len(line["evidence"]) for line in lines] == [0, 2, 2]
    assert {each["batch"] for each in lines[2]["evidence"]} == {2}


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """A finished run that starts from another folder, and its configuration."""
    folder = tmp_path_factory.mktemp("shifted")
    write_discs(folder / "discs", 9)
    write_discs(folder / "elsewhere", 4, first_seed=50)
    config = write_config(folder, start="elsewhere", rounds=1)
    with pytest.MonkeyPatch.context() as patch:
        use_this_process(patch)
        assert loop(config, folder / "loop").exit_code == 0
    return folder / "loop", config


def test_a_shift_starts_from_another_folder(shifted):
    first, second, *_ = lines_in(shifted[0])
    assert all(key.startswith("start:") for key in first["keys"])
    assert not any(key.startswith("start:") for key in second["keys"])
    assert second["labelled"] == 4


def test_the_whole_pool_after_a_shift_comes_with_the_seeds_first_images(shifted):
    run, config = shifted
    first, *_, whole = lines_in(run)
    begun = [key for key in whole["keys"] if key.startswith("start:")]
    assert begun == first["keys"]
    assert whole["labelled"] == 2 + len(find_data(read_config(config)).pool)


def test_a_round_that_can_measure_nothing_is_no_nan(done, monkeypatch):
    simulation = Simulation(read_config(done[1]), done[0], "random", 0, [])
    committee = simulation.learner.fit(simulation.initial(), 0)
    monkeypatch.setattr(simulation.learner, "truth", lambda key: np.zeros((16, 16), np.uint8))
    monkeypatch.setattr(
        committee,
        "predict_classes",
        lambda key: (np.full((3, 16, 16), 1 / 3), np.zeros((16, 16), int)),
    )
    with pytest.raises(BadLoop, match="at the resolution"):
        measure_quality(committee, simulation.learner, simulation.data, with_distance=False)


def test_first_images_that_teach_a_member_nothing_are_refused(done, tmp_path):
    config = read_config(done[1]).model_copy(update={"initial_by": "diverse"})
    simulation = Simulation(config, done[0], "random", 0, [])
    assert len(simulation.initial()) == 2
    one_fold = [f"{n}.png" for n in range(99) if fold(f"{n}.png", 2) == 0][:2]
    simulation.pool = one_fold
    simulation.learner.features = dict.fromkeys(one_fold, np.ones(4, np.float32))
    with pytest.raises(BadLoop, match=r"seed 0: .* held back from one and the same member"):
        simulation.initial()
    simulation.config = read_config(done[1])  # by chance no draw could help, and it would not end
    with pytest.raises(BadLoop, match="seed 0: "):
        simulation.initial()
