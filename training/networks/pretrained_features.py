"""What can be said of images before anything is trained: a pretrained encoder's features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from training.compute import bounded_threads
from training.images import shrink
from training.networks.encoder import coarse_means, pretrained_encoder
from training.networks.forward import pad_to_stride
from training.pixels import Image8


def pretrained_features(
    images: Iterable[Image8], max_side_px: int, threads: int
) -> Iterator[NDArray[np.float32]]:
    """The features that a member on the untouched encoder would give, image by image.

    Args:
        images: each [H, W, 3] uint8; the next is read when the last is done with.
        max_side_px: they are shrunk, never enlarged, to this long side.
        threads: torch's.

    Yields:
        [432] float32, the means of the two coarsest feature maps.

    Raises:
        DamagedWeights: the encoder's weights are missing or not the pinned ones.
        ValueError: an image is not [H, W, 3] uint8.
    """
    encoder = pretrained_encoder().eval()
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image must be [H, W, 3] uint8, got {image.shape} {image.dtype}")
        small = np.stack([shrink(image, max_side_px)])  # a copy: the image may be read-only
        x = torch.from_numpy(small).permute(0, 3, 1, 2) / 255
        with torch.inference_mode(), bounded_threads(threads):
            features = coarse_means(encoder(pad_to_stride(x) * 2 - 1))
        yield features[0].numpy()
