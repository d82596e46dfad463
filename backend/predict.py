"""From tasks to Label Studio's predictions, for the web and for the jobs of rounds.

torch is loaded with the first version, not with this module.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from backend.errors import (
    BackendError,
    BadRequest,
    Busy,
    ImageRefused,
    LedgerUnavailable,
    StudioRefused,
    StudioUnreachable,
)
from backend.fallback import load_whole
from backend.label_studio.images import ImageFetcher, resolved, short_url
from backend.label_studio.label_config import LabelConfig, parse_label_config, value_at
from backend.label_studio.regions import Per, to_regions
from backend.ledger import NO_VERSION, Project, Publication
from backend.ledger.events import PREDICT_REST
from backend.ledger.projects import AT_PREDICT
from backend.options import ProjectOptions
from backend.outside_score import outside_score
from backend.shorten import short, shorten
from backend.workplace import Workplace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.committee.committee import Committee
    from training.committee.prediction import Prediction
    from training.pixels import Decoded


log = logging.getLogger(__name__)

REST_TASKS = 50
"""Queued as one job, of a minute or two: a round's part may have to wait for it."""


class TaskPrediction(TypedDict):
    """A prediction as Label Studio takes it."""

    result: list[dict[str, Any]]
    score: float
    model_version: str


_one_at_a_time = threading.Lock()
"""Two predictions at once in a process would only share its threads and memory."""


def label_config_of(xml: str, options: ProjectOptions) -> LabelConfig:
    return parse_label_config(xml, image=options.image)


def image_url(data: Mapping[str, Any], config: LabelConfig) -> str:
    """Where a task's image is.

    Raises:
        BadRequest: the task's data has no such key, or no URL under it.
    """
    url = value_at(data, config.data_key)
    if not isinstance(url, str) or not url:
        raise BadRequest(
            f"The task's data must hold an image URL under '{config.data_key}', "
            f"got {shorten(url)} (its keys: {short(', '.join(map(str, data)), 120) or 'none'})."
        )
    return url


def group_of(data: Mapping[str, Any], group_by: str | None) -> str | None:
    """A task's group: what its data holds under the option ``group_by``; None where that is no
    text, number or truth value."""
    found = None if group_by is None else value_at(data, group_by)
    return str(found) if isinstance(found, str | int | float) and found != "" else None


def read_image(
    images: ImageFetcher, url: str, channels: Sequence[int] | None = None
) -> NDArray[np.uint8]:
    """Fetch and decode an image: [H, W, 3] uint8.

    Args:
        channels: as ``training.images.read_image`` takes them.

    Raises:
        ImageRefused: it may not be fetched, is too large, or is no image.
    """
    return read_decoded(images, url, channels).image


def read_decoded(images: ImageFetcher, url: str, channels: Sequence[int] | None) -> Decoded:
    """As ``read_image``, with what part of its file the image is."""
    return decoded_image(images.fetch(url), url, channels)


def decoded_image(data: bytes, url: str, channels: Sequence[int] | None) -> Decoded:
    """As ``read_decoded``, of a file that was fetched from ``url``."""
    from training.decoder import read_apart
    from training.pixels import UnreadableImage

    try:
        return read_apart(data, channels)
    except UnreadableImage as error:
        raise ImageRefused(f"{short_url(url)}: {error}") from error


def regions_per(config: LabelConfig, options: ProjectOptions) -> Per:
    """What becomes one region of a pre-annotation."""
    return options.regions or ("particle" if config.output.shape == "polygon" else "class")


def pre_annotate(
    committee: Committee, prediction: Prediction, config: LabelConfig, options: ProjectOptions
) -> list[dict[str, Any]]:
    """The regions of a committee's prediction, each with its calibrated confidence."""
    return to_regions(
        prediction.mask(),
        prediction.confidence(),
        config,
        committee.config.classes,
        per=regions_per(config, options),
        min_particle_px=options.min_particle_px,
        split=committee.diameters(options.split_touching or (), prediction),
    )


def predict_tasks(
    work: Workplace,
    project: Project,
    publication: Publication,
    tasks: Sequence[tuple[int, Mapping[str, Any]]],
    within_s: float | None = None,
) -> list[list[TaskPrediction]]:
    """Predictions by the version that serves, or by its fallback: a list for each task, in order.

    Args:
        tasks: (id, data) of each.
        within_s: after this many seconds the rest is answered ``[]``, which Label Studio saves as
            nothing, and queued. It is as well when Label Studio gives no images now.
    """
    if publication.version == NO_VERSION:
        return [[] for _ in tasks]  # a first order of the images, by nothing that was predicted
    deadline = None if within_s is None else time.monotonic() + within_s
    options = work.options(project)
    config = label_config_of(project.label_config, options)
    committee = load_whole(work, project, publication.version)
    answered: list[list[TaskPrediction]] = []
    refused: list[str] = []
    for task_id, data in tasks:
        wait_s = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if wait_s == 0.0 or not _one_at_a_time.acquire(timeout=wait_s):
            break
        try:
            url = resolved(image_url(data, config), task_id)
            image = read_image(work.images, url, options.channel_numbers)
            prediction = committee.predict(image)
            result = pre_annotate(committee, prediction, config, options)
            score = outside_score(prediction.arms, publication)
        except (StudioUnreachable, StudioRefused) as error:
            log.warning("task %s and those after it are predicted later: %s", task_id, error)
            refused.append(f"task {task_id} and those after it are predicted later: {error}")
            break
        except BackendError as error:
            log.warning("no prediction for task %s: %s", task_id, error)
            refused.append(f"no prediction for task {task_id}: {error}")
            answered.append([])
        else:
            answered.append([{"result": result, "score": score, "model_version": publication.name}])
        finally:
            _one_at_a_time.release()
    _tell(work, project, refused)
    rest = [task_id for task_id, _ in tasks[len(answered) :]]
    for first in range(0, len(rest), REST_TASKS):
        work.ledger.events.add(project.id, PREDICT_REST, rest[first : first + REST_TASKS])
    return answered + [[] for _ in rest]


PICTURE_WAIT_S = 20.0
"""How long a picture waits for the predictions that annotators wait for."""


def predict_image(
    work: Workplace, project: Project, publication: Publication, url: str
) -> tuple[NDArray[np.uint8], Prediction]:
    """An image, and what the version of a publication, or its fallback, predicts in it.

    Raises:
        Busy: other images are being predicted.
        ImageRefused: the image cannot be read.
    """
    options = work.options(project)
    committee = load_whole(work, project, publication.version)
    image = read_image(work.images, url, options.channel_numbers)
    if not _one_at_a_time.acquire(timeout=PICTURE_WAIT_S):
        raise Busy("Other images are being predicted: ask again in some seconds.")
    try:
        return image, committee.predict(image)
    finally:
        _one_at_a_time.release()


def _tell(work: Workplace, project: Project, refused: Sequence[str]) -> None:
    """Let ``status`` show why tasks got no prediction: Label Studio itself reports success."""
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    error = f"{AT_PREDICT}{refused[0]}{more}" if refused else None
    of_predict = project.last_error is None or project.last_error.startswith(AT_PREDICT)
    # What a round said is left alone, and so is the ledger where nothing changed.
    if of_predict and error != project.last_error:
        try:
            work.ledger.projects.update(project.id, last_error=error)
        except LedgerUnavailable as busy:  # the predictions are worth more than this sentence
            log.warning("status will not show why tasks got no prediction: %s", busy)
