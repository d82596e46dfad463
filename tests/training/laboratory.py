"""Networks as a laboratory might bring them: a good one, and one for each way to be bad."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Small(nn.Module):
    """Two levels, pretrained part in ``encoder``; takes sides that are multiples of 4."""

    stride = 4

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.down = nn.Sequential(nn.Conv2d(16, 24, 4, stride=4), nn.ReLU())
        self.head = nn.Conv2d(40, classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.encoder(images)
        coarse = F.interpolate(self.down(fine), scale_factor=4.0)
        logits: Tensor = self.head(torch.cat((fine, coarse), dim=1))
        return logits


def small(channels: int, classes: int) -> nn.Module:
    return Small(channels, classes)


class WithFeatures(Small):
    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(images), self.down(self.encoder(images)).mean(dim=(2, 3))


class Halved(Small):
    """Answers at half the size."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[..., ::2, ::2]


class Softmaxed(Small):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(dim=1)


class OverTheBatch(Small):
    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits - logits.mean(dim=0, keepdim=True)


class Dropping(Small):
    def forward(self, images: Tensor) -> Tensor:
        return F.dropout(super().forward(images), 0.5, training=True)


class Detached(Small):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach().requires_grad_()


class Unused(Small):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.never = nn.Linear(3, 3)


class Forgetful(Small):
    """Part of its answer is in no state dict."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.secret = torch.randn(1, classes, 1, 1) * 5

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.secret


class TwoClasses(Small):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, 3)


class BySize(Small):
    """Takes another course for large images: no graph can follow."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits if images.shape[-1] < 32 else -logits


def fails(channels: int, classes: int) -> nn.Module:
    raise RuntimeError("no licence")


def no_module(channels: int, classes: int) -> int:
    return channels + classes
