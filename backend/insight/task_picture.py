"""A task's image with what the committee predicts in it, or where it is uncertain, small enough
for a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from backend.errors import BadRequest
from backend.label_studio.images import resolved
from backend.ledger import NO_VERSION, Project, Publication
from backend.predict import image_url, label_config_of, predict_image, read_image
from backend.workplace import Workplace
from training.colours import class_colour, rgb

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from backend.label_studio.label_config import LabelConfig

Layer = Literal["image", "mask", "uncertainty"]

MASK_OPACITY = 0.45
UNCERTAIN_COLOUR = (230, 0, 160)
"""Of none of the first classes, and seen on pink as on grey tissue."""

UNCERTAIN_OPACITY = 0.85
DEFAULT_MEASURE = "predictive_entropy"


def task_picture(
    work: Workplace,
    project: Project,
    serving: Publication,
    task_id: int,
    layer: Layer,
    max_side_px: int,
) -> bytes:
    """A task's image, shrunk, with a layer over it: WebP.

    "mask" is the pre-annotation that Label Studio holds of ``serving``; "uncertainty" is predicted
    now, by the measure that counted most, and takes as long as a pre-annotation does.

    Raises:
        BadRequest: there is no such task, it names no image, or nothing was predicted yet.
        ImageRefused: its image cannot be read.
        StudioUnreachable, StudioRefused: as the client met them.
    """
    options = work.options(project)
    config = label_config_of(project.label_config, options)
    task = next(iter(work.studio.tasks(project.studio_id, ids=[task_id])), None)
    if task is None:
        raise BadRequest(f"Label Studio has no task {task_id} (any more).")
    url = resolved(image_url(task.data, config), task_id)
    version = work.ledger.versions.get(project.id, serving.version)
    if layer != "image" and (serving.version == NO_VERSION or version is None):
        raise BadRequest("Nothing is predicted before there is a version.")
    over: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = None
    if layer == "uncertainty":
        image, prediction = predict_image(work, project, serving, url)
        weights = serving.weights or {}
        measure = max(weights, key=lambda arm: weights[arm], default=DEFAULT_MEASURE)
        small = shrunk(image, max_side_px)
        over = _uncertain(prediction.maps[measure.partition("/")[0]], _size(small))
    else:
        image = read_image(work.images, url, options.channel_numbers)
        small = shrunk(image, max_side_px)
        if layer == "mask" and version is not None:
            regions = _stored_regions(work, task_id, serving.name)
            over = _painted(regions, config, version.classes, _size(image), _size(small))
    if over is not None:
        small = _blended(small, *over)
    return webp(small)


def webp(image: NDArray[np.uint8]) -> bytes:
    """A small image [h, w, 3]."""
    import cv2

    done, data = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 82])
    assert done  # an image of this size always can be
    return bytes(data.tobytes())


def _size(image: NDArray[np.uint8]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def shrunk(image: NDArray[np.uint8], max_side_px: int) -> NDArray[np.uint8]:
    """[h, w, 3]; never enlarged."""
    import cv2
    import numpy as np

    height, width = image.shape[:2]
    scale = min(1.0, max_side_px / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _stored_regions(work: Workplace, task_id: int, name: str) -> list[dict[str, Any]]:
    found = work.studio.predictions(task_id)
    return next((each["result"] for each in found if each["model_version"] == name), [])


def _painted(
    regions: object,
    config: LabelConfig,
    classes: list[str],
    size: tuple[int, int],
    shown: tuple[int, int],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The colours [h, w, 3] of stored regions, and their opacity [h, w, 1]."""
    import numpy as np

    from acquisition.masks import UNKNOWN
    from backend.label_studio.regions import read_annotation
    from training.images import nearest

    read = read_annotation(regions, config, classes, size, unlabelled=0, unknown_label=None)
    mask = nearest(read.mask, *shown)
    table = np.array([rgb(class_colour(index)) if index else (0, 0, 0) for index in range(256)])
    drawn = (mask > 0) & (mask != UNKNOWN)
    return table[mask].astype(np.uint8), (MASK_OPACITY * drawn[..., None]).astype(np.float32)


def _uncertain(
    measured: NDArray[np.float32], shown: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """One colour [h, w, 3], the more opaque [h, w, 1] the more uncertain."""
    import cv2
    import numpy as np

    height, width = shown
    large = np.asarray(
        cv2.resize(measured, (width, height), interpolation=cv2.INTER_AREA), np.float32
    )
    # The scale ends at the image's own most uncertain pixels: the page asks where, not how much.
    top = max(float(np.percentile(large, 99.5)), 1e-6)
    opacity = UNCERTAIN_OPACITY * np.clip(large / top, 0, 1)[..., None]
    colour = np.broadcast_to(np.array(UNCERTAIN_COLOUR, np.uint8), (height, width, 3))
    return colour, opacity.astype(np.float32)


def _blended(
    image: NDArray[np.uint8], colours: NDArray[np.uint8], opacity: NDArray[np.float32]
) -> NDArray[np.uint8]:
    import numpy as np

    mixed = image * (1 - opacity) + colours * opacity
    return mixed.round().astype(np.uint8)
