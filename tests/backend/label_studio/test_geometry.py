"""Outlines to pixels against scikit-image, a slow oracle, and hand-worked cases."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import points_in_poly

from backend.errors import BadRegion
from backend.label_studio import geometry
from backend.label_studio.geometry import Patch, fill_ellipse, fill_polygon, fill_rectangle, outline

SIZE = (13, 17)


def whole(patch: Patch, size: tuple[int, int] = SIZE) -> npt.NDArray[np.bool_]:
    target = np.zeros(size, dtype=np.uint8)
    patch.paint(target, 1)
    return target > 0


def centres(size: tuple[int, int] = SIZE) -> npt.NDArray[np.float64]:
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return np.stack([x.ravel(), y.ravel()], axis=1)


def winding_number(x: float, y: float, points: npt.NDArray[np.float64]) -> int:
    """How often the polygon turns around a point, by adding up angles."""
    angles = [math.atan2(b - y, a - x) for a, b in points]
    turns = 0.0
    for here, there in zip(angles, angles[1:] + angles[:1], strict=True):
        turns += (there - here + math.pi) % (2 * math.pi) - math.pi
    return round(turns / (2 * math.pi))


def distance_to_edges(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From every pixel's centre to the nearest edge, [H * W]."""
    start, end = points, np.roll(points, -1, axis=0)
    along = end - start
    to = centres()[:, None, :] - start
    length = np.maximum((along**2).sum(axis=1), 1e-12)
    t = np.clip((to * along).sum(axis=2) / length, 0, 1)
    return np.linalg.norm(to - t[..., None] * along, axis=2).min(axis=1)


COORDINATE = st.integers(-40, 200).map(lambda tenth: tenth / 10)


@given(st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=9))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_polygon_holds_the_pixels_it_winds_around(points: list[tuple[float, float]]) -> None:
    polygon = np.array(points)
    expected = np.array([winding_number(x, y, polygon) != 0 for x, y in centres()])
    # A centre on an edge may go either way.
    clear = distance_to_edges(polygon) > 1e-6
    got = whole(fill_polygon(polygon, SIZE)).ravel()
    np.testing.assert_array_equal(got[clear], expected[clear])


def test_a_simple_polygon_holds_what_scikit_image_says() -> None:
    polygon = np.array([(1.2, 0.7), (15.9, 3.3), (9.1, 6.2), (14.2, 12.6), (2.3, 10.9)])
    expected = points_in_poly(centres(), polygon).reshape(SIZE)
    np.testing.assert_array_equal(whole(fill_polygon(polygon, SIZE)), expected)


def test_squares_that_share_an_edge_share_no_pixel_and_leave_none_out() -> None:
    edges = [0, 3.5, 8.5, 13, 17]
    total = np.zeros(SIZE, dtype=int)
    for left, right in itertools.pairwise(edges):
        total += whole(fill_rectangle(left, 0, right - left, 13, 0, SIZE))
    np.testing.assert_array_equal(total, 1)


def test_an_upright_rectangle_holds_the_pixels_whose_centres_it_covers() -> None:
    expected = np.zeros(SIZE, dtype=bool)
    expected[3:7, 2:10] = True
    np.testing.assert_array_equal(whole(fill_rectangle(2, 3, 8, 4, 0, SIZE)), expected)
    np.testing.assert_array_equal(whole(fill_rectangle(1.6, 2.6, 8.8, 4.8, 0, SIZE)), expected)


def test_a_rectangle_turns_clockwise_about_its_upper_left_corner() -> None:
    expected = np.zeros(SIZE, dtype=bool)
    expected[3:11, 5:9] = True  # 8 wide and 4 high, turned by 90 degrees about (9, 3)
    np.testing.assert_array_equal(whole(fill_rectangle(9, 3, 8, 4, 90, SIZE)), expected)


@given(
    st.tuples(COORDINATE, COORDINATE),
    st.tuples(st.integers(1, 80), st.integers(1, 80)),
    st.integers(-360, 720),
)
@settings(deadline=None, derandomize=True)
def test_an_ellipse_holds_the_pixels_that_its_equation_says(
    centre: tuple[float, float], tenths: tuple[int, int], rotation: int
) -> None:
    (x, y), (radius_x, radius_y) = centre, (tenths[0] / 10, tenths[1] / 10)
    turn = math.radians(rotation)
    dx, dy = (centres() - np.array([x, y])).T
    u = dx * math.cos(turn) + dy * math.sin(turn)
    v = -dx * math.sin(turn) + dy * math.cos(turn)
    distance = ((u / radius_x) ** 2 + (v / radius_y) ** 2).reshape(SIZE)
    got = whole(fill_ellipse(x, y, radius_x, radius_y, rotation, SIZE))
    clear = abs(distance - 1) > 1e-9
    np.testing.assert_array_equal(got[clear], (distance < 1)[clear])


@pytest.mark.parametrize(
    "patch",
    [
        fill_ellipse(5, 5, 0, 3, 0, SIZE),
        fill_ellipse(5, 5, 1e-300, 3, 0, SIZE),
        fill_ellipse(500, 5, 3, 3, 0, SIZE),
        fill_ellipse(5, -500, 3, 3, 0, SIZE),
        fill_rectangle(5, 5, 0, 3, 0, SIZE),
        fill_rectangle(-9, -9, 8, 8, 0, SIZE),
        fill_rectangle(20, 3, 8, 8, 0, SIZE),
        fill_polygon(np.array([(1, 1), (9, 9), (5, 5)], dtype=float), SIZE),
    ],
)
def test_what_holds_no_pixel_of_the_image_paints_none(patch: Patch) -> None:
    assert not whole(patch).any()


def test_what_leaves_the_image_is_cut_off() -> None:
    assert whole(fill_rectangle(-1e7, -1e7, 2e7, 2e7, 0, SIZE)).all()
    assert whole(fill_ellipse(8, 6, 1e7, 1e7, 30, SIZE)).all()


def test_a_polygon_of_too_many_edges_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "MAX_CROSSINGS", 10)
    with pytest.raises(BadRegion, match="may cross 10 rows of pixels together, got 26"):
        fill_polygon(np.array([(1, -1), (5, 20), (9, -1)], dtype=float), SIZE)


def particle(seed: int, side: int = 40) -> npt.NDArray[np.bool_]:
    """One connected particle without holes, of a rough edge."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((side, side)), 4)
    numbers, _ = ndimage.label(noise > noise.mean(), structure=np.ones((3, 3)))
    largest = np.bincount(numbers.ravel())[1:].argmax() + 1
    return ndimage.binary_fill_holes(numbers == largest)


@pytest.mark.parametrize("seed", range(20))
def test_an_outline_without_simplification_holds_exactly_the_particle(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(geometry, "TOLERANCE_PX", 0.0)
    mask = particle(seed)
    points = outline(Patch(3, 5, mask))
    expected = np.zeros((50, 50), dtype=bool)
    expected[3:43, 5:45] = mask
    np.testing.assert_array_equal(whole(fill_polygon(points, (50, 50)), (50, 50)), expected)


@pytest.mark.parametrize("seed", range(20))
def test_a_simplified_outline_strays_from_the_edge_by_less_than_a_pixel(seed: int) -> None:
    mask = np.pad(particle(seed), 3)
    back = whole(fill_polygon(outline(Patch(0, 0, mask)), mask.shape), mask.shape)
    assert not (back & ~ndimage.binary_dilation(mask, np.ones((3, 3)))).any()
    assert not (~back & ndimage.binary_erosion(mask, np.ones((3, 3)))).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 4)])
def test_the_smallest_particles_keep_an_outline_that_holds_them(shape: tuple[int, int]) -> None:
    points = outline(Patch(2, 3, np.ones(shape, dtype=bool)))
    assert len(points) >= 3
    expected = np.zeros(SIZE, dtype=bool)
    expected[2 : 2 + shape[0], 3 : 3 + shape[1]] = True
    np.testing.assert_array_equal(whole(fill_polygon(points, SIZE)), expected)


def test_a_hole_is_filled() -> None:
    ring = np.ones((9, 9), dtype=bool)
    ring[3:6, 3:6] = False
    assert whole(fill_polygon(outline(Patch(0, 0, ring)), (9, 9)), (9, 9)).all()
