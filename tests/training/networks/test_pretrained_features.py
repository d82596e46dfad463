"""What is seen before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from training.config import TrainConfig
from training.networks.build import build_network
from training.networks.forward import logits_and_features
from training.networks.pretrained_features import pretrained_features
from training.pixels import Image8


def drawn(height: int, width: int, seed: int = 0) -> Image8:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_the_features_are_those_of_a_member_that_has_learnt_nothing() -> None:
    image = drawn(70, 90)
    [found] = pretrained_features([image], 1024, 1)
    network = build_network(TrainConfig(("background", "a"), network="shared")).eval()
    with torch.inference_mode():
        x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        _, expected = logits_and_features(network, x)
    assert expected is not None
    assert found.shape == (432,)
    assert found == pytest.approx(expected[0].numpy(), abs=1e-4)


def test_a_large_image_is_shrunk_first() -> None:
    large = np.repeat(np.repeat(drawn(40, 60), 4, axis=0), 4, axis=1)
    [shrunk], [small] = (
        pretrained_features([large], 60, 1),
        pretrained_features([drawn(40, 60)], 60, 1),
    )
    assert shrunk == pytest.approx(small, abs=1e-4)


def test_each_image_is_looked_at_before_the_next_is_read() -> None:
    read: list[int] = []

    def images() -> Iterator[Image8]:
        for number in range(3):
            read.append(number)
            yield drawn(32, 32, number)

    predictions = pretrained_features(images(), 64, 1)
    next(predictions)
    assert read == [0]


def test_what_is_no_rgb_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[H, W, 3\] uint8, got \(8, 8, 4\) uint8"):
        list(pretrained_features([np.zeros((8, 8, 4), np.uint8)], 64, 1))
