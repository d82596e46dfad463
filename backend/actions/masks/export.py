"""A project's labels as a folder: images, the masks that training reads, and who drew them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from acquisition.masks import UNKNOWN
from backend.errors import BadRequest, ImageRefused, StudioRefused
from backend.label_studio.bulk import Stamp, Studio
from backend.label_studio.image_paths import image_path
from backend.label_studio.region_counts import describe_counts
from backend.ledger.shapes import ManifestEntry
from backend.predict import decoded_image, image_url, label_config_of
from backend.rounds.schedule import is_audit, stamp_digest
from backend.rounds.stages.collect import Recipe, classes_of, mask_of
from backend.workplace import Workplace
from training.csv_cells import plain_cell
from training.datasets.labelled import SUFFIXES, read_indices
from training.files import write_atomically
from training.images import encode_png
from training.particles.coco import CocoImage, coco_particles, write_coco

Format = Literal["png", "coco", "nnunet"]

STATE = "export.json"
TABLE = "tasks.csv"

SAVED_EVERY = 200
"""Tasks after which the state is written, so that an interrupted export goes on; of many tasks a
twentieth, since the state holds them all."""

LONGEST_STEM = 150
"""Bytes; with an ending and a task's number a name is far below the 255 that disks take."""

COLUMNS = (
    *("task", "image", "source", "annotators", "lead_time_s", "created", "updated"),
    *("audit", "skipped", "unknown_px", "problems"),
)

Progress = Callable[[int, int], None]
"""Gets how many are done, and of how many."""


@dataclass
class Row:
    """One task of an export, as ``tasks.csv`` has it.

    Attributes:
        digest: of all that its mask was made of; None where it is tried again the next time.
        stem: of the names of its image and mask; "" where it has none.
        image: the image's file name; "" where there is none, and no mask either.
        source: the image's path as its task names it.
        skipped: how many annotators skipped the task.
        unknown_px: pixels of the mask that nobody knows.
        classes: indices that the mask shows.
    """

    digest: str | None = None
    stem: str = ""
    image: str = ""
    source: str = ""
    annotators: list[str] = field(default_factory=list)
    lead_time_s: float | None = None
    created: str = ""
    updated: str = ""
    audit: bool = False
    skipped: int = 0
    unknown_px: int = 0
    classes: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Export:
    """What an export did.

    Attributes:
        masks: tasks with a mask, ``audits`` of them audits.
        written, kept, removed: tasks fetched now, unchanged since the last time, and gone.
        problems: a sentence each, with its task.
        absent: classes that no mask shows.
    """

    masks: int
    audits: int
    written: int
    kept: int
    removed: int
    problems: Sequence[str]
    absent: Sequence[str]


def export_masks(
    work: Workplace, studio_id: int, folder: Path, format_: Format, progress: Progress
) -> Export:
    """Write a project's labels to ``folder``, or what changed there since the last time.

    A mask is what a round would learn from (``mask_of``), at the image's own size. At most one
    task is in memory.

    Raises:
        UnknownProject: the project was never connected.
        BadRequest: the folder holds something else, or cannot be written to.
    """
    try:
        return _Exporter(work, studio_id, folder, format_).run(progress)
    except OSError as error:
        raise BadRequest(f"The labels cannot be written to {folder}: {error}.") from error


class _Exporter:
    def __init__(self, work: Workplace, studio_id: int, folder: Path, format_: Format) -> None:
        self._work = work
        self._row = work.ledger.projects.of_studio(work.server, studio_id)
        self._folder = folder
        self._format = format_
        options = work.options(self._row)
        project = work.studio.project(studio_id)
        config = label_config_of(project.label_config, options)
        self._recipe = Recipe(config, classes_of(config, options), options)
        self._rows = self._read_state()
        self._users: Mapping[int, str] = {}

    @property
    def _classes(self) -> tuple[str, ...]:
        return self._recipe.classes

    def run(self, progress: Progress) -> Export:
        studio, studio_id = self._work.studio, self._row.studio_id
        if self._format == "nnunet" and "ignore" in self._classes:
            raise BadRequest(
                "nnU-Net keeps the name 'ignore' for unknown pixels, and the project has a label "
                "of that name: export another format, or rename the label."
            )
        self._users = _users(studio)
        self._write_state()  # from here on the folder is known as ours
        stamps = studio.stamps(studio_id)
        tasks = {task.id: task for task in studio.tasks(studio_id, ids=stamps)}
        gone = [task_id for task_id in self._rows if task_id not in tasks]
        for task_id in gone:
            self._remove_files(self._rows.pop(task_id))
        due: dict[int, ManifestEntry] = {}
        for task_id, task in sorted(tasks.items()):
            entry, row = self._listed(task_id, task.data, stamps[task_id])
            if entry is not None and not self._is_there(row, entry):
                due[task_id] = entry
        self._name(due)
        saved_every = max(SAVED_EVERY, len(due) // 20)
        try:
            bodies = studio.annotations_of(studio_id, due)
            for done, (task_id, annotations) in enumerate(bodies, start=1):
                self._write_task(due[task_id], annotations)
                progress(done, len(due))
                if done % saved_every == 0:
                    self._write_state()
        finally:
            self._write_state()
        self._write_table()
        self._describe()
        masks = [row for row in self._rows.values() if row.image]
        shown = {index for row in masks for index in row.classes}
        return Export(
            masks=len(masks),
            audits=sum(row.audit for row in masks),
            written=len(due),
            kept=len(tasks) - len(due),
            removed=len(gone),
            problems=[
                f"Task {task_id}: {problem}"
                for task_id, row in sorted(self._rows.items())
                for problem in row.problems
            ],
            absent=[
                name for index, name in enumerate(self._classes) if index and index not in shown
            ],
        )

    # What is there

    def _read_state(self) -> dict[int, Row]:
        path = self._folder / STATE
        if not path.exists():
            if self._folder.is_dir() and any(self._folder.iterdir()):
                raise BadRequest(
                    f"{self._folder} holds files that no export wrote: name a folder that is empty "
                    "or not there."
                )
            return {}
        try:
            state = json.loads(path.read_bytes())
            of = (state["project"], state["format"])
            rows = {int(task_id): Row(**row) for task_id, row in state["tasks"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadRequest(
                f"{path} is damaged ({error}): delete {self._folder} and export again."
            ) from error
        if of != (self._row.slug, self._format):
            raise BadRequest(
                f"{self._folder} is an export of {of[0]} as {of[1]}, not of {self._row.slug} as "
                f"{self._format}: name another folder."
            )
        return rows

    def _write_state(self) -> None:
        state = {
            "project": self._row.slug,
            "format": self._format,
            "tasks": {str(task_id): asdict(row) for task_id, row in sorted(self._rows.items())},
        }
        write_atomically(self._folder / STATE, json.dumps(state).encode())

    def _listed(
        self, task_id: int, data: Mapping[str, Any], stamps: Sequence[Stamp]
    ) -> tuple[ManifestEntry | None, Row]:
        """A task's row, and what there is to read of it; None where that is nothing."""
        slug, options = self._row.slug, self._recipe.options
        row = self._rows.setdefault(task_id, Row())
        row.audit = is_audit(slug, task_id, options.audit_fraction)
        row.skipped = sum(stamp.skipped for stamp in stamps)
        entry: ManifestEntry = {
            "task": task_id,
            "stamp": stamp_digest(stamps),
            "annotations": [(s.annotation_id, s.updated_at) for s in stamps if not s.skipped],
            "audit": row.audit,
            "url": None,
            "digest": None,
        }
        try:
            url = image_url(data, self._recipe.config)
        except BadRequest as error:
            self._remove_files(row)
            row.problems = [str(error)]
            return None, row
        entry["url"], row.source = url, image_path(url)
        if not entry["annotations"]:  # only skips are left
            self._remove_files(row)
            skipped, source, audit = row.skipped, row.source, row.audit
            self._rows[task_id] = Row(skipped=skipped, source=source, audit=audit)
            return None, self._rows[task_id]
        entry["digest"] = self._recipe.digest(entry)
        return entry, row

    def _is_there(self, row: Row, entry: ManifestEntry) -> bool:
        return row.digest == entry["digest"] and all(path.exists() for path in self._files(row))

    def _files(self, row: Row) -> tuple[Path, ...]:
        if not row.image:
            return ()
        images, masks = ("imagesTr", "labelsTr") if self._nnunet else ("images", "masks")
        return self._folder / images / row.image, self._folder / masks / f"{row.stem}.png"

    @property
    def _nnunet(self) -> bool:
        return self._format == "nnunet"

    def _remove_files(self, row: Row) -> None:
        for path in self._files(row):
            path.unlink(missing_ok=True)
        row.image, row.digest, row.classes = "", None, []

    # Names

    def _name(self, task_ids: Collection[int]) -> None:
        """Give each task that has none a name of its own, whatever folders the images lie in."""
        taken = {row.stem.casefold() for row in self._rows.values()}
        for task_id in sorted(task_ids):
            row = self._rows[task_id]
            if row.stem:
                continue
            stem = safe_stem(row.source) or f"task-{task_id}"
            # Some disks take names in either case for the same.
            row.stem = f"{stem}-{task_id}" if stem.casefold() in taken else stem
            while row.stem.casefold() in taken:
                row.stem += "_"
            taken.add(row.stem.casefold())

    # One task

    def _write_task(self, entry: ManifestEntry, annotations: Sequence[Mapping[str, Any]]) -> None:
        """Write a task's image and mask over those that there are, or remove these."""
        former = self._rows[entry["task"]]
        row = Row(
            stem=former.stem, source=former.source, audit=former.audit, skipped=former.skipped
        )
        teaching = [a for a in annotations if not a["was_cancelled"]]
        # Edited since the listing: what is read now is what counts.
        entry["annotations"] = [(a["id"], a["updated_at"]) for a in teaching]
        row.annotators = sorted({self._user(a["completed_by"]) for a in teaching})
        times = [a["lead_time"] for a in teaching if a["lead_time"] is not None]
        row.lead_time_s = round(math.fsum(times), 3) if times else None
        row.created = min((a["created_at"] for a in teaching), default="")
        row.updated = max((a["updated_at"] for a in teaching), default="")
        try:
            if teaching:
                self._write_mask(row, entry, teaching)
        except ImageRefused as error:
            row.problems = [str(error)]
        for path in set(self._files(former)) - set(self._files(row)):
            path.unlink(missing_ok=True)
        self._rows[entry["task"]] = row

    def _write_mask(
        self, row: Row, entry: ManifestEntry, teaching: Sequence[Mapping[str, Any]]
    ) -> None:
        url, options = entry["url"], self._recipe.options
        assert url is not None  # else it would not be due
        data = self._work.images.fetch(url)
        image = decoded_image(data, url, options.channel_numbers).image
        read = mask_of(teaching, image, self._recipe.config, options, self._classes)
        mask = read.mask
        row.problems = describe_counts(read.counts) + read.problems
        row.digest = self._recipe.digest(entry)
        row.unknown_px = int((mask == UNKNOWN).sum())
        row.classes = np.unique(mask).tolist()
        if row.unknown_px == mask.size:
            row.problems.append("nothing on it is known, so it has no mask.")
            return
        if self._nnunet:
            row.image = f"{row.stem}_0000.png"
            data = encode_png(image)
            # The ignore label must be the last one, without a gap before it.
            mask = np.where(mask == UNKNOWN, np.uint8(len(self._classes)), mask)
        else:
            row.image = row.stem + _ending(data, row.source)
        image_file, mask_file = self._files(row)
        write_atomically(image_file, data)
        write_atomically(mask_file, encode_png(mask))

    def _user(self, number: object) -> str:
        return self._users.get(number, str(number)) if isinstance(number, int) else "unknown"

    # All of them

    def _write_table(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for task_id, row in sorted(self._rows.items()):
            lead = "" if row.lead_time_s is None else row.lead_time_s
            writer.writerow(
                [
                    *(
                        task_id,
                        row.image,
                        plain_cell(row.source),
                        plain_cell("; ".join(row.annotators)),
                    ),
                    *(lead, row.created, row.updated, int(row.audit), row.skipped),
                    *(row.unknown_px, plain_cell(" ".join(row.problems))),
                ]
            )
        write_atomically(self._folder / TABLE, text.getvalue().encode())

    def _describe(self) -> None:
        """Write what describes the masks together."""
        rows = {task_id: row for task_id, row in sorted(self._rows.items()) if row.image}
        for name in ("imagesTr", "labelsTr") if self._nnunet else ("images", "masks"):
            (self._folder / name).mkdir(exist_ok=True)
        if self._nnunet:
            unknown = any(row.unknown_px for row in rows.values())
            text = json.dumps(nnunet_dataset(self._classes, len(rows), ignore=unknown), indent=2)
            write_atomically(self._folder / "dataset.json", text.encode())
            return
        lines = "".join(f"{name}\n" for name in self._classes)
        write_atomically(self._folder / "classes.txt", lines.encode())
        if self._format == "coco":
            masks = ((i, row.image, read_indices(self._files(row)[1])) for i, row in rows.items())
            images = (
                CocoImage(task_id, name, (mask.shape[0], mask.shape[1]), coco_particles(mask))
                for task_id, name, mask in masks
            )
            write_coco(self._folder / "instances.json", images, self._classes)


def nnunet_dataset(classes: Sequence[str], masks: int, *, ignore: bool) -> dict[str, Any]:
    """``dataset.json`` of nnU-Net 2, for RGB images of one PNG each.

    Source: documentation/dataset_format.md and ignore_label.md of MIC-DKFZ/nnUNet.
    """
    labels = {name: index for index, name in enumerate(classes)}
    return {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {**labels, **({"ignore": len(classes)} if ignore else {})},
        "numTraining": masks,
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }


def safe_stem(path: str) -> str:
    """A file's name without its ending, fit for any disk; "" where nothing of it is left."""
    name = unicodedata.normalize("NFC", PurePosixPath(path).name)
    if PurePosixPath(name).suffix.lower() in SUFFIXES:
        name = name[: name.rindex(".")]
    # No sign that a disk, a shell or a spreadsheet takes for something else; no hidden files.
    name = re.sub(r"[^\w.-]+", "_", name).strip("_.-")
    return name.encode()[:LONGEST_STEM].decode(errors="ignore")


_ENDINGS = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8", ".jpg"),
    (b"II", ".tif"),
    (b"MM", ".tif"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"RIFF", ".webp"),
)


def _ending(data: bytes, source: str) -> str:
    """The image's own ending, or that of its kind: folders are read by their endings."""
    own = PurePosixPath(source).suffix.lower()
    if own in SUFFIXES:
        return own
    return next((ending for head, ending in _ENDINGS if data.startswith(head)), ".jp2")


def _users(studio: Studio) -> dict[int, str]:
    """{number: e-mail address} of the users that ours may see."""
    try:
        return {int(row["id"]): str(row["email"]) for row in studio.get("/api/users/")}
    except StudioRefused:
        return {}  # an organisation that lets only some list its users: numbers will do
