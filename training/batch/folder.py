"""A version predicts every image of a folder."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from training.batch.coco import write_coco_of_rows
from training.batch.outputs import TooManyParticles, Wanted, write_outputs
from training.batch.own_columns import BadColumns, OwnColumns, read_own_columns
from training.batch.results import Record, Results, open_results
from training.batch.tables import Row, reserved_names, write_tables
from training.committee.committee import Committee
from training.committee.version import VERSION_FILE, StoredVersion, read_version
from training.config import TrainConfig
from training.datasets.labelled import SUFFIXES
from training.datasets.seen_images import (
    BadOutput,
    SeenImage,
    as_text,
    files_of,
    folders_within,
    png_for,
    refusal_by_name,
)
from training.decoder import read_apart
from training.errors import TrainingError
from training.files import read_plain_file
from training.pixels import UnreadableImage

MOST_FILE_BYTES = 2**31
"""Larger files are not read: all of one is in memory, here and in the decoder."""


class OtherImages(TrainingError):
    """A version predicts no RGB images."""

    @classmethod
    def of(cls, config: TrainConfig) -> OtherImages:
        return cls(
            f"The version predicts images of {config.channels} channels, and files are read as RGB."
        )


class OtherClasses(TrainingError):
    """A version has no class of this name."""


@dataclass(frozen=True)
class Batch:
    """What is to be predicted, by what, and how.

    Attributes:
        version: its folder.
        channels: as ``training.images.read_image`` takes them.
        pixel_um: the side of a pixel in micrometres, whatever the files say.
        own_network: as ``Committee.load`` takes it.
        columns: a CSV file of the user's own columns.
        group_by: one of these.
        threads: of one prediction.
    """

    folder: Path
    version: Path
    output: Path
    wanted: Wanted
    channels: tuple[int, ...] | None = None
    pixel_um: float | None = None
    own_network: str | None = None
    columns: Path | None = None
    group_by: str | None = None
    threads: int = 1


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        done: images that have results, of earlier runs too.
        predicted: those of this run.
        refused: image files that could not be read or predicted, each with why.
        no_images: other files that are in the table for completeness.
        interrupted: a person stopped it before the end.
        notes: what a person should know, a sentence each.
    """

    done: int = 0
    predicted: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    no_images: int = 0
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)


def predict_folder(batch: Batch, show: Callable[[int, int], None]) -> Outcome:
    """Predict what has no results yet, and write the tables of all.

    Ctrl-C loses the image under way; the tables then hold those before it.

    Args:
        show: is told how many images are done, and of how many.

    Raises:
        BadOutput: the folder holds no images, or the output would lie among them.
        OtherClasses: particles of a class that it does not know are to be split.
        OtherResults: the output holds results that were asked for otherwise.
        BadColumns: the user's columns cannot be joined.
        OSError: the output cannot be written to.
        UnknownVersion, DamagedVersion, BadConfig, ForeignNetwork, NoEngine: as ``Committee.load``.
    """
    stored = read_version(batch.version)
    config = stored.config
    if config.channels != 3:
        raise OtherImages.of(config)
    foreign = [name for name in batch.wanted.split_touching if name not in config.classes[1:]]
    if foreign:
        raise OtherClasses(
            f"The version knows no class {foreign[0]!r} whose particles could be split: its "
            f"classes are {', '.join(config.classes[1:])}."
        )
    files = files_of(batch.folder, batch.output)
    inside = {path.relative_to(batch.folder).as_posix(): path for path in files}
    refusals = {name: why for name, path in inside.items() if (why := refusal_by_name(path))}
    images = [name for name in inside if name not in refusals]
    if not images:
        raise BadOutput(f"{batch.folder} holds no images, of {len(files)} files.")
    own = _own_columns(batch, [as_text(Path(name)) for name in images], config.classes)
    outcome = Outcome(notes=list(own.notes))
    with open_results(batch.output, _asked(batch, stored)) as results:
        done = {name for name in images if _is_done(batch, results, name, inside[name])}
        missing = [name for name in images if name not in done]
        before = len(done)
        show(before, len(images))
        try:
            for number, (name, refusal) in enumerate(_predict(batch, results, inside, missing), 1):
                if refusal:
                    refusals[name] = refusal
                else:
                    done.add(name)
                show(before + number, len(images))
        except KeyboardInterrupt:
            outcome.interrupted = True
        outcome.done, outcome.predicted = len(done), len(done) - before
        _count(outcome, refusals, inside, results)

        def rows() -> Iterator[Row]:
            for name in inside:
                if name in refusals:
                    yield SeenImage(as_text(Path(name)), refusal=refusals[name]), None
                elif name in done:
                    record = results.get(name)
                    yield SeenImage(**record["seen"]), record

        write_tables(batch.output, rows(), config.classes, own, batch.group_by)
        if batch.wanted.coco:
            write_coco_of_rows(batch.output, rows(), config.classes)
    return outcome


def _own_columns(batch: Batch, files: Sequence[str], classes: Sequence[str]) -> OwnColumns:
    own = OwnColumns()
    if batch.columns is not None:
        own = read_own_columns(batch.columns, files, reserved_names(classes))
    if batch.group_by is not None and batch.group_by not in own.names:
        known = ", ".join(own.names) or "none: name a file by --columns"
        raise BadColumns(f"There is no column {batch.group_by!r} to group by; there are {known}.")
    return own


def _asked(batch: Batch, stored: StoredVersion) -> dict[str, Any]:
    """What decides the results: two runs that differ in it must not be mixed."""
    return {
        "folder": as_text(batch.folder.resolve()),
        "version": version_of(batch.version, stored),
        "classes": list(stored.config.classes),
        "channels": None if batch.channels is None else list(batch.channels),
        "pixel-size": batch.pixel_um,
        **{
            name.replace("_", "-"): list(value) if isinstance(value, tuple) else value
            for name, value in asdict(batch.wanted).items()
        },
    }


def version_of(folder: Path, stored: StoredVersion) -> str:
    """A version's number and what its files are, as a folder of results names it."""
    digest = hashlib.sha256(read_plain_file(folder / VERSION_FILE)).hexdigest()
    return f"{stored.number}, SHA-256 {digest}"


def _is_done(batch: Batch, results: Results, name: str, path: Path) -> bool:
    """Whether an image has all its results, and is the file that they were made of."""
    known = results.known.get(name)
    if known is None or known.stamp != _stamp(path):
        return False
    paths = batch.wanted.paths(batch.output, known.png)
    return all(each.exists() for each in paths.values())


def _stamp(path: Path) -> list[int]:
    """Changes when a file does; of none it is empty."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _predict(
    batch: Batch, results: Results, inside: dict[str, Path], missing: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Predict each missing image; its name, and why it was refused, or an empty text."""
    committee: Committee | None = None
    folders = folders_within(batch.folder, list(inside.values()))
    for name in missing:
        path = inside[name]
        stamp = _stamp(path)
        try:
            read = read_apart(bytes_of(path), batch.channels)
        except (UnreadableImage, OSError) as error:
            yield name, str(error)
            continue
        if committee is None:  # takes seconds, in which it is compiled
            committee = Committee.load(
                batch.version, threads=batch.threads, own_network=batch.own_network, seal=None
            )
        known = results.known.get(name)
        png = png_for(Path(name), results.pngs, folders) if known is None else known.png
        pixel_um = read.pixel_um if batch.pixel_um is None else (batch.pixel_um, batch.pixel_um)
        seen = SeenImage.of(Path(name), "masks" / png, replace(read, pixel_um=pixel_um))
        segmentation = committee.segment(read.image)
        paths = batch.wanted.paths(batch.output, png)
        try:
            record: Record = write_outputs(
                committee, paths, batch.wanted, read, segmentation, pixel_um
            )
        except TooManyParticles as error:
            yield name, str(error)
            continue
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            yield name, "its results would have too long a name: rename it"
            continue
        results.add({"file": name, "png": str(png), "stamp": stamp, "seen": asdict(seen), **record})
        yield name, ""


def bytes_of(path: Path) -> bytes:
    """An image file's bytes.

    Raises:
        UnreadableImage: it is larger than ``MOST_FILE_BYTES``.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MOST_FILE_BYTES:
        raise UnreadableImage(
            f"it has {size / 1e9:.1f} GB, and at most {MOST_FILE_BYTES / 1e9:.1f} GB are read: "
            "save the page that is to be seen as a file of its own"
        )
    return path.read_bytes()


def _count(
    outcome: Outcome, refusals: dict[str, str], inside: dict[str, Path], results: Results
) -> None:
    for name, why in refusals.items():
        if inside[name].is_file() and inside[name].suffix.lower() not in SUFFIXES:
            outcome.no_images += 1
        else:
            outcome.refused[as_text(Path(name))] = why
    gone = [png for png, name in results.pngs.items() if name not in inside or name in refusals]
    if gone:
        outcome.notes.append(
            f"{len(gone)} masks are of images that are no longer in the folder or cannot be read "
            f"now, such as {as_text(gone[0])}; the tables leave them out."
        )
