"""What a folder of results holds, image by image, so that a run that stopped can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from training.datasets.seen_images import RESULTS
from training.errors import TrainingError
from training.files import locked, write_atomically

RECORDS = ".images.jsonl"

Record = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """An image that is done.

    Attributes:
        at: where its record begins.
        png: how its files are called, within their folders.
        stamp: of the image's file.
    """

    at: int
    png: Path
    stamp: list[int]


class OtherResults(TrainingError):
    """A folder holds results of another version, folder or other options, or is in use."""


class Results:
    """The records of the images that are done, on disk: a JSON line each.

    Only what ``Known`` holds is kept in memory.

    Attributes:
        known: by an image's path within the images' folder.
        pngs: the paths that are taken, and by which image.

    Raises:
        OtherResults: the file is damaged.
    """

    def __init__(self, folder: Path, file: BinaryIO) -> None:
        self.folder = folder
        self._file = file
        self.known: dict[str, Known] = {}
        self.pngs: dict[Path, str] = {}
        self._read_all()

    def add(self, record: Record) -> None:
        """Keep an image's record for good; its files must be there already."""
        at = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._know(record, at)

    def get(self, file: str) -> Record:
        """The last record of a known image."""
        self._file.seek(self.known[file].at)
        record: Record = json.loads(self._file.readline())
        return record

    def _know(self, record: Record, at: int) -> None:
        png = Path(record["png"])
        self.known[record["file"]] = Known(at, png, record["stamp"])
        self.pngs[png] = record["file"]

    def _read_all(self) -> None:
        at = self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):  # the process ended as it wrote
                break
            try:
                self._know(json.loads(line), at)
            except (ValueError, LookupError, TypeError) as error:
                raise OtherResults(
                    f"{self.folder / RECORDS} is damaged, {at} bytes from its beginning: choose "
                    "another --output, or delete that folder."
                ) from error
            at += len(line)
        self._file.truncate(at)


@contextmanager
def open_results(folder: Path, asked: Mapping[str, Any]) -> Iterator[Results]:
    """Open a folder of results, or begin one; nobody else may write there meanwhile.

    Args:
        asked: what decides the results, as JSON values by the names that a person knows.

    Raises:
        OtherResults: it was begun with something else, holds other files, is damaged, or another
            run is at work there.
    """
    with claimed(folder, asked):
        path = folder / RECORDS
        path.touch()
        with path.open("r+b") as file:
            yield Results(folder, file)


@contextmanager
def claimed(folder: Path, asked: Mapping[str, Any]) -> Iterator[None]:
    """Keep a folder for what was asked for so; arguments and errors as ``open_results``."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            _claim(folder, asked)
            yield
    except BlockingIOError as error:
        raise OtherResults(
            f"Another run is writing to {folder}: wait for its end, or stop it."
        ) from error


def _claim(folder: Path, asked: Mapping[str, Any]) -> None:
    path = folder / RESULTS
    if not path.exists():
        # Its masks/ may be what people drew, which ours would replace.
        if others := sorted(each.name for each in folder.iterdir() if each.name[0] != "."):
            raise OtherResults(
                f"{folder} holds what is no result of this command, such as {others[0]}: choose a "
                "new or an empty folder as --output."
            )
        write_atomically(path, json.dumps(asked, indent=1).encode())
        return
    try:
        before = json.loads(path.read_bytes())
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise OtherResults(
            f"{path} is damaged: choose another --output, or delete the folder {folder}."
        )
    differ = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
    if differ:
        said = "; ".join(
            f"{name} was {json.dumps(before.get(name))} and is now {json.dumps(asked.get(name))}"
            for name in differ
        )
        raise OtherResults(
            f"{folder} holds results that were asked for otherwise ({said}), and the two must not "
            "be mixed: choose another --output, or delete that folder."
        )
