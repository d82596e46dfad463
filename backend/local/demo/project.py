"""Makes the demo project in Label Studio, or what is missing of it.

What is done is read from Label Studio each time: a project is known by a mark in its description,
a task by the name of its file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from backend.label_studio.browser_image import BrowserImage, browser_image
from backend.label_studio.bulk import Project, Studio
from backend.label_studio.control import control_of, id_of
from backend.local.demo.drawn import (
    ANNOTATED,
    FIELDS,
    DrawnField,
    choose,
    draw,
    label_config,
    regions_of,
)
from backend.local.demo.folder import image_files, skipped_files, unique_name
from backend.local.demo.record import recorded, remember_demo, source_of, still_exists
from backend.local.errors import NoImages
from backend.local.progress import ProgressReporter
from backend.settings import Settings
from training.process_pool import process_pool

TITLE = "Urine sediment"
BATCH = 12
MOST_PROCESSES = 8

_MARK = "Committee's demo project, "

T = TypeVar("T")
R = TypeVar("R")


def make_demo(settings: Settings, images: Path | None, progress: ProgressReporter) -> int:
    """Make the demo project, or what is missing of it.

    Args:
        images: a folder of the user's images; None draws fields of view and annotates a dozen.

    Returns:
        Label Studio's project number.

    Raises:
        NoImages: the folder holds no image that can be read.
        StudioRefused, StudioUnreachable: from the client; the next call goes on.
    """
    source = source_of(images)
    with Studio(*settings.label_studio()) as studio:
        if images is None:
            project = _find_or_create(settings.data_dir, studio, source, TITLE)
            _fill_with_drawn(studio, project.id, progress)
        else:
            files = image_files(images)
            title = f"{TITLE}: {images.resolve().name}"[:50]
            project = _find_or_create(settings.data_dir, studio, source, title)
            _fill_with_files(studio, project.id, images, files, progress)
    remember_demo(settings.data_dir, source, done=True)
    return project.id


def _find_or_create(data_dir: Path, studio: Studio, source: str, title: str) -> Project:
    known = recorded(data_dir, source)
    if known.project is not None and still_exists(studio, known):
        return studio.project(known.project)
    # A run that ended between making and recording the project left one with our mark.
    mark = _MARK + hashlib.sha256(source.encode()).hexdigest()[:12]
    control = control_of(studio)
    marked = [row for row in control.all_projects() if mark in (row.description or "")]
    if marked:
        found = id_of(marked[-1])
    else:
        created = control.projects.create(
            title=title,
            description=f"{mark}. Labels are changed under Settings, Labeling Interface.",
            label_config=label_config(),
            # Otherwise each listing of tasks would wait for predictions of a page.
            evaluate_predictions_automatically=False,
        )
        found = id_of(created)
    project = studio.project(found)
    remember_demo(data_dir, source, project=project.id, key=project.key)
    return project


def _tasks_by_file(studio: Studio, project_id: int) -> dict[str, tuple[int, int]]:
    """{name of the uploaded file: (task id, annotations)}, without Label Studio's own prefix."""
    found = {}
    for task in studio.tasks(project_id):
        name = str(task.data.get("image", "")).rsplit("/", 1)[-1]
        found[re.sub(r"^[0-9a-f]{8}-", "", name)] = (task.id, task.annotations + task.skipped)
    return found


def _fill_with_drawn(studio: Studio, project_id: int, progress: ProgressReporter) -> None:
    drawn: list[DrawnField] = []
    present = _tasks_by_file(studio, project_id)
    with progress.step("The demo's images") as report:
        for batch in _batches(_map_in_processes(draw, range(FIELDS)), BATCH):
            drawn += batch
            report("Drawing the demo's images", len(drawn), FIELDS)
            missing = [(field.name, field.png) for field in batch if field.name not in present]
            if missing:
                studio.upload(project_id, missing)
    with progress.step("The demo's annotations") as report:
        present = _tasks_by_file(studio, project_id)
        chosen = choose(drawn, ANNOTATED)
        for done, field in enumerate(chosen):
            report("Annotating a dozen of them", done, len(chosen))
            task_id, annotations = present[field.name]
            if annotations == 0:
                studio.annotate(task_id, regions_of(field))


def _fill_with_files(
    studio: Studio,
    project_id: int,
    folder: Path,
    files: Sequence[Path],
    progress: ProgressReporter,
) -> None:
    present = {name.rsplit(".", 1)[0] for name in _tasks_by_file(studio, project_id)}
    wanted = [(path, unique_name(path.relative_to(folder))) for path in files]
    missing = [(path, name) for path, name in wanted if name not in present]
    problems: list[str] = []
    parts: list[str] = []
    done = len(wanted) - len(missing)
    with progress.step("Your images") as report:
        for batch in _batches(_map_in_processes(_browser_image, missing), BATCH):
            ready = [(file.name, file.data) for file in batch if not file.problem]
            problems += [file.problem for file in batch if file.problem]
            parts += [f"{file.name}: {file.part}" for file in batch if file.part]
            if ready:
                studio.upload(project_id, ready)
            done += len(batch)
            report("Uploading your images", done, len(wanted))
    skipped = skipped_files(folder)
    if skipped:
        progress.message(skipped)
    if parts:
        progress.message(
            f"{len(parts)} of {len(wanted)} images are a part of their file, such as {parts[0]}. "
            f"`.venv/bin/python -m training images {folder} --output seen` writes how each image "
            "is seen; with --channels it chooses others, which you can give to IMAGES instead."
        )
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        progress.message(f"{len(problems)} of {len(wanted)} images were left out:\n{listed}")
    if len(problems) == len(wanted):
        raise NoImages(f"None of the {len(wanted)} images in '{folder}' could be read.")
    progress.message(
        "The project has the five labels of urine sediment; change them in Label Studio under "
        "Settings, Labeling Interface, before you label."
    )


def _browser_image(item: tuple[Path, str]) -> BrowserImage:
    return browser_image(*item)


def _use_one_thread() -> None:
    """There is a process per CPU already: OpenCV's own threads would only compete."""
    import cv2

    cv2.setNumThreads(1)


def _map_in_processes(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Like map, on every CPU; results come in order, and few are ready before they are taken."""
    with process_pool(max(1, min(MOST_PROCESSES, os.cpu_count() or 1)), _use_one_thread) as pool:
        left = iter(items)
        running = [pool.submit(function, item) for item in islice(left, 2 * BATCH)]
        try:
            while running:
                yield running.pop(0).result()
                running += [pool.submit(function, item) for item in islice(left, 1)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch
