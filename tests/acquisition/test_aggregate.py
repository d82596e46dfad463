"""The aggregates: by hand, by law, and against loops that look at one pixel at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import acquisition.aggregate
from acquisition.aggregate import (
    AGGREGATES,
    aggregate,
    boundary_excluded_mean,
    foreground_mean,
    image_mean,
    interior,
    label_objects,
    max_patch_mean,
    object_max,
    top_quantile_mean,
)
from acquisition.uncertainty import MEASURES, uncertainty_maps
from tests.acquisition.ensembles import random_probs

Aggregate = Callable[[Tensor, Tensor], Tensor]
Image = npt.NDArray[np.float64]
Mask = npt.NDArray[np.uint8]
FUNCTIONS: dict[str, Aggregate] = {
    name: getattr(acquisition.aggregate, name) for name in AGGREGATES
}
EIGHT_NEIGHBOURS = np.ones((3, 3))


def drawn(rows: str) -> Tensor:
    """A mask [1, H, W] from digits, one word per row."""
    return torch.tensor([[[int(digit) for digit in row] for row in rows.split()]]).to(torch.uint8)


def interior_by_loop(mask: Mask) -> npt.NDArray[np.bool_]:
    H, W = mask.shape
    inside = np.zeros((H, W), dtype=bool)
    for h, w in np.ndindex(H, W):
        around = mask[max(0, h - 2) : h + 3, max(0, w - 2) : w + 3]
        inside[h, w] = (around == mask[h, w]).all()
    return inside


def mean_or_image(pixels: Image, image: Image) -> float:
    return float(pixels.mean() if pixels.size else image.mean())


def object_max_by_loop(image: Image, mask: Mask) -> float:
    means = []
    for label in set(np.unique(mask)) - {0}:
        numbered, count = scipy.ndimage.label(mask == label, EIGHT_NEIGHBOURS)
        objects = [image[numbered == number] for number in range(1, count + 1)]
        means += [pixels.mean() for pixels in objects if pixels.size >= 25]
    return float(max(means, default=image.mean()))


def max_patch_by_loop(image: Image) -> float:
    H, W = image.shape
    high, wide = min(10, H), min(10, W)
    return max(
        float(image[h : h + high, w : w + wide].mean())
        for h, w in np.ndindex(H - high + 1, W - wide + 1)
    )


def top_quantile_by_loop(image: Image) -> float:
    count = math.ceil(0.1 * image.size)
    return sum(sorted(image.ravel().tolist(), reverse=True)[:count]) / count


ORACLES: dict[str, Callable[[Image, Mask], float]] = {
    "image_mean": lambda image, mask: float(image.mean()),
    "foreground_mean": lambda image, mask: mean_or_image(image[mask > 0], image),
    "boundary_excluded_mean": lambda image, mask: mean_or_image(
        image[interior_by_loop(mask)], image
    ),
    "top_quantile_mean": lambda image, mask: top_quantile_by_loop(image),
    "max_patch_mean": lambda image, mask: max_patch_by_loop(image),
    "object_max": object_max_by_loop,
}


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Maps and masks [N, H, W] of any size; blocks of one class, down to single pixels."""
    N, H, W = (draw(st.integers(1, most)) for most in (3, 23, 29))
    block = draw(st.sampled_from([1, 2, 5, 9]))
    classes = draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    coarse = torch.randint(0, classes, (N, H, W), generator=generator, dtype=torch.uint8)
    mask = coarse.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :H, :W]
    return torch.rand(N, H, W, generator=generator, dtype=torch.float64), mask.contiguous()


@pytest.mark.parametrize("name", AGGREGATES)
@given(scene=scenes())
@settings(max_examples=60, deadline=None)
def test_an_aggregate_equals_the_slow_loop_on_every_image(
    name: str, scene: tuple[Tensor, Tensor]
) -> None:
    maps, masks = scene
    scores = FUNCTIONS[name](maps, masks)
    assert scores.shape == (len(maps),)
    for score, image, mask in zip(scores, maps.numpy(), masks.numpy(), strict=True):
        assert score.item() == pytest.approx(ORACLES[name](image, mask), abs=1e-12)


@pytest.mark.parametrize("name", AGGREGATES)
@given(scene=scenes())
@settings(max_examples=30, deadline=None)
def test_an_aggregate_lies_between_the_least_and_the_greatest_pixel(
    name: str, scene: tuple[Tensor, Tensor]
) -> None:
    maps, masks = scene
    scores = FUNCTIONS[name](maps, masks)
    assert (scores >= maps.amin(dim=(1, 2)) - 1e-12).all()
    assert (scores <= maps.amax(dim=(1, 2)) + 1e-12).all()


@pytest.mark.parametrize("name", AGGREGATES)
@given(scene=scenes())
@settings(max_examples=30, deadline=None)
def test_an_image_is_scored_alike_in_any_company(name: str, scene: tuple[Tensor, Tensor]) -> None:
    maps, masks = scene
    together = FUNCTIONS[name](maps, masks)
    alone = [FUNCTIONS[name](maps[n : n + 1], masks[n : n + 1]) for n in range(len(maps))]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("name", AGGREGATES)
@given(scene=scenes())
@settings(max_examples=30, deadline=None)
def test_a_mirrored_or_turned_image_keeps_its_score(
    name: str, scene: tuple[Tensor, Tensor]
) -> None:
    maps, masks = scene
    score = FUNCTIONS[name](maps, masks)
    torch.testing.assert_close(FUNCTIONS[name](maps.flip(1), masks.flip(1)), score)
    torch.testing.assert_close(FUNCTIONS[name](maps.flip(2), masks.flip(2)), score)
    turned = FUNCTIONS[name](maps.transpose(1, 2), masks.transpose(1, 2))
    torch.testing.assert_close(turned, score)


@pytest.mark.parametrize("name", AGGREGATES)
@given(scene=scenes(), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_images_in_another_order_have_their_scores_in_that_order(
    name: str, scene: tuple[Tensor, Tensor], seed: int
) -> None:
    maps, masks = scene
    shuffle = torch.randperm(len(maps), generator=torch.Generator().manual_seed(seed))
    shuffled = FUNCTIONS[name](maps[shuffle], masks[shuffle])
    torch.testing.assert_close(shuffled, FUNCTIONS[name](maps, masks)[shuffle])


@pytest.mark.parametrize("name", AGGREGATES)
@given(scene=scenes(), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_foreground_classes_is_irrelevant(
    name: str, scene: tuple[Tensor, Tensor], seed: int
) -> None:
    maps, masks = scene
    others = 1 + torch.randperm(255, generator=torch.Generator().manual_seed(seed))
    renamed = torch.cat([torch.zeros(1), others]).to(torch.uint8)[masks.long()]
    torch.testing.assert_close(FUNCTIONS[name](maps, renamed), FUNCTIONS[name](maps, masks))


@pytest.mark.parametrize("name", ["image_mean", "foreground_mean", "top_quantile_mean"])
@given(scene=scenes(), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_an_aggregate_that_knows_no_neighbours_takes_pixels_in_any_order(
    name: str, scene: tuple[Tensor, Tensor], seed: int
) -> None:
    maps, masks = scene
    pixels = maps[0].numel()
    shuffle = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed))
    strewn_maps = maps.flatten(1)[:, shuffle].view_as(maps)
    strewn_masks = masks.flatten(1)[:, shuffle].view_as(masks)
    torch.testing.assert_close(
        FUNCTIONS[name](strewn_maps, strewn_masks), FUNCTIONS[name](maps, masks)
    )


class TestByHand:
    def test_image_mean_is_the_mean_of_the_pixels(self) -> None:
        assert image_mean(torch.tensor([[[0.0, 1.0, 5.0]]]), drawn("000")).item() == 2

    def test_foreground_mean_reads_the_foreground_only(self) -> None:
        assert foreground_mean(torch.tensor([[[9.0, 1.0, 2.0]]]), drawn("012")).item() == 1.5

    def test_foreground_mean_of_an_image_without_foreground_is_the_image_mean(self) -> None:
        uncertainty = torch.tensor([[[9.0, 1.0, 2.0]]])
        assert foreground_mean(uncertainty, drawn("000")).item() == 4

    def test_boundary_excluded_mean_drops_two_pixels_on_either_side(self) -> None:
        uncertainty = torch.arange(8.0).reshape(1, 1, 8)
        assert boundary_excluded_mean(uncertainty, drawn("00001111")).item() == (0 + 1 + 6 + 7) / 4

    def test_the_border_of_the_image_is_no_boundary(self) -> None:
        assert interior(drawn("11111 11111")).all()

    def test_boundary_excluded_mean_of_an_image_that_is_all_boundary_is_the_image_mean(
        self,
    ) -> None:
        uncertainty = torch.tensor([[[1.0, 2.0, 6.0]]])
        assert boundary_excluded_mean(uncertainty, drawn("010")).item() == 3

    def test_top_quantile_mean_reads_the_largest_tenth_rounded_up(self) -> None:
        uncertainty = torch.arange(11.0).reshape(1, 1, 11)
        assert top_quantile_mean(uncertainty, drawn("0" * 11)).item() == (10 + 9) / 2

    def test_max_patch_mean_finds_the_one_patch_that_holds_all_the_uncertainty(self) -> None:
        uncertainty = torch.zeros(1, 31, 37)
        uncertainty[0, 13:23, 19:29] = 0.5
        mask = torch.zeros(1, 31, 37, dtype=torch.uint8)
        assert max_patch_mean(uncertainty, mask).item() == pytest.approx(0.5)

    def test_max_patch_mean_of_a_small_image_is_its_mean(self) -> None:
        assert max_patch_mean(torch.tensor([[[1.0, 2.0, 6.0]]]), drawn("000")).item() == 3

    def test_object_max_is_the_mean_of_the_most_uncertain_object(self) -> None:
        uncertainty, mask = torch.zeros(1, 12, 20), torch.zeros(1, 12, 20, dtype=torch.uint8)
        mask[0, 1:6, 1:6], uncertainty[0, 1:6, 1:6] = 1, 0.25
        mask[0, 1:6, 10:16], uncertainty[0, 1:3, 10:16] = 2, 1.0  # 12 of 30 pixels
        assert object_max(uncertainty, mask).item() == pytest.approx(12 / 30)

    def test_an_object_smaller_than_its_boundary_does_not_count(self) -> None:
        uncertainty, mask = torch.zeros(1, 6, 10), torch.zeros(1, 6, 10, dtype=torch.uint8)
        mask[0, 1:5, 1:7], uncertainty[0, 1:5, 1:7] = 1, 1.0  # 24 pixels
        assert object_max(uncertainty, mask).item() == pytest.approx(24 / 60)


class TestObjects:
    @given(scene=scenes())
    @settings(max_examples=60, deadline=None)
    def test_the_objects_are_those_that_scipy_finds(self, scene: tuple[Tensor, Tensor]) -> None:
        _, masks = scene
        ours = label_objects(masks).numpy()
        expected, found = np.zeros_like(ours), 0
        for n, mask in enumerate(masks.numpy()):
            for label in sorted(set(np.unique(mask)) - {0}):
                numbered, count = scipy.ndimage.label(mask == label, EIGHT_NEIGHBOURS)
                expected[n][numbered > 0] = numbered[numbered > 0] + found
                found += count
        assert ours.max() == found
        assert ((ours == 0) == (expected == 0)).all()
        pairs = np.unique(np.stack([ours.ravel(), expected.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(ours))

    def test_they_are_numbered_in_reading_order(self) -> None:
        expected = torch.tensor([[[1, 0, 2, 3], [1, 0, 0, 3], [0, 1, 0, 0]]])
        assert torch.equal(label_objects(drawn("1021 1001 0100")), expected)

    def test_a_spiral_as_long_as_the_image_has_pixels_is_one_object(self) -> None:
        spiral = np.zeros((101, 101), dtype=np.uint8)
        for ring in range(0, 50, 2):
            spiral[ring, max(0, ring - 2) : 101 - ring] = 1
            spiral[ring : 101 - ring, 100 - ring] = 1
            spiral[100 - ring, ring : 101 - ring] = 1
            spiral[ring + 2 : 101 - ring, ring] = 1
        _, count = scipy.ndimage.label(spiral, EIGHT_NEIGHBOURS)
        assert label_objects(torch.from_numpy(spiral)[None]).max() == count == 1


class TestAllArms:
    def test_every_measure_meets_every_aggregate_with_the_same_scores(self) -> None:
        probs = random_probs((3, 2, 4, 17, 21), dtype=torch.float32)
        maps, predicted = uncertainty_maps(probs), probs.mean(0).argmax(1).to(torch.uint8)
        arms = aggregate(maps, predicted)
        assert list(arms) == [f"{measure}/{name}" for measure in MEASURES for name in AGGREGATES]
        for arm, scores in arms.items():
            measure, name = arm.split("/")
            assert torch.equal(scores, FUNCTIONS[name](maps[measure], predicted))
            assert scores.dtype == torch.float32


def all_arms(uncertainty_map: Tensor, predicted: Tensor) -> Tensor:
    return torch.stack(list(aggregate({"uncertainty": uncertainty_map}, predicted).values()))


@pytest.mark.parametrize(
    "score", [*FUNCTIONS.values(), all_arms], ids=lambda score: str(score.__name__)
)
class TestRefusals:
    def test_a_map_without_image_axis_is_refused(self, score: Aggregate) -> None:
        with pytest.raises(ValueError, match=r"\[N, H, W\] without empty axis, got \(5, 6\)"):
            score(torch.zeros(5, 6), torch.zeros(5, 6, dtype=torch.uint8))

    def test_an_empty_axis_is_refused(self, score: Aggregate) -> None:
        with pytest.raises(ValueError, match=r"without empty axis, got \(0, 5, 6\)"):
            score(torch.zeros(0, 5, 6), torch.zeros(0, 5, 6, dtype=torch.uint8))

    def test_a_map_of_integers_is_refused(self, score: Aggregate) -> None:
        mask = torch.zeros(2, 5, 6, dtype=torch.uint8)
        with pytest.raises(TypeError, match="floating point"):
            score(mask, mask)

    def test_a_mask_that_is_not_uint8_is_refused(self, score: Aggregate) -> None:
        with pytest.raises(TypeError, match=r"uint8, got torch\.int64"):
            score(torch.zeros(2, 5, 6), torch.zeros(2, 5, 6, dtype=torch.int64))

    def test_a_mask_of_another_size_is_refused(self, score: Aggregate) -> None:
        with pytest.raises(ValueError, match=r"\(2, 6, 5\) must have the map's shape \(2, 5, 6\)"):
            score(torch.zeros(2, 5, 6), torch.zeros(2, 6, 5, dtype=torch.uint8))
