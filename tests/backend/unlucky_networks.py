"""A laboratory's networks that no round can succeed with, each for another reason."""

from __future__ import annotations

import os
import resource
import signal

import psutil
import torch
from torch import Tensor, nn

from tests.training.laboratory import Small

ROOM_BYTES = 256 * 2**20
"""What a process may take beyond what it has when the hungry network is made."""


class NotANumber(Small):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * float("nan")


class BlindLater(Small):
    """Learns, and sees nothing but NaN when it is asked afterwards."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits if self.training else logits * float("nan")


class Hungry(Small):
    """Keeps 64 MB of each step."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.kept: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.kept.append(torch.ones(16 * 2**20))
        return super().forward(images)


class Raising(Small):
    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("the laboratory's own mistake")


def not_a_number(channels: int, classes: int) -> nn.Module:
    return NotANumber(channels, classes)


def blind_later(channels: int, classes: int) -> nn.Module:
    return BlindLater(channels, classes)


def raising(channels: int, classes: int) -> nn.Module:
    return Raising(channels, classes)


def hungry(channels: int, classes: int) -> nn.Module:
    """In a process that the kernel gives no more than a little memory from now on."""
    most = psutil.Process().memory_info().vms + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return Hungry(channels, classes)


def deadly(channels: int, classes: int) -> nn.Module:
    """What the kernel does to a process when the machine has no memory left."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody survives this")
