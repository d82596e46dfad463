"""A version that knows dark and bright by their grey alone: particles are exactly where drawn."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.training.discs import CLASSES
from training.committee.version import write_version
from training.config import TrainConfig
from training.networks.build import Weights, build_network

OWN = "tests.training.laboratory:small"
GROUND, DARK, BRIGHT = 128, 20, 240


def write_thresholds(folder: Path, number: int = 4, max_side_px: int = 2048) -> Path:
    config = TrainConfig(CLASSES, members=2, network=OWN, max_side_px=max_side_px)
    write_version(folder, number, [_weights(config)] * 2, config, {}, {"temperature": 1.0})
    return folder


def _weights(config: TrainConfig) -> Weights:
    weights = {name: torch.zeros_like(v) for name, v in build_network(config).state_dict().items()}
    for name in ("encoder.1.weight", "encoder.1.running_var"):
        weights[name] += 1
    # Channel 0 rises above light grey, channel 1 below dark grey; the class with the larger wins.
    weights["encoder.0.weight"][0, 0, 1, 1], weights["encoder.0.bias"][0] = 1, -0.65
    weights["encoder.0.weight"][1, 0, 1, 1], weights["encoder.0.bias"][1] = -1, 0.35
    weights["head.weight"][1, 1, 1, 1] = weights["head.weight"][2, 0, 1, 1] = 60
    weights["head.bias"][0] = 3
    return weights
