"""From an image to a pre-annotation: what the committee sees, as Label Studio's regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backend.errors import BadRequest, ImageRefused
from backend.label_studio.images import ImageFetcher, short_url
from backend.label_studio.label_config import LabelConfig, parse_label_config
from backend.label_studio.regions import to_regions
from backend.options import ProjectOptions
from backend.shorten import short, shorten

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.committee.prediction import Prediction


def label_config_of(xml: str, options: ProjectOptions) -> LabelConfig:
    return parse_label_config(xml, image=options.image)


def image_url(data: Mapping[str, Any], config: LabelConfig) -> str:
    """Where a task's image is.

    Raises:
        BadRequest: the task's data has no such key, or no URL under it.
    """
    url = data.get(config.data_key)
    if not isinstance(url, str) or not url:
        raise BadRequest(
            f"The task's data must hold an image URL under '{config.data_key}', "
            f"got {shorten(url)} (its keys: {short(', '.join(map(str, data)), 120) or 'none'})."
        )
    return url


def read_image(images: ImageFetcher, url: str) -> NDArray[np.uint8]:
    """Fetch and decode an image: [H, W, 3] uint8.

    Raises:
        ImageRefused: it may not be fetched, is too large, or is no image.
    """
    from training.images import UnreadableImage, decode_image

    try:
        return decode_image(images.fetch(url))
    except UnreadableImage as error:
        raise ImageRefused(f"{short_url(url)}: {error}") from error


def pre_annotate(
    prediction: Prediction, classes: Sequence[str], config: LabelConfig, options: ProjectOptions
) -> list[dict[str, Any]]:
    """The regions that a look at an image draws, each with its calibrated confidence.

    Args:
        classes: of the committee that looked, by index.
    """
    return to_regions(
        prediction.mask(),
        prediction.confidence(),
        config,
        classes,
        per=options.regions or ("particle" if config.output.kind == "polygonlabels" else "class"),
        min_particle_px=options.min_particle_px,
    )
