"""A committee of two small networks that learnt to segment drawn discs."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tests.training.discs import CLASSES, disc_examples
from training.config import TrainConfig
from training.examples import Example
from training.fitting.fit import History, fit_member

CPU = torch.device("cpu")
TINY = TrainConfig(CLASSES, members=2, crop_px=64, batch=4, steps=40, network="unet")


class Trained(NamedTuple):
    """Members of ``TINY``, what they learnt from, and how each training went."""

    weights: list[dict[str, torch.Tensor]]
    examples: list[Example]
    histories: list[History]


def train() -> Trained:
    examples = disc_examples(10)
    members = [fit_member(examples, TINY, member, CPU) for member in range(TINY.members)]
    return Trained([weights for weights, _ in members], examples, [each for _, each in members])
