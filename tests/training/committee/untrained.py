"""Members whose answers differ, without any training."""

import numpy as np
import torch

from training.config import TrainConfig

CPU = torch.device("cpu")

UNTRAINED = TrainConfig(("background", "a", "b", "c"), members=3)

SMALL = "tests.training.laboratory:small"
"""A network that OpenVINO compiles in no time, where only the committee is tested."""


def random_image(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def as_batch(*images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous() / 255
