"""The files of ``python -m training map``: image and truth in, figure and arrays out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.committee.prediction import Prediction
from training.datasets.labelled import indices_beyond, read_image, read_indices
from training.errors import TrainingError
from training.figures.uncertainty_figure import at_prediction_size, error_map, uncertainty_figure
from training.files import write_atomically
from training.pixels import Image8


class BadTruth(TrainingError):
    """A mask is not of the image, or not of the version's classes."""


class OtherChannels(TrainingError):
    """A version predicts images of more or fewer channels than this one has."""


def read_image_file(path: Path, channels: int) -> Image8:
    """An image from a file: [H, W, 3] uint8, RGB.

    Args:
        channels: of the version that will predict it.

    Raises:
        UnreadableImage: says which and why.
        OtherChannels: the version does not predict RGB images.
        OSError: there is no such file.
    """
    image = read_image(path)
    if image.shape[2] != channels:
        raise OtherChannels(
            f"The version predicts images of {channels} channels, but {path} is read as one of "
            f"{image.shape[2]}."
        )
    return image


def read_truth_file(path: Path, image: Image8, classes: Sequence[str]) -> NDArray[np.uint8]:
    """A mask from a PNG of class indices, 255 where nothing is known: [H, W] uint8.

    Raises:
        BadTruth: it is not of the image's size, or holds an index that is no class.
        BadFolder: it is no PNG of class indices.
    """
    mask = read_indices(path)
    if mask.shape != image.shape[:2]:
        (height, width), (H, W) = mask.shape, image.shape[:2]
        raise BadTruth(
            f"{path} is {width} x {height} px, its image {W} x {H} px: they must be of one size."
        )
    beyond = indices_beyond(mask, len(classes))
    if beyond:
        raise BadTruth(
            f"{path} holds the class index {beyond[0]}, but the version knows {len(classes)} "
            f"classes (0 to {len(classes) - 1}, and 255 for unknown)."
        )
    return mask


def write_map(
    folder: Path,
    stem: str,
    prediction: Prediction,
    image: Image8,
    classes: Sequence[str],
    truth: NDArray[np.uint8] | None = None,
    title: str = "",
) -> tuple[Path, Path]:
    """Write the figure as <stem>-map.png and the arrays as <stem>-map.npz.

    Args:
        folder: made if it is not there; files of the same names are replaced.

    Returns:
        The two files.

    Raises:
        ValueError: image, truth and prediction do not belong together.
    """
    figure, arrays = folder / f"{stem}-map.png", folder / f"{stem}-map.npz"
    write_atomically(figure, uncertainty_figure(prediction, image, classes, truth, title))
    save_arrays(arrays, prediction, image, truth)
    return figure, arrays


def save_arrays(
    path: Path, prediction: Prediction, image: Image8, truth: NDArray[np.uint8] | None = None
) -> None:
    """Write what the figure shows as arrays at the network's resolution, in one .npz.

    ``image`` [h, w, channels] uint8, ``probs`` [C, h, w] float32, ``predicted`` [h, w] uint8, each
    of ``MEASURES`` [h, w] float32 in its unit; with a truth also ``truth`` [h, w] uint8 and
    ``error`` [h, w] uint8, 1 where the prediction is wrong, 0 where it is right, and 255 in both
    where nothing is known.

    Raises:
        ValueError: image, truth and prediction do not belong together.
    """
    picture, known = at_prediction_size(prediction, image, truth)
    arrays: dict[str, NDArray[Any]] = {
        "image": picture,
        "probs": prediction.probs,
        "predicted": prediction.predicted,
        **prediction.maps,
    }
    if known is not None:
        arrays |= {"truth": known, "error": error_map(known, prediction.predicted)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())
