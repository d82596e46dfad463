"""Large images in tiles, without seams."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from acquisition.uncertainty import MEASURES
from tests.training.committee.untrained import CPU, UNTRAINED
from training.committee import tiles
from training.committee.committee import Committee
from training.committee.ensemble import Ensemble


@pytest.mark.parametrize("length", [1, 1024, 1025, 1500, 2048, 4096, 5001])
def test_tiles_cover_an_axis_and_their_weights_sum_to_one(length):
    total = np.zeros(length)
    spans = tiles.spans(length)
    for span in spans:
        assert 0 < span.stop - span.start <= tiles.WHOLE_PX
        assert span.start % tiles.ALIGN_PX == 0
        total[span.start : span.stop] += span.weights.numpy()
    np.testing.assert_allclose(total, 1, atol=1e-6)
    if length > tiles.WHOLE_PX:
        assert all(span.stop - span.start <= tiles.TILE_PX + tiles.ALIGN_PX for span in spans)
    for left, right in pairwise(spans):
        assert left.stop - right.start >= tiles.OVERLAP_PX - tiles.ALIGN_PX


def smooth_image(height, width):
    """Blobs, as an image has them: noise alone would hide a seam."""
    noise = np.random.default_rng(1).normal(0, 1, (height // 8, width // 8, 3)).astype(np.float32)
    large = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 60 * large, 0, 255).astype(np.uint8)


def test_tiles_leave_no_seams(monkeypatch, weights):
    config = replace(UNTRAINED, members=2, max_side_px=4096)
    committee = Committee(Ensemble(weights[:2], config, device=CPU), engine="torch")
    image = smooth_image(640, 800)
    whole = committee.predict(image)
    monkeypatch.setattr(tiles, "WHOLE_PX", 384)
    monkeypatch.setattr(tiles, "TILE_PX", 384)
    tiled = committee.predict(image)
    assert len(tiles.spans(640)) > 1
    apart = np.abs(tiled.probs - whole.probs).max(axis=0)
    assert (tiled.predicted == whole.predicted).mean() > 0.99
    assert apart.mean() < 0.01
    # A seam would be a jump between two neighbouring rows or columns that the whole has not.
    for axis in (1, 2):
        jump = np.abs(np.diff(tiled.probs - whole.probs, axis=axis)).mean(axis=(0, 3 - axis))
        assert jump.max() < 5 * np.median(jump) + 1e-3
    for name in MEASURES:
        assert np.abs(tiled.maps[name] - whole.maps[name]).mean() < 0.02
    # Every tile has edges of its own, which its features feel; they stay much the same.
    assert np.corrcoef(tiled.features.ravel(), whole.features.ravel())[0, 1] > 0.95


def test_tiles_of_a_network_that_sees_single_pixels_change_nothing(monkeypatch):
    def predict(images):
        probs = torch.stack([images[:, :1], 1 - images[:, :1]]).repeat_interleave(2, dim=2)
        return probs, images.mean(dim=(2, 3))[None]

    monkeypatch.setattr(tiles, "WHOLE_PX", 384)
    monkeypatch.setattr(tiles, "TILE_PX", 384)
    images = torch.rand(2, 3, 1100, 700, generator=torch.Generator().manual_seed(0))
    seen = [(strip.rows, strip.probs.clone()) for strip, _ in tiles.strips(images, predict)]
    assert [rows.start for rows, _ in seen[1:]] == [rows.stop for rows, _ in seen[:-1]]
    joined = torch.cat([probs for _, probs in seen], dim=3)
    np.testing.assert_allclose(joined, predict(images)[0], atol=1e-6)
