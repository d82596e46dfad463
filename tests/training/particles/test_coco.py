"""COCO's run-length code and files of instances."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.particles.coco import (
    BadRuns,
    CocoImage,
    coco_particles,
    decode_runs,
    encode_runs,
    write_coco,
)


def encode(mask: NDArray[np.bool_]) -> str:
    return encode_runs(mask, 0, 0, mask.shape)


def whole(counts: object, size: tuple[int, int]) -> NDArray[np.bool_]:
    left, part = decode_runs(counts, size)
    mask = np.zeros(size, bool)
    mask[:, left : left + part.shape[1]] = part
    return mask


def test_a_code_worked_by_hand_is_read_and_written() -> None:
    # Down the columns of 3 x 2 pixels: 2 off, 2 on, 2 off.
    mask = np.array([[0, 1], [0, 0], [1, 0]], bool)
    assert encode(mask) == "222"
    np.testing.assert_array_equal(whole([2, 2, 2], (3, 2)), mask)
    # 100 = 3 * 32 + 4: the lower five bits with the sign that more come, then the rest.
    assert encode_runs(np.ones((1, 1), bool), 0, 100, (1, 101)) == "T31"
    np.testing.assert_array_equal(whole("T31", (1, 101)), np.arange(101)[None] == 100)


@pytest.mark.parametrize("seed", range(8))
def test_masks_come_back_from_both_forms_of_the_code(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    mask = rng.random((height, width)) < rng.choice([0, 0.03, 0.5, 1])
    np.testing.assert_array_equal(whole(encode(mask), mask.shape), mask)
    flat = mask.ravel(order="F").tolist()
    counts, value = [0], False
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    np.testing.assert_array_equal(whole(counts, mask.shape), mask)


def test_a_mask_within_its_box_is_that_of_the_whole_image() -> None:
    whole_mask = np.zeros((6, 7), bool)
    whole_mask[2:5, 1:4] = [[1, 0, 1], [1, 1, 0], [0, 0, 1]]
    assert encode_runs(whole_mask[2:5, 1:4], 2, 1, (6, 7)) == encode(whole_mask)


@pytest.mark.parametrize(
    "counts",
    [
        *(None, {}, [1.5, 4.5], [True] * 6, [-1, 7], [3], [6, 2**70]),
        *("222z~", "2" * 2**23, "_" * 90, "o", "é", "22"),
    ],
)
def test_what_is_no_code_of_the_size_is_refused(counts: object) -> None:
    with pytest.raises(BadRuns):
        decode_runs(counts, (3, 2))


def test_a_file_holds_each_particle_exactly(tmp_path: Path) -> None:
    first = np.array([[1, 1, 0, 255, 2], [0, 0, 0, 0, 2], [1, 0, 0, 0, 2]], np.uint8)
    write_coco(
        tmp_path / "instances.json",
        [
            CocoImage(7, "a.png", first.shape, coco_particles(first)),
            CocoImage(9, "b.tif", (2, 2), []),
        ],
        ("background", "cell", "cast", "yeast"),
    )
    found = json.loads((tmp_path / "instances.json").read_text())
    assert [c["name"] for c in found["categories"]] == ["cell", "cast", "yeast"]
    assert [c["id"] for c in found["categories"]] == [1, 2, 3]
    assert [(i["id"], i["file_name"], i["height"], i["width"]) for i in found["images"]] == [
        (7, "a.png", 3, 5),
        (9, "b.tif", 2, 2),
    ]
    boxes = [(a["category_id"], a["bbox"], a["area"]) for a in found["annotations"]]
    assert boxes == [(1, [0, 0, 2, 1], 2), (1, [0, 2, 1, 1], 1), (2, [4, 0, 1, 3], 3)]
    assert [a["id"] for a in found["annotations"]] == [1, 2, 3]
    drawn = np.zeros((3, 5), np.uint8)
    for entry in found["annotations"]:
        drawn[whole(entry["segmentation"]["counts"], (3, 5))] = entry["category_id"]
    np.testing.assert_array_equal(drawn, np.where(first == 255, 0, first))
    assert [path.name for path in tmp_path.iterdir()] == ["instances.json"]
