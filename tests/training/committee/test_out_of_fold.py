"""What members predicted of images that they never saw, in a version's folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.training.discs import CLASSES
from training.committee.checksums import DamagedVersion, check_files
from training.committee.folders import PREDICTED_FILE
from training.committee.out_of_fold import NotPredicted, pack, read_predicted
from training.committee.version import read_version, write_version
from training.config import TrainConfig
from training.images import encode_png
from training.networks.build import build_network

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


def test_a_version_predicts_without_reading_the_file_and_its_checksum_is_kept(
    tmp_path: Path,
) -> None:
    config = TrainConfig(CLASSES, members=1, network="unet")
    weights = [build_network(config).state_dict()]
    folder = tmp_path / "1"
    masks = {"7": encode_png(MASK)}
    write_version(folder, 1, weights, config, {}, {"temperature": 1.0}, predicted=masks)
    assert np.array_equal(read_predicted(folder, "7"), MASK)
    check_files(folder)
    (folder / PREDICTED_FILE).unlink()
    assert read_version(folder).number == 1
    with pytest.raises(DamagedVersion, match="out-of-fold"):
        check_files(folder)
