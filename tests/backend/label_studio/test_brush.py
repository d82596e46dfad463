"""The codec against the SDK's own, both ways, and against what is no such stream."""

from collections import Counter
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio_sdk.converter.brush import decode_rle, encode_rle, mask2rle

from backend.errors import BadRegion
from backend.label_studio import brush

SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))
SEED = 20261124


def sdk_encode(mask: npt.NDArray[np.bool_]) -> list[int]:
    return mask2rle(mask.astype(np.uint8) * 255)


def sdk_alpha(rle: list[int], height: int, width: int) -> npt.NDArray[np.uint8]:
    return decode_rle(rle).reshape(height, width, 4)[..., 3]


def assert_means(rle: list[int], mask: npt.NDArray[np.bool_]) -> None:
    """The SDK reads the mask back, in all four channels, and we do, from no more bytes than its."""
    wanted = mask.astype(np.uint8) * 255
    np.testing.assert_array_equal(
        decode_rle(rle).reshape(*mask.shape, 4), np.repeat(wanted[..., None], 4, axis=2)
    )
    np.testing.assert_array_equal(brush.decode(rle, *mask.shape), wanted)
    assert len(rle) <= len(sdk_encode(mask))


def discs(side: int, count: int = 40) -> npt.NDArray[np.bool_]:
    """An ordinary mask: discs of 1 to 6 % of the side."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[:side, :side]
    mask = np.zeros((side, side), dtype=bool)
    for _ in range(count):
        cy, cx = rng.uniform(0, side, 2)
        mask |= (y - cy) ** 2 + (x - cx) ** 2 < (side * rng.uniform(0.01, 0.06)) ** 2
    return mask


def literal_stream(words: npt.NDArray[np.uint8], chunk: int) -> list[int]:
    """Literals only, as the editor's encoder writes words that do not repeat."""
    bits = f"{len(words):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    for at in range(0, len(words), chunk):
        part = words[at : at + chunk]
        bits += f"011{len(part) - 1:016b}" + "".join(f"{word:08b}" for word in part)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


@given(SIDES.flatmap(lambda shape: arrays(np.bool_, shape)))
@settings(deadline=None, derandomize=True)
def test_any_mask_comes_back_by_the_sdk_as_well(mask: npt.NDArray[np.bool_]) -> None:
    assert_means(brush.encode(mask), mask)


@given(SIDES.flatmap(lambda shape: arrays(np.bool_, shape)))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_no_other_length_sizes_make_a_mask_shorter(mask: npt.NDArray[np.bool_]) -> None:
    edges = np.flatnonzero(np.diff(mask.ravel()))
    runs = np.diff(edges, prepend=-1, append=mask.size - 1) * 4
    needed = Counter(max(1, int(run - 1).bit_length()) for run in runs.tolist())
    shortest = min(
        sum(n * (11 + min(s for s in sizes if s >= bits)) for bits, n in needed.items())
        for sizes in combinations(range(1, 17), 4)
        if sizes[-1] >= max(needed)
    )
    assert len(brush.encode(mask)) == -(-(53 + shortest) // 8)


def test_an_ordinary_mask_is_a_tenth_shorter_than_the_sdks() -> None:
    mask = discs(1024, 100)
    assert len(brush.encode(mask)) < 0.92 * len(sdk_encode(mask))


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 40_000)), min_size=1, max_size=6),
    st.booleans(),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_runs_of_every_length_come_back(runs: list[tuple[bool, int]], upright: bool) -> None:
    line = np.concatenate([np.full(length, value) for value, length in runs])
    mask = line[:, None] if upright else line[None, :]
    assert_means(brush.encode(mask), mask)


@pytest.mark.parametrize("pixels", [2, 3, 4, 5, 64, 65, 16_383, 16_384, 16_385, 32_768, 32_769])
def test_runs_at_the_limits_of_the_length_sizes_come_back(pixels: int) -> None:
    mask = np.zeros((1, pixels + 1), dtype=bool)
    mask[0, :pixels] = True
    assert_means(brush.encode(mask), mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (1, 16_385)])
@pytest.mark.parametrize("value", [False, True])
def test_degenerate_masks_go_both_ways(shape: tuple[int, int], value: bool) -> None:
    mask = np.full(shape, value)
    assert_means(brush.encode(mask), mask)


@given(
    SIDES.flatmap(lambda shape: arrays(np.bool_, shape)),
    *[st.integers(0, 3) for _ in range(4)],
)
@settings(deadline=None, derandomize=True)
def test_a_part_encodes_like_the_image_that_it_is_the_only_part_of(
    part: npt.NDArray[np.bool_], top: int, bottom: int, left: int, right: int
) -> None:
    image = np.pad(part, ((top, bottom), (left, right)))
    assert brush.encode(part, at=(top, left), size=image.shape) == brush.encode(image)


@pytest.mark.parametrize("at", [(-1, 0), (0, -1), (3, 0), (0, 4)])
def test_a_part_that_leaves_the_image_is_not_encoded(at: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must lie within"):
        brush.encode(np.ones((2, 3), dtype=bool), at=at, size=(4, 6))


def test_a_mask_that_is_a_strided_view_encodes_like_its_copy() -> None:
    mask = discs(64)[::2, ::-1].T
    assert brush.encode(mask) == brush.encode(mask.copy())


@given(SIDES.flatmap(lambda shape: arrays(np.uint8, shape)))
@settings(deadline=None, derandomize=True)
def test_anti_aliased_alpha_decodes_as_the_sdk_decodes_it(alpha: npt.NDArray[np.uint8]) -> None:
    rle = encode_rle(np.repeat(alpha.ravel(), 4))
    np.testing.assert_array_equal(brush.decode(rle, *alpha.shape), alpha)
    np.testing.assert_array_equal(sdk_alpha(rle, *alpha.shape), alpha)


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
        lambda shape: arrays(np.uint8, (*shape, 4))
    )
)
@settings(deadline=None, derandomize=True)
def test_an_image_whose_colours_differ_from_its_alpha_decodes_to_the_alpha(
    rgba: npt.NDArray[np.uint8],
) -> None:
    np.testing.assert_array_equal(
        brush.decode(encode_rle(rgba.ravel()), *rgba.shape[:2]), rgba[..., 3]
    )


@given(SIDES.flatmap(lambda shape: arrays(np.uint8, (*shape, 4))), st.integers(1, 300))
@settings(deadline=None, derandomize=True)
def test_literals_decode_as_the_sdk_decodes_them(rgba: npt.NDArray[np.uint8], chunk: int) -> None:
    rle = literal_stream(rgba.ravel(), chunk)
    np.testing.assert_array_equal(brush.decode(rle, *rgba.shape[:2]), rgba[..., 3])
    np.testing.assert_array_equal(sdk_alpha(rle, *rgba.shape[:2]), rgba[..., 3])


@pytest.mark.parametrize("block", [1, 7, 64])
def test_where_the_walk_splits_the_stream_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    rgba = np.random.default_rng(SEED).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    streams = [literal_stream(rgba.ravel(), 5), encode_rle(np.repeat(rgba[..., 3].ravel(), 4))]
    whole = [brush.decode(rle, 9, 11) for rle in streams]
    monkeypatch.setattr(brush, "BLOCK_BYTES", block)
    for rle, expected in zip(streams, whole, strict=True):
        np.testing.assert_array_equal(brush.decode(rle, 9, 11), expected)


def test_other_length_sizes_than_ours_are_read_from_the_header() -> None:
    alpha = np.repeat(np.arange(30, dtype=np.uint8), 5).reshape(10, 15)
    runs = [(int(value), 20) for value in range(30)]
    bits = f"{600:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (2, 5, 9, 12))
    bits += "".join(f"101{length - 1:05b}{value:08b}" for value, length in runs)
    bits += "0" * (-len(bits) % 8)
    rle = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    np.testing.assert_array_equal(brush.decode(rle, 10, 15), alpha)


def test_bytes_behind_the_last_pixel_are_ignored() -> None:
    mask = discs(32)
    decoded = brush.decode([*brush.encode(mask), 255, 0, 13, 200, 77], 32, 32)
    np.testing.assert_array_equal(decoded > 127, mask)


@given(st.lists(st.integers(0, 255), max_size=80), SIDES)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_any_bytes_behind_a_right_header_decode_or_are_refused(
    tail: list[int], shape: tuple[int, int]
) -> None:
    height, width = shape
    header = brush.encode(np.zeros(shape, dtype=bool))[:6]
    try:
        alpha = brush.decode(header + tail, height, width)
    except BadRegion:
        return
    assert alpha.shape == shape
    try:
        expected = sdk_alpha(header + tail, height, width)
    except IndexError:
        return  # the SDK writes past its end where a last run is longer than the image
    np.testing.assert_array_equal(alpha, expected)


@pytest.mark.parametrize(
    ("rle", "says"),
    [
        (None, "list of integers, got NoneType"),
        ("AAEC", "list of integers, got str"),
        (7, "list of integers, got int"),
        ([0, 0, 256], "0 to 255"),
        ([0, -1], "0 to 255"),
        ([0, 1.5], "0 to 255"),
        ([0, "x"], "0 to 255"),
        ([], "header"),
        ([0, 0, 0, 16, 0, 0], "header"),
    ],
)
def test_what_is_no_list_of_bytes_is_refused_with_a_sentence(rle: object, says: str) -> None:
    with pytest.raises(BadRegion, match=says):
        brush.decode(rle, 2, 2)  # type: ignore[arg-type]


def test_a_stream_of_another_size_is_refused_with_both_numbers() -> None:
    rle = brush.encode(np.ones((4, 5), dtype=bool))
    with pytest.raises(BadRegion, match="6 x 4 pixels must hold 96 words, its rle says 80"):
        brush.decode(rle, 4, 6)


def test_a_stream_cut_short_is_refused() -> None:
    rle = brush.encode(discs(64))
    with pytest.raises(BadRegion, match="must hold 16384 words, its records hold"):
        brush.decode(rle[: len(rle) // 2], 64, 64)
    with pytest.raises(BadRegion, match="records hold 0"):
        brush.decode(rle[:7], 64, 64)


def test_a_run_beyond_the_last_pixel_is_refused() -> None:
    rle = brush.encode(np.ones((4, 4), dtype=bool))
    rle[:4] = [0, 0, 0, 4 * 4 * 3]
    with pytest.raises(BadRegion, match="must hold 48 words, its records hold 64"):
        brush.decode(rle, 4, 3)


def test_words_of_another_width_are_refused() -> None:
    rle = brush.encode(np.ones((4, 4), dtype=bool))
    rle[4] ^= 0b10000000
    with pytest.raises(BadRegion, match="words must be of 8 bits, its rle says 24"):
        brush.decode(rle, 4, 4)


@pytest.mark.parametrize(("height", "width"), [(32_768, 32_767), (1, 10**12), (0, 5), (5, -1)])
def test_a_claim_of_a_billion_pixels_is_refused_before_allocating(height: int, width: int) -> None:
    rle = brush.encode(np.ones((4, 4), dtype=bool))
    rle[:4] = [255, 255, 255, 252]
    with pytest.raises(BadRegion, match="must hold 1 to"):
        brush.decode(rle, height, width)


def test_a_short_stream_that_claims_many_pixels_is_refused_before_allocating() -> None:
    rle = [*(4 * 8192 * 8192).to_bytes(4, "big"), *brush.encode(np.ones((4, 4), dtype=bool))[4:]]
    with pytest.raises(BadRegion, match="its records hold 64"):
        brush.decode(rle, 8192, 8192)


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2), np.uint8), np.zeros(4, bool), np.zeros((0, 4), bool)]
)
def test_what_is_no_mask_is_not_encoded(mask: npt.NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="mask must"):
        brush.encode(mask)  # type: ignore[arg-type]


def test_a_mask_of_4096_pixels_a_side_goes_both_ways() -> None:
    mask = np.kron(discs(512), np.ones((8, 8), dtype=bool))
    np.testing.assert_array_equal(brush.decode(brush.encode(mask), 4096, 4096) > 127, mask)


@given(SIDES.flatmap(lambda shape: arrays(np.uint8, shape)))
def test_a_graded_layer_comes_back_in_all_four_channels(alpha: npt.NDArray[np.uint8]) -> None:
    rle = brush.encode_alpha(alpha)
    np.testing.assert_array_equal(
        decode_rle(rle).reshape(*alpha.shape, 4), np.repeat(alpha[..., None], 4, axis=2)
    )
    np.testing.assert_array_equal(brush.decode(rle, *alpha.shape), alpha)


def test_a_layer_that_is_none_is_refused() -> None:
    for alpha in (np.zeros((2, 2)), np.zeros((0, 2), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(ValueError, match="alpha must be uint8"):
            brush.encode_alpha(alpha)  # type: ignore[arg-type]
