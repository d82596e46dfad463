"""A pool that is written down: one line for each picture, JSON or CSV, in shards of whole lines."""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from training.errors import TrainingError

IMAGE = "image"
"""The key or column that holds a picture's address."""

PATH = "path"
"""... and the one that holds where the file lies, if that is elsewhere."""

LONGEST_LINE = 1_000_000
"""Bytes."""


class BadManifest(TrainingError):
    """A manifest cannot be read."""


@dataclass(frozen=True)
class Shard:
    """The ``index``-th of ``count`` parts of a manifest, alike in bytes; counted from 0."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of ``i/n``.

        Raises:
            ValueError: it is not, or there is no such part.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError(f"a shard is i/n, with i from 0 to n - 1, got {text!r}")
        return cls(int(index), int(count))

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"shard-{self.index:05}-of-{self.count:05}"


@dataclass(frozen=True)
class Picture:
    """A line of a manifest.

    Attributes:
        at: the line's first byte; ``end`` is the one behind it.
        image: its address, which names it.
        path: where the file lies, if not there.
        data: what else the line holds, for the task.
    """

    at: int
    end: int
    image: str
    path: str | None
    data: Mapping[str, Any]


class Manifest:
    """A manifest and one shard of it. A shard is read alone: nobody reads all of it.

    Args:
        path: JSON lines, or CSV with a line of names first if it is so called. Each picture stands
            on one line.

    Attributes:
        start: the shard's first byte; ``stop`` is the one behind its last.

    Raises:
        BadManifest: the file has no column for the pictures' addresses.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, shard: Shard) -> None:
        self.path = path
        self._columns: list[str] | None = None
        with path.open("rb") as file:
            head = 0
            if path.suffix.lower() == ".csv":
                self._columns = _columns(file, path)
                head = file.tell()
                if IMAGE not in self._columns:
                    raise BadManifest(
                        f"{path} has no column {IMAGE!r}: its first line must name the columns, "
                        f"and it names {', '.join(self._columns) or 'none'}."
                    )
            size = file.seek(0, os.SEEK_END) - head
            self.start = _line_start(file, head, head + size * shard.index // shard.count)
            self.stop = _line_start(file, head, head + size * (shard.index + 1) // shard.count)

    def digest(self) -> str:
        """SHA-256 of the shard's lines, and of the columns' names."""
        found = hashlib.sha256(json.dumps(self._columns).encode())
        with self.path.open("rb") as file:
            at = file.seek(self.start)
            while at < self.stop:
                found.update(part := file.read(min(2**20, self.stop - at)))
                at += len(part)
        return found.hexdigest()

    def __iter__(self) -> Iterator[Picture]:
        """The shard's pictures; empty lines are left out.

        Raises:
            BadManifest: a line is neither JSON nor CSV, or names no picture.
        """
        with self.path.open("rb") as file:
            at = file.seek(self.start)
            while at < self.stop:
                line = _line(file, self.path)
                before, at = at, at + len(line)
                if line.strip():
                    yield self._picture(before, at, line)

    def _picture(self, at: int, end: int, line: bytes) -> Picture:
        try:
            if self._columns is None:
                data = orjson.loads(line.removeprefix(codecs.BOM_UTF8))  # what can be written again
            else:
                cells = next(csv.reader([line.decode()], strict=True))
                data = dict(zip(self._columns, cells, strict=True))
        except (ValueError, csv.Error) as error:
            raise BadManifest(f"{self.path}, the line at byte {at}: {error}.") from error
        if not isinstance(data, dict) or not isinstance(image := data.pop(IMAGE, None), str):
            raise BadManifest(
                f"{self.path}, the line at byte {at}: it holds no text under {IMAGE!r}."
            )
        path = data.pop(PATH, None) or None
        if not isinstance(path, str | None) or "\0" in f"{image}{path}":
            raise BadManifest(
                f"{self.path}, the line at byte {at}: {IMAGE!r} and {PATH!r} must be text, without "
                "the character 0."
            )
        return Picture(at, end, image, path, data)


def _columns(file: BinaryIO, path: Path) -> list[str]:
    try:
        return next(csv.reader([_line(file, path).decode("utf-8-sig")]), [])
    except (ValueError, csv.Error) as error:
        raise BadManifest(f"{path}, its first line: {error}. It must be CSV in UTF-8.") from error


def _line(file: BinaryIO, path: Path) -> bytes:
    line = file.readline(LONGEST_LINE)
    if len(line) == LONGEST_LINE:
        raise BadManifest(
            f"{path}: the line before byte {file.tell()} is longer than {LONGEST_LINE} bytes: a "
            "manifest holds one line for each picture."
        )
    return line


def _line_start(file: BinaryIO, head: int, at: int) -> int:
    """The first byte, at ``at`` or behind it, that begins a line."""
    if at <= head:
        return head
    file.seek(at - 1)
    file.readline()
    return file.tell()
