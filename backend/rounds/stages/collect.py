"""The labels of a project become the examples that a round learns from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import orjson

from acquisition.masks import UNKNOWN
from backend.errors import BadRequest, ImageRefused, NotEnoughLabels
from backend.fallback import whole_version
from backend.label_studio.bulk import Stamp
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.region_counts import (
    Counts,
    describe_counts,
    not_understood,
    to_rows,
)
from backend.label_studio.regions import Reading, merge_masks, read_annotation
from backend.ledger import Outcome, Project, Round
from backend.ledger.shapes import Budget as StoredBudget
from backend.ledger.shapes import JudgePayload, ManifestEntry, NoPayload
from backend.options import ProjectOptions
from backend.predict import group_of, image_url, label_config_of, read_decoded
from backend.rounds.elsewhere import choose_beginning, learnt_elsewhere, start_version
from backend.rounds.evidence import Due, due_evidence
from backend.rounds.example_notes import ExampleNote, note_of, pairs_of, times_of
from backend.rounds.schedule import FEWEST_TASKS, is_audit, stamp_digest
from backend.rounds.stages.shards import SHARD_TASKS
from backend.settings import Settings
from backend.workplace import Workplace
from training.committee.registry import UnknownExample
from training.config import TrainConfig
from training.examples import make_example
from training.fitting.budget import Budget, cost_key, knee_steps, steps_for, usual_speed
from training.fitting.folds import training_keys
from training.fitting.speed import seconds_per_step
from training.networks.own_network import weights_digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

READING = 3
"""Raised when annotations or images come to be read otherwise: examples are then made anew."""

MOST_ANNOTATIONS = 64
"""Of one task that are merged; their masks are held together."""

SAID_PROBLEMS = 3
"""Sentences about labels that are not understood, in the error of the round."""


def collect(
    work: Workplace, round_: Round, payload: NoPayload, tick: Callable[[float], None]
) -> Outcome:
    """Annotations as Label Studio holds them now, as examples; the manifest lists them."""
    row = work.ledger.projects.get(round_.project_id)
    options = work.options(row)
    project = work.studio.project(row.studio_id)
    config = label_config_of(project.label_config, options)
    classes = classes_of(config, options)
    stamps = {
        task_id: task_stamps
        for task_id, task_stamps in work.studio.stamps(project.id).items()
        if stamp_digest(task_stamps) is not None
    }
    recipe = Recipe(config, classes, options)
    manifest, problems = _list_examples(work, row, stamps, recipe)
    notes: dict[int, ExampleNote] = {}
    missing: dict[int, ManifestEntry] = {}
    for entry in manifest:
        if entry["digest"] is None:
            continue
        try:
            note = work.registry.example_note(row.slug, entry["digest"])
            notes[entry["task"]] = ExampleNote.from_text(note)
        except UnknownExample:
            missing[entry["task"]] = entry
    bodies = work.studio.annotations_of(project.id, missing)
    for entry in missing.values():
        entry["digest"] = None  # until its example is made: the task may be gone by then
    parts: dict[int, str] = {}
    for done, (task_id, bodies_of_task) in enumerate(bodies):
        said, notes[task_id], part = _make_example(
            work, row.slug, missing[task_id], bodies_of_task, recipe
        )
        problems += said
        if part and options.channels is None:
            parts[task_id] = part
        tick((done + 1) / len(missing))
    counts = sum((note.counts for note in notes.values()), Counts())
    problems = describe_counts(counts) + problems
    if parts:
        first = next(iter(parts))
        problems.append(
            f"{len(parts)} images are a part of their file, that of task {first} is "
            f"{parts[first]}; the option channels chooses others (docs/IMAGES.md)."
        )
    check_understood(counts, problems)
    teaching = {
        str(e["task"]): e["digest"] for e in manifest if e["digest"] is not None and not e["audit"]
    }
    if len(teaching) < FEWEST_TASKS:
        raise NotEnoughLabels(
            f"A round needs labels on at least {FEWEST_TASKS} images, got {len(teaching)} "
            f"({len(manifest)} labelled, {sum(e['audit'] for e in manifest)} of them audits, "
            f"{sum(e['digest'] is None for e in manifest)} unreadable). "
            + (f"First problem: {problems[0]}" if problems else "Label some more.")
        )
    check_classes(_masks(work, row.slug, teaching.values()), classes)
    members = options.members or work.settings.members
    check_folds(list(teaching), members)
    train = train_config(classes, members, options, work.settings)
    fresh = _measured_images(work, row, teaching.values())
    beginning = choose_beginning(work, row, train, fresh)
    problems += beginning.problems
    pixels = sum(int((mask != UNKNOWN).sum()) for mask in _masks(work, row.slug, teaching.values()))
    budget = _budget(work, row, train, options.steps, len(teaching), pixels)
    log.info("round %d of %s: %s", round_.id, row.slug, budget.describe())
    due = _due_evidence(work, row, manifest)
    shards = [due.judge[i : i + SHARD_TASKS] for i in range(0, len(due.judge), SHARD_TASKS)]
    return Outcome(
        result={
            "labelled": len(manifest),
            "judged": len(due.judge),
            "budget": cast(StoredBudget, asdict(budget)),
            "regions": to_rows(counts),
            "both_starts": beginning.both,
            "pairs": pairs_of(notes),
            "times": times_of(notes.values()),
        },
        next_payloads=[JudgePayload(tasks=list(shard)) for shard in shards or [[]]],
        manifest=manifest,
        config=replace(train, steps=budget.steps, start=beginning.start).to_json(),
        problems=problems,
        withdrawn=due.withdrawn,
    )


def classes_of(config: LabelConfig, options: ProjectOptions) -> tuple[str, ...]:
    """Class names by index; the label that paints "unknown" is no class."""
    return ("background", *(name for name in config.labels if name != options.unknown_label))


@dataclass(frozen=True)
class Recipe:
    """All that makes a task's example of its image and annotations."""

    config: LabelConfig
    classes: tuple[str, ...]
    options: ProjectOptions

    def digest(self, entry: ManifestEntry) -> str:
        """A name for an example by all that it is made of."""
        parts = (
            entry["annotations"],
            entry["url"],
            # What tags mean, and which of them are read.
            self.config,
            self.classes,
            self.options.unlabelled,
            self.options.unknown_label,
            sorted((self.options.aliases or {}).items()),
            self.options.max_side_px,
            self.options.channel_numbers,
            READING,
        )
        return hashlib.sha256(orjson.dumps([str(part) for part in parts])).hexdigest()[:32]


def _list_examples(
    work: Workplace, row: Project, stamps: Mapping[int, Sequence[Stamp]], recipe: Recipe
) -> tuple[list[ManifestEntry], list[str]]:
    """The manifest: an entry for each labelled task; ``digest`` None where it cannot teach."""
    tasks = {task.id: task for task in work.studio.tasks(row.studio_id, ids=stamps)}
    manifest: list[ManifestEntry] = []
    problems: list[str] = []
    ungrouped = 0
    for task_id, task_stamps in sorted(stamps.items()):
        entry: ManifestEntry = {
            "task": task_id,
            "stamp": stamp_digest(task_stamps),
            "annotations": [(s.annotation_id, s.updated_at) for s in task_stamps if not s.skipped],
            "audit": is_audit(row.slug, task_id, recipe.options.audit_fraction),
            "url": None,
            "digest": None,
        }
        try:
            if task_id in tasks:  # else deleted since the listing
                entry["url"] = image_url(tasks[task_id].data, recipe.config)
                entry["digest"] = recipe.digest(entry)
                group = group_of(tasks[task_id].data, recipe.options.group_by)
                ungrouped += group is None
                if group is not None:
                    entry["group"] = group
        except BadRequest as error:
            problems.append(f"Task {task_id}: {error}")
        manifest.append(entry)
    if recipe.options.group_by is not None and ungrouped:
        problems.append(
            f"{ungrouped} labelled tasks are in no group: their data hold no text or number under "
            f"{recipe.options.group_by!r}, the option group_by."
        )
    return manifest, problems


def _make_example(
    work: Workplace,
    slug: str,
    entry: ManifestEntry,
    annotations: Sequence[Mapping[str, Any]],
    recipe: Recipe,
) -> tuple[list[str], ExampleNote, str]:
    """Put a task's example into the registry.

    A broken region costs that region, a broken image that task, and neither the round.

    Returns:
        What was wrong with it, what is noted of it, and what of its file the image is ("" where
        all).
    """
    task_id, options = entry["task"], recipe.options
    teaching = [a for a in annotations if not a["was_cancelled"]]
    # Edited since the listing: what is read now is what teaches, and the manifest says so.
    entry["annotations"] = [(a["id"], a["updated_at"]) for a in teaching]
    entry["stamp"] = stamp_digest([Stamp(a["id"], a["updated_at"], False) for a in teaching])
    if not teaching:
        return [], ExampleNote(), ""
    assert entry["url"] is not None  # else it would have had no digest to make anew
    try:
        decoded = read_decoded(work.images, entry["url"], options.channel_numbers)
    except ImageRefused as error:
        return [f"Task {task_id}: {error}"], ExampleNote(), ""
    deciding = deciding_of(teaching)
    readings = read_each(deciding, decoded.image, recipe.config, options, recipe.classes)
    read = merge(deciding, readings)
    note = note_of(deciding, readings, read.counts)
    problems = list(read.problems)
    if (read.mask == UNKNOWN).all():
        problems.append("nothing on it is known, every pixel is unknown.")
    else:
        example = make_example(str(task_id), decoded.image, read.mask, options.max_side_px)
        digest = recipe.digest(entry)
        work.registry.put_example(slug, digest, example, note.to_text())
        entry["digest"] = digest
    return [f"Task {task_id}: {problem}" for problem in problems], note, decoded.part


def mask_of(
    annotations: Sequence[Mapping[str, Any]],
    image: NDArray[np.uint8],
    config: LabelConfig,
    options: ProjectOptions,
    classes: tuple[str, ...],
) -> Reading:
    """What a task's annotators agree on, at the image's size: the one merge that there is.

    Annotations marked as ground truth decide alone. Of several, the majority decides each pixel
    (``merge_masks``).

    Args:
        annotations: at least one, and no skipped ones.
    """
    deciding = deciding_of(annotations)
    return merge(deciding, read_each(deciding, image, config, options, classes))


def deciding_of(annotations: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Those marked as ground truth; all where none is."""
    return [a for a in annotations if a.get("ground_truth")] or annotations


def read_each(
    deciding: Sequence[Mapping[str, Any]],
    image: NDArray[np.uint8],
    config: LabelConfig,
    options: ProjectOptions,
    classes: tuple[str, ...],
) -> list[Reading]:
    """The first ``MOST_ANNOTATIONS`` annotations, one by one, at the image's size."""
    height, width = image.shape[:2]
    return [
        read_annotation(
            annotation["result"],
            config,
            classes,
            (height, width),
            unlabelled=UNKNOWN if options.unlabelled == "unknown" else 0,
            unknown_label=options.unknown_label,
            aliases=options.aliases,
        )
        for annotation in deciding[:MOST_ANNOTATIONS]
    ]


def merge(deciding: Sequence[Mapping[str, Any]], readings: Sequence[Reading]) -> Reading:
    """What the annotations that ``read_each`` read say together."""
    problems: list[str] = []
    if len(deciding) > MOST_ANNOTATIONS:
        problems.append(
            f"it has {len(deciding)} annotations, of which the first {MOST_ANNOTATIONS} count."
        )
    for annotation, read in zip(deciding, readings, strict=False):
        problems += [f"annotation {annotation['id']}: {problem}" for problem in read.problems]
    masks = [read.mask for read in readings]
    unread = [read.unread for read in readings if read.unread is not None]
    counts = sum((read.counts for read in readings), Counts())
    return Reading(merge_masks(masks, unread), None, problems, counts)


def check_understood(counts: Counts, problems: Sequence[str]) -> None:
    """Refuse, before anything is trained, labels that mostly mean nothing to us.

    Args:
        problems: sentences, those about ``counts`` first.

    Raises:
        NotEnoughLabels: more than half of the regions are not understood.
    """
    missed, asked = not_understood(counts)
    if missed * 2 <= asked:
        return
    raise NotEnoughLabels(
        f"Most labels are not understood, {missed} of {asked} regions, so nothing was trained. "
        + " ".join(problems[:SAID_PROBLEMS])
    )


def check_classes(masks: Iterable[NDArray[np.uint8]], classes: Sequence[str]) -> None:
    """Refuse, before anything is trained, labels among which there is nothing to tell apart.

    Args:
        masks: of the labelled images, read no further than needed.

    Raises:
        NotEnoughLabels: all that is known on all of them is one class.
    """
    import numpy as np

    shown: set[int] = set()
    for mask in masks:
        shown.update(np.unique(mask[mask != UNKNOWN]).tolist())
        if len(shown) > 1:
            return
    only = classes[min(shown)]
    raise NotEnoughLabels(
        f"Nothing but {only} is labelled on any image, so there is nothing to tell apart: "
        "label something else as well, one region of it at least."
    )


def check_folds(keys: Sequence[str], members: int) -> None:
    """Refuse, before anything is trained, labels that leave a member nothing to learn from.

    Raises:
        NotEnoughLabels: all keys are in the fold that one member never sees.
    """
    if all(training_keys(keys, members, member) for member in range(members)):
        return
    raise NotEnoughLabels(
        f"Each of the {members} members leaves a fixed share of the images out to be tested on, "
        f"and all {len(keys)} labelled ones fall into the same share: label one or two more."
    )


def _measured_images(work: Workplace, row: Project, digests: Collection[str]) -> int:
    """How many of the images that teach can be measured on as well.

    Raises:
        NotEnoughLabels: none: the version from elsewhere has learnt from them all.
    """
    if start_version(work.ledger, row.id) is None:
        return len(digests)
    examples = (work.registry.get_example(row.slug, digest) for digest in digests)
    fresh = len(digests) - len(learnt_elsewhere(work.ledger, row.id, examples))
    if fresh == 0:
        raise NotEnoughLabels(
            f"All {len(digests)} labelled images are among those that the version from elsewhere "
            "learnt from, so nothing tells how good a new version is: label others as well."
        )
    return fresh


def train_config(
    classes: tuple[str, ...], members: int, options: ProjectOptions, settings: Settings
) -> TrainConfig:
    """How the round's members are made, but for ``steps``.

    Raises:
        BadNetwork: the file that members start from cannot be read.
    """
    network = options.network or settings.network
    chosen: dict[str, Any] = {
        "classes": classes,
        "members": members,
        "seed": options.seed,
        "max_side_px": options.max_side_px,
        "network": network,
    }
    if settings.network_weights is not None and network == settings.network:
        chosen["network_weights"] = str(settings.network_weights)
        chosen["network_weights_sha256"] = weights_digest(settings.network_weights)
    return TrainConfig(**chosen)


def _masks(work: Workplace, slug: str, digests: Iterable[str]) -> Iterator[NDArray[np.uint8]]:
    return (work.registry.get_mask(slug, digest) for digest in digests)


def _budget(
    work: Workplace,
    row: Project,
    config: TrainConfig,
    chosen: int | None,
    images: int,
    pixels: int,
) -> Budget:
    """How long the round's members train.

    Args:
        config: what a step costs.
        chosen: the option `steps`, which goes before all else.
        images, pixels: that teach, as for ``knee_steps``.
    """
    seconds, cost = work.settings.fit_seconds, cost_key(config)
    kept = (version.metrics.get("budget") for version in work.ledger.versions.all(row.id))
    former = [Budget(**each) for each in kept if each is not None and each["cost"] == cost]
    step_s = usual_speed([each.step_s for each in former if each.step_s is not None])
    knee = knee_steps(images, pixels)
    steps = chosen
    if steps is None:
        step_s = step_s or _first_speed(work, row.slug, config)
        alike = (each.steps for each in former if not each.chosen and each.seconds == seconds)
        steps = steps_for(knee, seconds, step_s, last=next(alike, None))
    return Budget(steps, knee, images, seconds, step_s, chosen is not None, cost)


def _first_speed(work: Workplace, slug: str, config: TrainConfig) -> float:
    """Seconds of a step before any round has taken its time: as an earlier release found, or as
    measured now."""
    seconds = work.settings.fit_seconds
    steps = work.registry.steps_of_0_2(slug, f"{cost_key(config)} in {seconds:g} s")
    return seconds_per_step(config) if steps is None else seconds / steps


def _due_evidence(work: Workplace, row: Project, manifest: Sequence[ManifestEntry]) -> Due:
    promoted = work.ledger.versions.promoted(row.id)
    judge: int | None = None
    learnt: Sequence[ManifestEntry] = ()
    if promoted is not None:
        # An earlier one has not seen the new labels either; where none is whole, judging says so.
        judge = whole_version(work, row, promoted.number) or int(promoted.number)
        version = next(v for v in work.ledger.versions.all(row.id) if v.number == judge)
        learnt = work.ledger.rounds.get(version.round_id).manifest or ()
    return due_evidence(
        manifest,
        work.ledger.evidence.all(row.id),
        judge,
        learnt,
        work.registry.versions(row.slug),
    )
