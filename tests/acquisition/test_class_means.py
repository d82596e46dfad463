"""The doubt of each class's own pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acquisition.aggregate import MIN_OBJECT_PX, class_means


def class_means_by_loop(uncertainty: Tensor, predicted: Tensor, classes: int) -> list[list[float]]:
    N, H, W = uncertainty.shape
    table = []
    for n in range(N):
        of_class: dict[int, list[float]] = {c: [] for c in range(classes)}
        for h in range(H):
            for w in range(W):
                of_class[int(predicted[n, h, w])].append(float(uncertainty[n, h, w]))
        table.append(
            [sum(px) / len(px) if len(px) >= 25 else 0.0 for px in (of_class[c] for c in of_class)]
        )
    return table


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Maps and masks [N, H, W], and how many classes there might be: some may show nowhere."""
    N, H, W = draw(st.integers(1, 3)), draw(st.integers(1, 13)), draw(st.integers(1, 17))
    present = draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    predicted = torch.randint(0, present, (N, H, W), generator=generator, dtype=torch.uint8)
    uncertainty = torch.rand(N, H, W, generator=generator, dtype=torch.float64)
    return uncertainty, predicted, present + draw(st.integers(0, 2))


@given(scenes())
@settings(deadline=None)
def test_it_equals_the_loop_over_pixels(scene: tuple[Tensor, Tensor, int]) -> None:
    uncertainty, predicted, classes = scene
    means = class_means(uncertainty, predicted, classes)
    assert means.shape == (len(uncertainty), classes)
    for ours, expected in zip(means.tolist(), class_means_by_loop(*scene), strict=True):
        assert ours == pytest.approx(expected, abs=1e-12)


@given(scenes())
@settings(deadline=None)
def test_an_image_has_the_same_means_in_any_company(scene: tuple[Tensor, Tensor, int]) -> None:
    uncertainty, predicted, classes = scene
    alone = [
        class_means(uncertainty[n : n + 1], predicted[n : n + 1], classes)
        for n in range(len(uncertainty))
    ]
    torch.testing.assert_close(class_means(uncertainty, predicted, classes), torch.cat(alone))


def test_a_mean_is_over_the_pixels_of_its_class_alone() -> None:
    predicted = torch.zeros(1, 10, 20, dtype=torch.uint8)
    predicted[0, :5, :6], predicted[0, 5:, 10:] = 1, 3
    uncertainty = torch.full((1, 10, 20), 0.25)
    uncertainty[0, :5, :6], uncertainty[0, 5:, 10:15] = 0.5, 1.0  # class 3: 25 of its 50 pixels
    assert class_means(uncertainty, predicted, 4).tolist() == [[0.25, 0.5, 0.0, (1.0 + 0.25) / 2]]


@pytest.mark.parametrize(("pixels", "expected"), [(MIN_OBJECT_PX - 1, 0.0), (MIN_OBJECT_PX, 0.75)])
def test_a_class_counts_from_the_area_of_the_smallest_object(pixels: int, expected: float) -> None:
    predicted = torch.zeros(1, 6, 10, dtype=torch.uint8)
    predicted.view(-1)[:pixels] = 1
    assert class_means(torch.full((1, 6, 10), 0.75), predicted, 2).tolist() == [[0.75, expected]]


def test_pixels_are_not_pooled_over_images() -> None:
    predicted = torch.zeros(2, 5, 10, dtype=torch.uint8)
    predicted[:, :2] = 1  # 20 pixels in each, 40 in both
    assert class_means(torch.ones(2, 5, 10), predicted, 2)[:, 1].tolist() == [0.0, 0.0]


def test_the_type_of_the_map_is_kept_and_a_large_map_is_not_rounded() -> None:
    # Summed one by one in float32, the 2**-12 of each pixel is soon lost.
    uncertainty = torch.full((1, 1024, 1024), 1 + 2**-12)
    means = class_means(uncertainty, torch.zeros(1, 1024, 1024, dtype=torch.uint8), 1)
    assert means.dtype == torch.float32
    assert means.item() == 1 + 2**-12


def test_a_map_without_image_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[N, H, W\] without empty axis, got \(5, 6\)"):
        class_means(torch.zeros(5, 6), torch.zeros(5, 6, dtype=torch.uint8), 2)


def test_a_map_of_integers_is_refused() -> None:
    mask = torch.zeros(2, 5, 6, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"floating point, got torch\.uint8"):
        class_means(mask, mask, 2)


def test_a_mask_that_is_not_uint8_is_refused() -> None:
    with pytest.raises(TypeError, match=r"uint8, got torch\.int64"):
        class_means(torch.zeros(2, 5, 6), torch.zeros(2, 5, 6, dtype=torch.int64), 2)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 6, 5\) must have the map's shape \(2, 5, 6\)"):
        class_means(torch.zeros(2, 5, 6), torch.zeros(2, 6, 5, dtype=torch.uint8), 2)


def test_an_index_that_is_no_class_is_refused():
    predicted = torch.full((1, 6, 6), 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="holds class 3, and there are 3 classes"):
        class_means(torch.rand(1, 6, 6), predicted, 3)


def test_a_class_without_any_uncertainty_is_still_there():
    predicted = torch.ones((1, 6, 6), dtype=torch.uint8)
    assert class_means(torch.zeros(1, 6, 6), predicted, 2)[0, 1] > 0
