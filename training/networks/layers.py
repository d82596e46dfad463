"""Layers that the networks of ours are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow pads: the odd pixel at the far end."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(
            width_in, width_out, kernel, stride, padding=padding, groups=groups, bias=bias
        )
        total = kernel - stride
        self.far_padding = (total // 2, total - total // 2) * 2 if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.far_padding is not None:
            x = F.pad(x, self.far_padding)
        return super().forward(x)


class Pointwise(nn.Conv2d):
    """1x1 convolution, as a matrix product where the channels lie innermost.

    On one thread torch leaves oneDNN for its slowest convolution here, at twice the time.
    """

    def __init__(self, width_in: int, width_out: int, *, bias: bool = False) -> None:
        super().__init__(width_in, width_out, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        flat = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return flat.permute(0, 3, 1, 2)


class ConvBN(nn.Sequential):
    def __init__(self, width_in: int, width_out: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(inplace=True),
        )


class Separable(nn.Sequential):
    """Two depthwise-separable 3x3 convolutions, the first of which changes the width."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(*separable(width_in, width_out), *separable(width_out, width_out))


def separable(width_in: int, width_out: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(width_in, width_in, 3, padding=1, groups=width_in, bias=False),
        Pointwise(width_in, width_out),
        nn.BatchNorm2d(width_out),
        nn.ReLU(inplace=True),
    )


def beside(coarse: Tensor, fine: Tensor) -> Tensor:
    """Enlarge coarse [B, a, h, w] twofold and put it beside fine [B, b, 2h, 2w]."""
    return torch.cat((enlarge(coarse), fine), dim=1)


def enlarge(coarse: Tensor) -> Tensor:
    """[B, a, h, w] to [B, a, 2h, 2w]."""
    return F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
