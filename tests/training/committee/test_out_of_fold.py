"""What members predicted of images that they never saw, in a version's folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from training.committee.folders import PREDICTED_FILE
from training.committee.out_of_fold import NotPredicted, pack, read_predicted
from training.images import encode_png

MASK = np.arange(12, dtype=np.uint8).reshape(3, 4)


def test_a_mask_comes_back_and_the_file_is_the_same_for_the_same_masks(tmp_path: Path) -> None:
    masks = {"7": encode_png(MASK), "31": encode_png(MASK.T.copy())}
    (tmp_path / PREDICTED_FILE).write_bytes(pack(masks))
    assert np.array_equal(read_predicted(tmp_path, "7"), MASK)
    assert pack(masks) == pack(dict(reversed(masks.items())))


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06 no archive", pack({"7": b"no picture"})])
def test_what_is_not_kept_or_no_mask_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(NotPredicted, match="keeps no prediction of 7"):
        read_predicted(tmp_path, "7")
    (tmp_path / PREDICTED_FILE).write_bytes(data)
    with pytest.raises(NotPredicted):
        read_predicted(tmp_path, "7")


def test_a_file_that_unpacks_to_too_much_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / PREDICTED_FILE, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("7", bytes(65 * 2**20))
    with pytest.raises(NotPredicted, match="too large"):
        read_predicted(tmp_path, "7")
