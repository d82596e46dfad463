"""Where the ranking version is uncertain about a task's image, as a figure and as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import BadRequest, StudioRefused, UnknownProject
from backend.label_studio.bulk import Task
from backend.label_studio.region_counts import describe_counts
from backend.ledger import Project
from backend.predict import image_url, label_config_of, read_image
from backend.workplace import Workplace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TaskMap:
    """What ``write_task_map`` wrote.

    Attributes:
        files: the figure and the arrays.
        arms: "measure/aggregate" to the image's score.
        problems: a sentence for each region of the annotations that could not be used.
    """

    files: tuple[Path, Path]
    arms: Mapping[str, float]
    problems: Sequence[str]


def write_task_map(work: Workplace, task_id: int, folder: Path) -> TaskMap:
    """Predict a task's image and write task-<id>-map.png and task-<id>-map.npz.

    The truth is what the task's annotators agree on, as a round would learn it; without an
    annotation there is none.

    Args:
        task_id: Label Studio's own.
        folder: made if it is not there; files of the same names are replaced.

    Raises:
        BadRequest: there is no such task, its project has no version yet, or the folder cannot be
            written to.
        UnknownProject: its project is not connected.
        ImageRefused: its image cannot be read.
    """
    from backend.rounds.stages.collect import mask_of
    from training.figures.map_files import write_map

    row, task = find_task(work, task_id)
    version = work.ledger.versions.promoted(row.id)
    if version is None:
        raise BadRequest(
            f"Project {row.studio_id} has no version yet: label at least two images and wait "
            f"for a round, or run `python -m backend retrain --project {row.studio_id}`."
        )
    options = work.options(row)
    config = label_config_of(work.studio.project(row.studio_id).label_config, options)
    image = read_image(work.images, image_url(task.data, config), options.channel_numbers)
    committee = work.registry.load(row.slug, version.number)
    classes = committee.config.classes
    annotations = [a for a in work.studio.annotations(task_id) if not a["was_cancelled"]]
    truth: NDArray[np.uint8] | None = None
    problems: list[str] = []
    if annotations:
        # The version's classes: a label that is newer than it is unknown to it.
        read = mask_of(annotations, image, config, options, classes)
        truth, problems = read.mask, describe_counts(read.counts) + read.problems
    prediction = committee.predict(image)
    title = f"Task {task_id} of project {row.studio_id}, predicted by version {version.number}"
    try:
        files = write_map(folder, f"task-{task_id}", prediction, image, classes, truth, title)
    except OSError as error:
        raise BadRequest(f"The map cannot be written to {folder}: {error}.") from error
    return TaskMap(files, prediction.arms, problems)


def find_task(work: Workplace, task_id: int) -> tuple[Project, Task]:
    """A task and its project's row, of the connected projects.

    Label Studio is never asked for the task by itself: it would ask the backend for a
    prediction first, and store it.

    Raises:
        BadRequest: Label Studio shows our user no such task.
        UnknownProject: its project is not connected.
    """
    for row in work.ledger.projects.all(connected_only=True):
        if row.server != work.server:
            continue
        try:
            found = list(work.studio.tasks(row.studio_id, ids=[task_id]))
        except StudioRefused as error:
            if error.studio_status == 404:  # deleted there, and still in the ledger
                continue
            raise
        if found:
            return row, found[0]
    try:
        annotations = work.studio.annotations(task_id)
    except StudioRefused as error:
        if error.studio_status == 404:
            raise BadRequest(
                f"Label Studio at {work.server} has no task {task_id} that our user may see. The "
                "number is the task's own, as the address of an open task has it (?task=...)."
            ) from error
        raise
    project = f"project {annotations[0]['project']}" if annotations else "a project"
    number = annotations[0]["project"] if annotations else "..."
    raise UnknownProject(
        f"Task {task_id} is in {project} that is not connected: "
        f"run `python -m backend connect --project {number}` first."
    )
