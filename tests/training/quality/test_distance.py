import json
import math

import numpy as np
import pytest

from acquisition.masks import UNKNOWN
from training.quality.distance import BINS, EDGES_PX, boundary_distance, uncertainty_by_distance


def slow_distance(mask):
    """For each known pixel, every other one of another class in turn."""
    height, width = mask.shape
    pixels = [(y, x) for y in range(height) for x in range(width) if mask[y, x] != UNKNOWN]
    distance = np.full(mask.shape, np.nan)
    for y, x in pixels:
        others = [math.hypot(y - v, x - u) for v, u in pixels if mask[v, u] != mask[y, x]]
        distance[y, x] = min(others, default=math.nan)
    return distance


def slow_bin(distance):
    return max(b for b, edge in enumerate(EDGES_PX) if distance > edge)


def random_mask(seed, size=(17, 29), classes=3):
    """Blocks of classes, with holes of unknown pixels: single pixels would all lie at 1 px."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (3, 4)).astype(np.uint8)
    mask = np.kron(coarse, np.ones((7, 8), np.uint8))[: size[0], : size[1]].copy()
    mask[rng.random(size) < 0.15] = UNKNOWN
    return mask


def test_a_row_of_two_classes_worked_by_hand():
    truth = np.array([[0, 0, 0, 0, 1, 1, UNKNOWN]], np.uint8)
    predicted = np.array([[0, 0, 0, 1, 1, 0, 0]], np.uint8)
    uncertainty = np.array([[0.1, 0.2, 0.3, 0.7, 0.9, 0.4, 5.0]], np.float32)
    # Distances: 4, 3, 2, 1 | 1, 2 | unknown.
    found = uncertainty_by_distance({"entropy": uncertainty}, truth, predicted)
    assert found.to_json() == {
        "edges_px": [0, 1, 2, 3, 5, 8, 12, 20],
        "pixels": [2, 2, 1, 1, 0, 0, 0, 0],
        "wrong": [0.5, 0.5, 0.0, 0.0, None, None, None, None],
        "measures": {
            "entropy": [
                pytest.approx(0.8),
                pytest.approx(0.35),
                pytest.approx(0.2),
                pytest.approx(0.1),
                None,
                None,
                None,
                None,
            ]
        },
    }
    assert found.without_boundary == 0


def test_a_side_is_at_1_px_and_a_corner_at_its_diagonal():
    mask = np.zeros((3, 3), np.uint8)
    mask[1, 1] = 4
    root = math.sqrt(2)
    assert boundary_distance(mask) == pytest.approx(
        np.array([[root, 1, root], [1, 1, 1], [root, 1, root]])
    )


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_a_slow_search_finds(seed):
    truth = random_mask(seed)
    rng = np.random.default_rng(100 + seed)
    predicted = rng.integers(0, 3, truth.shape).astype(np.uint8)
    maps = {name: rng.random(truth.shape).astype(np.float32) for name in ("one", "other")}
    slow = slow_distance(truth)
    np.testing.assert_allclose(boundary_distance(truth), slow, rtol=1e-12)

    pixels, wrong = [0] * BINS, [0] * BINS
    sums = {name: [0.0] * BINS for name in maps}
    for place in zip(*np.nonzero(truth != UNKNOWN), strict=True):
        b = slow_bin(slow[place])
        pixels[b] += 1
        wrong[b] += int(predicted[place] != truth[place])
        for name, each in maps.items():
            sums[name][b] += float(each[place])
    found = uncertainty_by_distance(maps, truth, predicted)
    assert found.pixels.tolist() == pixels
    assert found.wrong.tolist() == wrong
    assert {name: each.tolist() for name, each in found.sums.items()} == {
        name: pytest.approx(each) for name, each in sums.items()
    }


def test_the_last_bin_is_open():
    truth = np.zeros((1, 100), np.uint8)
    truth[0, 0] = 1
    found = uncertainty_by_distance({"one": np.ones((1, 100))}, truth, truth)
    assert found.pixels.tolist() == [2, 1, 1, 2, 3, 4, 8, 79]
    assert found.wrong.sum() == 0


def test_the_edge_of_the_unknown_is_no_boundary():
    truth = np.zeros((1, 12), np.uint8)
    truth[0, 3:8] = UNKNOWN
    assert np.isnan(boundary_distance(truth)).all()
    truth[0, 8:] = 1
    assert boundary_distance(truth)[0, :3].tolist() == [8, 7, 6]  # to the first pixel of class 1


@pytest.mark.parametrize("value", [0, 2, UNKNOWN])
def test_an_image_of_one_class_is_in_no_bin_and_counted(value):
    truth = np.full((4, 5), value, np.uint8)
    found = uncertainty_by_distance({"one": np.ones((4, 5))}, truth, np.zeros_like(truth))
    assert found.pixels.sum() == 0
    assert found.without_boundary == 1
    assert found.to_json()["measures"] == {"one": [None] * BINS}


def test_images_add_up_pixel_by_pixel():
    rng = np.random.default_rng(0)
    images = []
    for seed, size in ((0, (17, 29)), (1, (9, 12)), (2, (6, 7))):
        truth = random_mask(seed, size) if seed < 2 else np.zeros(size, np.uint8)
        predicted = rng.integers(0, 3, size).astype(np.uint8)
        images.append(uncertainty_by_distance({"one": rng.random(size)}, truth, predicted))
    one, two, flat = images
    total = one + two + flat
    assert total.pixels.tolist() == (one.pixels + two.pixels).tolist()
    assert total.without_boundary == 1
    mean = (one.sums["one"][0] + two.sums["one"][0]) / (one.pixels[0] + two.pixels[0])
    assert total.to_json()["measures"]["one"][0] == pytest.approx(mean)
    assert json.loads(json.dumps(total.to_json(), allow_nan=False)) == total.to_json()


def test_what_does_not_belong_together_is_refused():
    truth = random_mask(0)
    one = uncertainty_by_distance({"one": np.ones(truth.shape)}, truth, truth)
    other = uncertainty_by_distance({"other": np.ones(truth.shape)}, truth, truth)
    with pytest.raises(ValueError, match="the same measures add up, got one and other"):
        _ = one + other
    with pytest.raises(ValueError, match=r"prediction .* differ in shape"):
        uncertainty_by_distance({}, truth, truth[1:])
    with pytest.raises(ValueError, match=r"map one .* differ in shape"):
        uncertainty_by_distance({"one": np.ones((2, 3))}, truth, truth)
    with pytest.raises(ValueError, match="not finite"):
        uncertainty_by_distance({"one": np.full(truth.shape, np.nan)}, truth, truth)
