"""A network that learns the drawn fields of ``stack.py`` in a second: NETWORK of the live tests.

Ours take a second a step; a live test is about everything else that a round does.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 16


class Tiny(nn.Module):
    """Sees the image at a quarter of its size, [B, C, h, w] to logits [B, classes, h, w]."""

    stride = 4

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AvgPool2d(self.stride),
            nn.BatchNorm2d(channels),
            *_block(channels),
            *_block(WIDTH, dilation=2),
            *_block(WIDTH, dilation=2),
            nn.Conv2d(WIDTH, classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)
        return F.interpolate(logits, scale_factor=self.stride, mode="bilinear")


def _block(channels: int, dilation: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels, WIDTH, 3, padding=dilation, dilation=dilation)
    return conv, nn.BatchNorm2d(WIDTH), nn.ReLU()


def network(channels: int, classes: int) -> nn.Module:
    return Tiny(channels, classes)
