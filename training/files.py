"""Files that a reader sees whole or not at all, and reads that no hostile file can mislead.

Brings neither numpy nor torch: the processes that must stay light use it too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO, TextIO

MAX_FILE_BYTES = 4 * 2**30
"""Largest file that is read; a member of ours has some ten million bytes."""

LONGEST_PREFIX = 50
"""Characters of a file's name in that of its staging folder: a name may have 255 bytes."""

MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file that is read; the manifest of 100,000 labelled tasks has some 15 MB."""


def write_atomically(
    path: Path, data: bytes, *, private: bool = False, replace: bool = True
) -> None:
    """Write a file so that a reader sees all of it or none of it, also after a power cut.

    Args:
        path: its folder is made if it is not there.
        data: the whole content.
        private: only its owner may read the file.
        replace: False leaves a file that is already there as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(
        mkdtemp(prefix=f".{path.name[:LONGEST_PREFIX]}-", dir=path.parent)
    )  # nobody else may enter it
    staging = folder / path.name
    try:
        write_durably(staging, data)
        if private:
            staging.chmod(0o600)
        if replace:
            staging.replace(path)
        else:
            path.hardlink_to(staging)
    except FileExistsError:
        if replace:
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file to write bit by bit; it takes the place of ``path`` once all of it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix=f".{path.name[:LONGEST_PREFIX]}-", dir=path.parent))
    try:
        staging = folder / path.name
        with staging.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of a folder that one writes to.

    Raises:
        BlockingIOError: another is at work there.
    """
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files so that a reader sees all of it or none of it.

    A folder that is there already is replaced.

    Args:
        files: name to content.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, data in files.items():
            write_durably(staging / name, data)
        remove_folder(folder)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _sync_folder(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a reader sees all of it or none of it; nothing if it is not there."""
    if not folder.exists():
        return
    doomed = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    folder.rename(doomed / folder.name)
    shutil.rmtree(doomed)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file that is on the disk when this returns."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_plain_file(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        OSError: as ``open_plain_file``.
    """
    with open_plain_file(path) as file:
        return file.read(_most_bytes(path))


@contextmanager
def open_plain_file(path: Path) -> Iterator[BinaryIO]:
    """A file to read, opened through no link.

    Raises:
        OSError: it is missing, a link, no plain file, or larger than ``MAX_FILE_BYTES``
            (``MAX_JSON_BYTES`` if its name ends in .json).
    """
    # Without O_NONBLOCK opening a named pipe would wait for a writer.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is no plain file")
        most = _most_bytes(path)
        if found.st_size > most:
            raise OSError(0, f"it is larger than {most / 2**20:.0f} MiB")
        yield file


def _most_bytes(path: Path) -> int:
    return MAX_JSON_BYTES if path.suffix == ".json" else MAX_FILE_BYTES


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
