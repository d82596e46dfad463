"""Members that begin with what others have learnt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.training.discs import CLASSES, disc_examples
from training.config import TrainConfig
from training.fitting.fit import fit_member
from training.fitting.start import Start, begin_with, start_of, why_no_start
from training.networks.build import build_network, skeleton

OLD = TrainConfig(("background", "x", "y"), network="unet")


@pytest.mark.parametrize("network", ["shared", "unet"])
def test_classes_are_taken_over_by_name_and_new_ones_are_fresh(network: str) -> None:
    old = replace(OLD, network=network)
    new = replace(old, classes=("background", "y", "z"))
    given = skeleton(old).state_dict()
    member = skeleton(new)
    fresh = {name: tensor.clone() for name, tensor in member.state_dict().items()}
    begin_with(member, Start(given, old.classes), new)
    begun = member.state_dict()
    for name in ("head.weight", "head.bias"):
        assert torch.equal(begun[name][:2], given[name][[0, 2]])
        assert torch.equal(begun[name][2], fresh[name][2])
    rest = [name for name in begun if not name.startswith("head.")]
    assert all(torch.equal(begun[name], given[name]) for name in rest)


def test_weights_of_another_network_are_refused() -> None:
    given = skeleton(replace(OLD, network="shared")).state_dict()
    with pytest.raises(ValueError, match="is not that of the network 'unet'"):
        begin_with(build_network(OLD), Start(given, OLD.classes), OLD)
    wide = skeleton(replace(OLD, channels=1)).state_dict()
    with pytest.raises(ValueError, match="has the shape"):
        begin_with(build_network(OLD), Start(wide, OLD.classes), OLD)


def test_why_members_cannot_begin_is_said() -> None:
    assert why_no_start(OLD, replace(OLD, classes=CLASSES, members=2)) is None
    assert why_no_start(OLD, replace(OLD, network="lite0")) == (
        "its network is 'unet', this project's 'lite0'"
    )
    assert "takes 1 channels" in str(why_no_start(replace(OLD, channels=1), OLD))


def test_a_member_of_a_larger_committee_begins_with_one_of_a_smaller() -> None:
    two = [{"a": torch.zeros(1)}, {"a": torch.ones(1)}]
    assert [start_of(two, CLASSES, m).weights["a"].item() for m in range(4)] == [0, 1, 0, 1]


def test_training_begins_with_the_start_and_its_configuration_says_so() -> None:
    config = TrainConfig(CLASSES, members=1, network="unet", crop_px=32, batch=1, steps=1)
    slow = replace(config, decoder_lr=0.0, encoder_lr=0.0)  # a step that moves no weight
    given = skeleton(replace(config, seed=5)).state_dict()
    weights, _ = fit_member(disc_examples(2), slow, 0, start=Start(given, CLASSES))
    assert torch.equal(weights["head.weight"], given["head.weight"])
    begun = replace(config, start="ab12")
    assert TrainConfig.from_json(begun.to_json()) == begun
    assert '"start"' not in config.to_json()  # as releases wrote it that know no start
