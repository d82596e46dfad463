"""The counts of a project: every image by the committee, corrected by its labelled audits."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.actions.projects import connected_project
from backend.errors import BadRequest, ImageRefused
from backend.fallback import load_whole
from backend.insight.counts.people import Tally, count_people
from backend.insight.counts.predicted import PredictedImage, predict_counts
from backend.insight.read_model import Json, to_json
from backend.label_studio.bulk import Task
from backend.label_studio.label_config import LabelConfig, value_at
from backend.ledger import Project
from backend.ledger.shapes import ManifestEntry
from backend.predict import image_url, label_config_of
from backend.rounds.elsewhere import images_learnt_elsewhere
from backend.rounds.example_notes import was_prepared
from backend.rounds.schedule import is_audit
from backend.workplace import Workplace
from training.quality.counts import PoolCount, count_pool, may_give_interval

if TYPE_CHECKING:
    from training.committee.committee import Committee

ALL = "all images"
"""The group of every image."""

NO_GROUP = "(none)"
"""The group of the tasks whose data has no such key."""

MOST_UNKNOWN = 0.1
"""Share of an audit's pixels of which nothing is known: what lies there is not counted, so an audit
with more of them would say that the committee sees too much."""

MEASURES = ("count", "area")


@dataclass(frozen=True)
class CountRow:
    """One class in one group of images.

    Attributes:
        measure: count: particles in an image; area: share of an image's pixels.
        pool: per image; times ``pool.images`` it is the total.
    """

    measure: str
    class_name: str
    group: str
    pool: PoolCount


@dataclass(frozen=True)
class ImageRow:
    """One image.

    Attributes:
        role: audit (labelled, and counted below), labelled (the version learnt from it) or pool.
        counted: None where it is no audit.
        by_member: as the member whose fold it is in predicts it; None where nothing asks for it.
    """

    task: int
    group: str
    role: str
    predicted: PredictedImage
    counted: Tally | None
    by_member: PredictedImage | None


@dataclass(frozen=True)
class Audits:
    """What became of the audits among the images that could be read.

    Attributes:
        counted: that people counted.
        prepared: of these, on how many a person corrected a pre-annotation.
        shared: of these, how many have several annotations, whose counts are averaged.
        waiting: that nobody has labelled yet.
        skipped: that were skipped, and so are not counted.
        unknown: labelled, and left out for ``MOST_UNKNOWN``.
        learnt: labelled, and learnt from before ``audit_fraction`` was raised; they count as
            labelled images.
    """

    counted: int
    prepared: int
    shared: int
    waiting: int
    skipped: int
    unknown: int
    learnt: int


@dataclass(frozen=True)
class ProjectCounts:
    """What ``count_project`` found.

    Attributes:
        project: Label Studio's number.
        version: that predicted.
        classes: names by index, background first.
        group_by: the key of the task data; None without.
        rows: for each measure, group and class.
        images: those of the pool, by task.
        unreadable: (task, why) of the images that could not be read, which are left out.
        elsewhere: images that the version from elsewhere learnt from, which are left out.
        learnt: images of the pool that the version learnt from.
        out_of_fold: whether these are predicted by a member that never saw them; a lone member
            saw all.
        audits: what became of them.
    """

    project: int
    version: int
    classes: Sequence[str]
    group_by: str | None
    rows: Sequence[CountRow]
    images: Sequence[ImageRow]
    unreadable: Sequence[tuple[int, str]]
    elsewhere: int
    learnt: int
    out_of_fold: bool
    audits: Audits

    def to_json(self) -> Json:
        """All but the images, which are in a file."""
        found: Json = to_json(self)
        found["images"] = len(self.images)
        return found


def count_project(
    work: Workplace,
    studio_id: int,
    folder: Path,
    group_by: str | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> ProjectCounts:
    """Count the particles of every image of a project, with what the audits say of the error.

    Args:
        studio_id: Label Studio's number of the project.
        folder: where the counts of the images are kept between runs.
        group_by: a key of the task data; each of its values is estimated by itself too.
        progress: called with how many images are predicted, and of how many.

    Raises:
        BadRequest: the project has no version or no image, or the folder cannot be written to.
        UnknownProject: it is not connected.
        ImageRefused: no image of it could be read.
        StudioUnreachable, StudioRefused: Label Studio is away. What was counted is kept.
    """
    row = connected_project(work, studio_id)
    version = work.ledger.versions.promoted(row.id)
    if version is None:
        raise BadRequest(
            f"Project {studio_id} has no version yet, so there is nothing that counts its images: "
            "label at least two images and wait for a round, or run "
            f"`python -m backend retrain --project {studio_id}`."
        )
    committee = load_whole(work, row, version.number)
    options = work.options(row)
    config = label_config_of(work.studio.project(studio_id).label_config, options)
    tasks = {task.id: task for task in work.studio.tasks(studio_id)}
    if group_by is not None:
        _check_key(group_by, tasks)
    urls, unreadable = _urls(tasks, config)
    learnt = _learnt(work, row, committee) & urls.keys()
    predicted, refused = predict_counts(work, row, committee, urls, learnt, folder, progress)
    unreadable |= refused
    if not predicted:
        first = next(iter(unreadable.values()), "it has no tasks")
        raise ImageRefused(f"Project {studio_id} has no image that can be read: {first}")
    # No member of that version is new to them.
    known = images_learnt_elsewhere(work.ledger, row.id)
    elsewhere = sum(image.digest in known for image in predicted.values())
    predicted = {task: image for task, image in predicted.items() if image.digest not in known}
    if not predicted:
        raise BadRequest(
            f"Project {studio_id} has no image but those that the version it started from learnt "
            "from, and these tell nothing of others: add the images that are to be counted."
        )
    audits = [t for t in predicted if is_audit(row.slug, t, options.audit_fraction)]
    # Images that taught the version are predicted by one member, which sees other things than all
    # members do, and they were chosen because they are unlike others: so what corrects the count
    # is every image by its own member (``_pool``).
    by_member: dict[int, PredictedImage] = {}
    labelled = sum(tasks[t].annotations > 0 for t in audits if t not in learnt)
    if committee.config.members > 1 and learnt & predicted.keys() and may_give_interval(labelled):
        again = {task: urls[task] for task in predicted}
        by_member, refused = predict_counts(work, row, committee, again, again, folder, progress)
        unreadable |= refused
        predicted = {task: predicted[task] for task in by_member}
        if not predicted:
            raise ImageRefused(
                f"No image of project {studio_id} can be read any more: they could be when the "
                "counts began. Run the command again."
            )
        audits = [task for task in audits if task in by_member]
    people, became = _count_audits(
        work,
        [tasks[task] for task in audits],
        learnt,
        lambda task, made: count_people(
            made,
            predicted[task].size,
            config,
            options,
            committee.config.classes,
            predicted[task].split,
        ),
        studio_id,
    )
    images = [
        ImageRow(
            task,
            ALL if group_by is None else _group(tasks[task], group_by),
            "audit" if task in people else "labelled" if task in learnt else "pool",
            predicted[task],
            people.get(task),
            by_member.get(task),
        )
        for task in sorted(predicted)
    ]
    return ProjectCounts(
        project=studio_id,
        version=committee.version,
        classes=committee.config.classes,
        group_by=group_by,
        rows=_rows(images, committee.config.classes),
        images=images,
        unreadable=sorted(unreadable.items()),
        elsewhere=elsewhere,
        learnt=len(learnt & predicted.keys()),
        out_of_fold=committee.config.members > 1,
        audits=became,
    )


def _urls(tasks: Mapping[int, Task], config: LabelConfig) -> tuple[dict[int, str], dict[int, str]]:
    """Task id to its image, and task id to why it names none."""
    urls: dict[int, str] = {}
    without: dict[int, str] = {}
    for task in tasks.values():
        try:
            urls[task.id] = image_url(task.data, config)
        except BadRequest as error:
            without[task.id] = str(error)
    return urls, without


def _count_audits(
    work: Workplace,
    audits: Sequence[Task],
    learnt: Collection[int],
    count: Callable[[int, list[Json]], Tally],
    studio_id: int,
) -> tuple[dict[int, Tally], Audits]:
    """Task id to what people counted there, and what became of all audits.

    Args:
        learnt: tasks that taught the version.
        count: a task's annotations that are no skips.
    """
    people: dict[int, Tally] = {}
    became = Counter(learnt=sum(task.id in learnt for task in audits))
    labelled = {task.id for task in audits if task.annotations and task.id not in learnt}
    for task_id, made in work.studio.annotations_of(studio_id, labelled):
        submitted = [each for each in made if not each["was_cancelled"]]
        if not submitted:  # withdrawn since the listing
            continue
        tally = count(task_id, submitted)
        if tally.unknown > MOST_UNKNOWN:
            became["unknown"] += 1
            continue
        people[task_id] = tally
        became["prepared"] += any(was_prepared(each) for each in submitted)
        became["shared"] += len(submitted) > 1
    others = [t for t in audits if t.id not in learnt and t.id not in labelled]
    return people, Audits(
        counted=len(people),
        prepared=became["prepared"],
        shared=became["shared"],
        waiting=sum(not task.skipped for task in others),
        skipped=sum(task.skipped > 0 for task in others),
        unknown=became["unknown"],
        learnt=became["learnt"],
    )


def _learnt(work: Workplace, project: Project, committee: Committee) -> set[int]:
    """The tasks that taught a version, by its own manifest."""
    from training.committee.version import MANIFEST_FILE

    manifest = json.loads(work.store.version_file(project.slug, committee.version, MANIFEST_FILE))
    entries: Sequence[ManifestEntry] = manifest.get("entries", [])
    return {e["task"] for e in entries if e["digest"] is not None and not e["audit"]}


def _check_key(key: str, tasks: Mapping[int, Task]) -> None:
    if tasks and all(value_at(task.data, key) is None for task in tasks.values()):
        keys = sorted({str(name) for task in tasks.values() for name in task.data})
        raise BadRequest(
            f"No task's data holds the key '{key}' (they hold {', '.join(keys) or 'nothing'}): "
            "give --group-by one that they hold."
        )


def _group(task: Task, key: str) -> str:
    """Its value of the key, told from the names that groups have here."""
    value = value_at(task.data, key)
    if value is None:
        return NO_GROUP
    return f"{key}: {value}" if value in (ALL, NO_GROUP) else str(value)


def _rows(images: Sequence[ImageRow], classes: Sequence[str]) -> list[CountRow]:
    of_group: dict[str, list[ImageRow]] = {}
    for image in images:
        of_group.setdefault(image.group, []).append(image)
    of_group.pop(ALL, None)
    groups = {ALL: list(images), **dict(sorted(of_group.items()))}
    return [
        CountRow(measure, name, group, _pool(of, measure, index))
        for measure in MEASURES
        for group, of in groups.items()
        for index, name in enumerate(classes)
        if index  # the background is not counted
    ]


def _pool(images: Sequence[ImageRow], measure: str, index: int) -> PoolCount:
    """One class in a group.

    What corrects its count is each image by its own member where some taught the version: the
    audits are a random sample of the pool only for what predicts all of it alike.
    """

    def value(of: PredictedImage | Tally) -> float:
        return float((of.counts if measure == "count" else of.areas)[index])

    audits = [(i, each) for i, each in enumerate(images) if each.counted is not None]
    return count_pool(
        np.array([value(image.predicted) for image in images]),
        np.array([i for i, _ in audits], np.intp),
        np.array([value(each.counted) for _, each in audits if each.counted is not None]),
        np.array([value(image.by_member or image.predicted) for image in images]),
        most=math.inf if measure == "count" else 1.0,
    )
