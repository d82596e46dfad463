"""What members predicted of the labelled images that they never saw, in one file of a version.

Brings no torch, so that a page can read it.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from training.committee.folders import PREDICTED_FILE
from training.errors import TrainingError
from training.files import open_plain_file
from training.pixels import Image8

LARGEST_PNG = 64 * 2**20
"""Bytes; of a prediction at the network's resolution some kilobytes are usual."""


class NotPredicted(TrainingError):
    """A version keeps no prediction of this image."""


def pack(predicted: Mapping[str, bytes]) -> bytes:
    """PNGs by key as one file, the same for the same predictions."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key in sorted(predicted):
            archive.writestr(zipfile.ZipInfo(key), predicted[key])
    return buffer.getvalue()


def read_predicted(folder: Path, key: str) -> Image8:
    """The classes [h, w] that a version predicted of an image, at the network's resolution.

    Args:
        folder: the version's.

    Raises:
        NotPredicted: it keeps none, or its file is not what was saved.
    """
    try:
        with open_plain_file(folder / PREDICTED_FILE) as file, zipfile.ZipFile(file) as archive:
            if archive.getinfo(key).file_size > LARGEST_PNG:
                raise NotPredicted(f"The prediction of {key} in {folder} is too large.")
            data = archive.read(key)
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise NotPredicted(f"{folder} keeps no prediction of {key}.") from error
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        raise NotPredicted(f"The prediction of {key} in {folder} is not what was saved.")
    return np.asarray(mask, np.uint8)
