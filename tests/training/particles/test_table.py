"""A row for each particle."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from skimage.measure import regionprops

from training.particles.instances import instances
from training.particles.table import particle_table

CLASSES = ("background", "a", "b")


def test_columns_are_those_of_scikit_image_and_means_those_of_a_slow_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.particles.table.STRIP_PX", 100)
    rng = np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 3, (7, 9), np.uint8), np.ones((5, 4), np.uint8))
    image = rng.integers(0, 256, (*mask.shape, 3), np.uint8)
    confidence, uncertainty = rng.random((2, *mask.shape), np.float32)
    found = instances(mask)
    table = particle_table(found, image, confidence, uncertainty, CLASSES, (0.5, 0.25))
    assert len(table["label"]) == len(found.classes) > 5
    for i, region in enumerate(regionprops(found.numbers, image)):
        inside = found.numbers == i + 1
        assert table["class"][i] == CLASSES[found.classes[i]]
        assert table["area"][i] == inside.sum()
        assert table["area_um2"][i] == pytest.approx(inside.sum() / 8)
        assert table["eccentricity"][i] == pytest.approx(region.eccentricity)
        assert table["intensity_mean-1"][i] == pytest.approx(image[inside][:, 1].mean())
        assert table["probability"][i] == pytest.approx(confidence[inside].mean(), rel=1e-5)
        assert table["uncertainty"][i] == pytest.approx(uncertainty[inside].mean(), rel=1e-5)
        edge = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]]).any()
        assert table["touches_border"][i] == edge


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (2, 2)])
def test_particles_of_a_pixel_or_a_line_have_finite_shapes(shape: tuple[int, int]) -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[1 : 1 + shape[0], 1 : 1 + shape[1]] = 1
    flat = np.ones(mask.shape, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = particle_table(instances(mask), np.zeros((9, 9, 3), np.uint8), flat, flat, CLASSES)
    assert table["solidity"].tolist() == [1]
    assert np.isfinite(table["eccentricity"]).all()
    assert "area_um2" not in table


def test_no_particles_give_empty_columns() -> None:
    flat = np.ones((4, 5), np.float32)
    none = instances(np.zeros((4, 5), np.uint8))
    table = particle_table(none, np.zeros((4, 5, 3), np.uint8), flat, flat, CLASSES, (1, 1))
    assert {len(values) for values in table.values()} == {0}
