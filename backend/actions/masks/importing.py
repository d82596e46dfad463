"""Masks that a laboratory has already become labels of a project's tasks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson
from scipy.ndimage import find_objects

from acquisition.masks import BACKGROUND, UNKNOWN
from backend.actions.masks.class_names import UNKNOWN_NAMES, ClassNames
from backend.actions.masks.export import Progress
from backend.actions.masks.given import BadMask, Given, Labels
from backend.actions.masks.mask_folder import find_masks
from backend.actions.masks.matching import match
from backend.actions.projects import connected_project
from backend.errors import BadRequest, ImageRefused
from backend.label_studio.bulk import LARGEST_RESULT, StoredPrediction
from backend.label_studio.client import Json
from backend.label_studio.geometry import Patch
from backend.label_studio.image_paths import image_path
from backend.label_studio.label_config import is_background
from backend.label_studio.regions import (
    MOST_BRUSHES,
    MOST_RESULTS,
    ClassMask,
    drawn_regions,
    read_annotation,
)
from backend.predict import image_url, label_config_of, read_image
from backend.rounds.stages.collect import classes_of
from backend.workplace import Workplace
from training.particles.instances import connected, instances

if TYPE_CHECKING:
    from training.pixels import Image8

As = Literal["annotations", "predictions"]
Done = Literal["added", "updated", "unchanged", "left alone", "refused"]

MODEL_VERSION = "imported-masks"
"""Of the predictions that masks become."""

OURS = 0x5EC << 40
"""Added to 40 bits of a digest, it is the ``import_id`` of an annotation that was imported here.

Label Studio keeps that number through every edit. It is below 2**53, so that JavaScript holds it,
and far above any number that an annotation of Label Studio's own has.
"""

SHEET_ROWS = 12
"""Images of the contact sheet: a picture of 4,400 px at most."""


@dataclass(frozen=True)
class Item:
    """What became of a mask, or would become.

    Attributes:
        source: its file.
        task: whose image it is; None where that is not clear.
        done: "left alone" where the task carries other labels; "refused" where the mask cannot be
            taken.
        reason: a sentence where it was left alone or refused.
        regions: how many it has as a label.
        differing_px: pixels that the regions do not say as the mask does.
    """

    source: str
    task: int | None
    done: Done
    reason: str = ""
    regions: int = 0
    differing_px: int = 0


@dataclass(frozen=True)
class Import:
    """What an import did, or would do.

    Attributes:
        form: what the masks are, in words.
        notes: sentences that concern all of them.
        sheet: the contact sheet, a PNG; None unless it was asked for and shows something.
    """

    form: str
    items: Sequence[Item]
    notes: Sequence[str]
    sheet: bytes | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        return Counter(item.done for item in self.items)


def import_masks(
    work: Workplace,
    studio_id: int,
    folder: Path,
    progress: Progress,
    *,
    label: str | None = None,
    chosen: Mapping[str, str] | None = None,
    as_: As = "annotations",
    dry_run: bool = False,
) -> Import:
    """Write masks into the tasks of a project, in its own kind of region; safe to repeat.

    What was imported before is compared, and updated only where the mask has changed and nobody
    has edited the annotation. A task that somebody labelled is left alone.

    Args:
        folder: of masks, or a COCO file.
        label: the class of masks that number particles.
        chosen: another tool's value or name, to a label.
        dry_run: nothing is written; the answer has a contact sheet.

    Raises:
        UnknownProject, BadRequest: nothing was written.
        StudioRefused, StudioUnreachable: what was written until then stays.
    """
    importer = _Importer(work, studio_id, as_, chosen or {}, dry_run)
    return importer.run(folder, label, progress)


class _Importer:
    def __init__(
        self, work: Workplace, studio_id: int, as_: As, chosen: Mapping[str, str], dry_run: bool
    ) -> None:
        self._work, self._studio = work, work.studio
        self._id, self._as, self._dry_run = studio_id, as_, dry_run
        row = connected_project(work, studio_id)
        self._options = work.options(row)
        project = self._studio.project(studio_id)
        self._config = label_config_of(project.label_config, self._options)
        self._classes = classes_of(self._config, self._options)
        self._names = ClassNames(self._classes, self._options.aliases or {}, chosen)
        self._urls: dict[int, str] = {}
        self._items: list[Item] = []
        self._shown: set[int] = set()
        self._rows: list[tuple[str, Image8]] = []

    def run(self, folder: Path, label: str | None, progress: Progress) -> Import:
        form, masks = find_masks(folder, self._names, label)
        matched, left = match(masks, self._images())
        self._items = [Item(mask.source, None, "refused", reason) for mask, reason in left]
        if self._dry_run:
            step = max(1, math.ceil(len(matched) / SHEET_ROWS))
            self._shown = set(list(matched)[::step])
        if self._as == "predictions":
            self._predict(matched, progress)
        else:
            bodies = self._studio.annotations_of(self._id, matched)
            for done, (task_id, annotations) in enumerate(bodies, start=1):
                self._items.append(self._annotate(task_id, matched[task_id], annotations))
                progress(done, len(matched))
        return Import(form, self._items, self._notes(), self._sheet())

    def _images(self) -> Iterator[tuple[int, str]]:
        for task in self._studio.tasks(self._id):
            try:
                url = image_url(task.data, self._config)
            except BadRequest:  # no image, so no mask of it either
                continue
            self._urls[task.id] = url
            yield task.id, image_path(url)

    # One task

    def _annotate(self, task_id: int, mask: Given, annotations: Sequence[Json]) -> Item:
        """Add an annotation, or bring the one that was imported before up to date."""
        kept = [a for a in annotations if not a["was_cancelled"]]
        former = next((a for a in annotations if is_imported(a["import_id"])), None)
        if former is not None and former["was_cancelled"]:
            reason = (
                f"somebody skipped annotation {former['id']} of task {task_id}, imported before."
            )
            return Item(mask.source, task_id, "left alone", reason)
        own = next((a for a in kept if not is_imported(a["import_id"])), None)
        if own is not None:
            reason = f"task {task_id} is labelled already (annotation {own['id']})."
            return Item(mask.source, task_id, "left alone", reason)
        try:
            result, differing = self._regions(task_id, mask)
        except (BadRequest, ImageRefused, OSError) as error:
            return Item(mask.source, task_id, "refused", str(error))
        number = import_id(result)
        done: Done = "added"
        if former is not None:
            if former["import_id"] == number and import_id(former["result"]) == number:
                done = "unchanged"
            elif import_id(former["result"]) != former["import_id"]:
                reason = (
                    f"somebody edited annotation {former['id']} of task {task_id} after it was "
                    "imported."
                )
                return Item(mask.source, task_id, "left alone", reason)
            else:
                done = "updated"
        if not self._dry_run and done == "added":
            self._studio.annotate(task_id, result, import_id=number)
        elif not self._dry_run and done == "updated" and former is not None:
            self._studio.update_annotation(former["id"], result=result, import_id=number)
        return Item(mask.source, task_id, done, "", _count(result), differing)

    def _predict(self, matched: Mapping[int, Given], progress: Progress) -> None:
        """As ``_annotate``, with predictions; new ones go in as few requests as may be."""
        added: list[Item] = []

        def rows() -> Iterator[StoredPrediction]:
            there = MODEL_VERSION in self._studio.model_versions(self._id)
            for done, (task_id, mask) in enumerate(matched.items(), start=1):
                progress(done, len(matched))
                try:
                    result, differing = self._regions(task_id, mask)
                except (BadRequest, ImageRefused, OSError) as error:
                    self._items.append(Item(mask.source, task_id, "refused", str(error)))
                    continue
                stored = self._studio.predictions(task_id) if there else []
                former = next((p for p in stored if p["model_version"] == MODEL_VERSION), None)
                counts = (_count(result), differing)
                if former is None:
                    added.append(Item(mask.source, task_id, "added", "", *counts))
                    yield StoredPrediction(
                        task=task_id, result=result, score=None, model_version=MODEL_VERSION
                    )
                elif import_id(former["result"]) == import_id(result):
                    self._items.append(Item(mask.source, task_id, "unchanged", "", *counts))
                else:
                    if not self._dry_run:
                        self._studio.update_prediction(former["id"], result)
                    self._items.append(Item(mask.source, task_id, "updated", "", *counts))

        if self._dry_run:
            for _ in rows():
                pass
        elif (created := self._studio.import_predictions(self._id, rows())) != len(added):
            raise BadRequest(
                f"Label Studio stored {created} of {len(added)} predictions and said no more: its "
                "label config may have been changed meanwhile. Run the import again."
            )
        self._items += added

    # Regions

    def _regions(self, task_id: int, mask: Given) -> tuple[list[Json], int]:
        """A mask as regions, and how many pixels they do not say as it does.

        Raises:
            BadMask, ImageRefused, OSError: the reason.
        """
        labels = mask.read()
        image = read_image(self._work.images, self._urls[task_id], self._options.channel_numbers)
        height, width = labels.mask.shape
        if image.shape[:2] != (height, width):
            raise BadMask(
                f"it has {width} x {height} pixels, the image of task {task_id} {image.shape[1]} x "
                f"{image.shape[0]}: masks must be of their image's size."
            )
        result = drawn_regions(self._pieces(labels), self._config, (height, width))
        if len(result) > MOST_RESULTS:
            raise BadMask(f"it has {len(result)} regions, and at most {MOST_RESULTS} are read.")
        if len(orjson.dumps(result)) > LARGEST_RESULT:
            raise BadMask("its regions are larger than Label Studio takes in one request.")
        back = self._read_back(result, labels.mask)
        if task_id in self._shown:
            from training.figures.contact_sheet import mask_row

            row = mask_row(image, labels.mask, back)
            self._rows.append((f"task {task_id}: {Path(mask.source).name}", row))
        return result, int((back != labels.mask).sum())

    def _pieces(self, labels: Labels) -> Iterator[tuple[str, Patch]]:
        """Labels and pixels of the regions to be."""
        per = self._options.regions or (
            "particle" if self._config.output.shape == "polygon" else "class"
        )
        mask = labels.mask
        for index in np.unique(mask).tolist():
            label = self._label(index)
            if label is None:
                continue
            polygon = (tag := self._config.tag_for(label)) is not None and tag.shape == "polygon"
            of_class = index not in (BACKGROUND, UNKNOWN)
            if not polygon and (per == "class" or not of_class):
                yield label, Patch(0, 0, mask == index)
                continue
            if of_class and labels.found is not None:
                numbers = np.where(mask == index, labels.found.numbers, 0)
            elif of_class:
                numbers = instances(np.where(mask == index, mask, np.uint8(BACKGROUND))).numbers
            else:
                numbers = connected(mask == index)
            for patch in _patches(numbers):
                # A polygon has one outline, whatever lies apart needs one of its own.
                parts = _patches(connected(patch.mask)) if polygon else [Patch(0, 0, patch.mask)]
                for part in parts:
                    yield label, Patch(patch.top + part.top, patch.left + part.left, part.mask)

    def _label(self, index: int) -> str | None:
        """What pixels of a class index are labelled with; None where that is by no region.

        Raises:
            BadMask: the project has no way to say it.
        """
        options = self._options
        if index == UNKNOWN:
            if options.unlabelled == "unknown":
                return None
            if options.unknown_label is None:
                there = next((n for n in self._classes if n.casefold() in UNKNOWN_NAMES), None)
                first = "add one, and name it" if there is None else f"is {there!r} one? Name it"
                raise BadMask(
                    "it has unknown pixels (255), and the project has no label for them: "
                    f"{first} by the option unknown_label; or --map 255=background."
                )
            return options.unknown_label
        if index == BACKGROUND:
            return self._background if options.unlabelled == "unknown" else None
        return self._classes[index]

    @property
    def _background(self) -> str | None:
        """The label that paints background, if there is one."""
        labels = (label for tag in self._config.inputs for label in tag.labels)
        return next((label for label in labels if is_background(label)), None)

    def _read_back(self, result: Sequence[Json], mask: ClassMask) -> ClassMask:
        """The mask that training would read."""
        options = self._options
        height, width = mask.shape
        return read_annotation(
            result,
            self._config,
            self._classes,
            (height, width),
            unlabelled=UNKNOWN if options.unlabelled == "unknown" else BACKGROUND,
            unknown_label=options.unknown_label,
            aliases=options.aliases,
        ).mask

    # All of them

    def _notes(self) -> list[str]:
        notes = []
        taken = [item for item in self._items if item.done not in ("refused", "left alone")]
        differing = [item for item in taken if item.differing_px]
        if differing:
            worst = max(differing, key=lambda item: item.differing_px)
            notes.append(
                f"{len(differing)} labels are not exactly their masks, by {worst.differing_px} "
                f"pixels at most (task {worst.task}): polygons simplify edges by half a pixel and "
                "have no holes. Brush and bitmask are exact."
            )
        if self._options.unlabelled == "unknown" and self._background is None:
            notes.append(
                "The project takes unlabelled pixels as unknown and has no label called "
                "background, so the background of the masks is not imported."
            )
        many = [item for item in taken if item.regions > MOST_BRUSHES]
        if many and self._config.output.shape == "brush":
            notes.append(
                f"{len(many)} labels have more than {MOST_BRUSHES} brush regions, with which Label "
                'Studio\'s editor freezes: the option {"regions": "class"} makes one a class.'
            )
        return notes

    def _sheet(self) -> bytes | None:
        if not self._rows:
            return None
        from training.figures.contact_sheet import mask_sheet

        title = f"{len(self._rows)} of the masks for project {self._id}"
        columns = ("image", "mask in the file", "label, as training reads it")
        return mask_sheet(self._rows, columns, self._classes, title)


def import_id(result: object) -> int:
    """A number for an annotation by its regions; ``is_imported`` knows it again."""
    # Whoever stores JSON may order keys anew, and write 50.0 as 50.
    text = orjson.dumps(_plain(result), option=orjson.OPT_SORT_KEYS)
    return OURS + int.from_bytes(blake2s(text, digest_size=5).digest(), "big")


def is_imported(number: object) -> bool:
    """Whether an annotation's ``import_id`` was given here."""
    return isinstance(number, int) and OURS <= number < OURS + 2**40


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _count(result: Sequence[Mapping[str, Any]]) -> int:
    return len({one["id"] for one in result})


def _patches(numbers: np.ndarray[Any, np.dtype[np.int32]]) -> Iterator[Patch]:
    """The pixels of each number from 1, each in its own box."""
    for number, box in enumerate(find_objects(numbers), start=1):
        if box is not None:
            yield Patch(box[0].start, box[1].start, numbers[box] == number)
