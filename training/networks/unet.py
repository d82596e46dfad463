"""The U-Nets of ours: ``Lite0UNet`` on a pretrained encoder, ``UNet`` from scratch."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.encoder import LITE0_TAPS, Lite0Encoder, coarse_means
from training.networks.layers import ConvBN, Pointwise, Separable, beside, enlarge, separable


class Lite0UNet(nn.Module):
    """U-Net of separable convolutions on the EfficientNet-lite0 encoder.

    The full-resolution image joins at half resolution, four pixels stacked into channels, and
    the logits are enlarged from there: at full resolution every layer would cost four times as
    much, and docs/RECIPE.md found nothing gained.
    """

    decoded_scale = 2

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.encoder = Lite0Encoder(channels)
        widths = tuple(LITE0_TAPS.values())
        self.lateral = ConvBN(widths[4], 128, 1)
        self.up16 = Separable(128 + widths[3], 96)
        self.up8 = Separable(96 + widths[2], 64)
        self.up4 = Separable(64 + widths[1], 32)
        # The encoder's finest features are at half resolution; edges need the pixels.
        self.up2 = nn.Sequential(*separable(32 + widths[0] + 4 * channels, 24))
        self.head = Pointwise(24, classes, bias=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits_and_features(images)[0]

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C, h, w] and [B, 432] the means of the two coarsest feature maps; h and w
        are multiples of STRIDE."""
        decoded, features = self.decode(images)
        return self.logits_of(decoded), features

    def decode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the logits are made of, [B, 24, h / 2, w / 2], and the features."""
        x = images * 2 - 1  # mean and standard deviation 0.5
        f2, f4, f8, f16, f32 = self.encoder(x)
        y = self.up16(beside(self.lateral(f32), f16))
        y = self.up8(beside(y, f8))
        y = self.up4(beside(y, f4))
        y = self.up2(torch.cat((beside(y, f2), F.pixel_unshuffle(x, 2)), dim=1))
        return y, coarse_means((f16, f32))

    def logits_of(self, decoded: Tensor) -> Tensor:
        """Logits of some rows; their outermost ones are those of the whole only where it ends."""
        return enlarge(self.head(decoded))


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) of five levels, 16 to 128 channels wide."""

    decoded_scale = 1

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        widths = (16, 32, 64, 96, 128)
        self.down = nn.ModuleList(
            nn.Sequential(ConvBN(width_in, width, 3), ConvBN(width, width, 3))
            for width_in, width in zip((channels, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.Sequential(ConvBN(below + width, width, 3), ConvBN(width, width, 3))
            for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = Pointwise(widths[0], classes, bias=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits_and_features(images)[0]

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, C, h, w] and [B, 128] the mean of the coarsest feature map; h and w are
        multiples of STRIDE."""
        decoded, features = self.decode(images)
        return self.logits_of(decoded), features

    def decode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the logits are made of, [B, 16, h, w], and the features."""
        x = self.down[0](images * 2 - 1)
        levels = [x]
        for level in list(self.down)[1:]:
            x = level(F.max_pool2d(x, 2))
            levels.append(x)
        for level, finer in zip(self.up, levels[-2::-1], strict=True):
            x = level(beside(x, finer))
        return x, levels[-1].mean(dim=(2, 3))

    def logits_of(self, decoded: Tensor) -> Tensor:
        """Logits of some rows."""
        return cast(Tensor, self.head(decoded))
