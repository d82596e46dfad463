"""A version of a small network, to draw predictions of."""

import torch

from tests.training.discs import CLASSES
from training.committee.version import write_version
from training.config import TrainConfig
from training.networks.build import build_network

OWN = "tests.training.laboratory:small"
CONFIG = TrainConfig(CLASSES, members=3, network=OWN, max_side_px=64)


def write_members(folder, config=CONFIG):
    weights = []
    for member in range(config.members):
        torch.manual_seed(member)
        weights.append(build_network(config).state_dict())
    write_version(folder, 4, weights, config, {}, {"temperature": 1.0})
    return folder
