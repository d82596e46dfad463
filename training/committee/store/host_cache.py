"""This host's copies of what an object store holds, shared by its processes and bounded."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO

from training.committee.store.folder_store import remove_stale
from training.files import (
    LONGEST_PREFIX,
    open_plain_file,
    remove_folder,
    write_atomically,
)

MOST_HELD = 4
"""Versions that a process keeps from being removed: those it used last."""

SLACK = 8
"""An eighth of the bound is kept free, and looked after by each process when it has written a 64th:
so eight processes that write at the same time stay within the bound."""


class HostCache:
    """Version folders and files below ``root``; the least recently used ones go first.

    A copy appears whole. A version that a process holds stays, also where the bound is then
    exceeded: the hold is a lock of the kernel's on the folder, which goes with the process.

    Args:
        root: made when it is first written to.
        most_bytes: that all copies take together.
    """

    def __init__(self, root: Path, most_bytes: int) -> None:
        self.root = root
        self._most_bytes = most_bytes
        self._held: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()
        self._unchecked = most_bytes  # a process looks for room when it first writes

    def path(self, project: str, path: str) -> Path:
        return self.root / project / path

    # Versions

    def hold(self, folder: Path) -> bool:
        """Keep a version's folder from being removed while this process uses it; whether it is
        there."""
        with self._lock:
            return self._hold(folder)

    def _hold(self, folder: Path) -> bool:
        handle = self._held.pop(folder, None)
        if handle is None or not _is(handle, folder):
            if handle is not None:
                os.close(handle)
            try:
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                return False
            fcntl.flock(handle, fcntl.LOCK_SH)
            if not _is(handle, folder):  # removed before we had the lock
                os.close(handle)
                return False
        self._held[folder] = handle
        while len(self._held) > MOST_HELD:
            os.close(self._held.popitem(last=False)[1])
        with suppress(FileNotFoundError):
            os.utime(folder)
        return True

    @contextmanager
    def filling(self, folder: Path) -> Iterator[None]:
        """One process of the host brings a version here; the others wait for it."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{folder.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def put_folder(self, folder: Path, files: Mapping[str, bytes]) -> None:
        """Write a version's folder, which is not there, and hold it; while ``filling`` it."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(mkdtemp(prefix=f".{folder.name[:LONGEST_PREFIX]}-", dir=folder.parent))
        try:
            for name, data in files.items():
                # A copy that a power cut damages is found by its checksums, and brought again.
                (staging / name).write_bytes(data)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        self.hold(folder)  # also where it is larger than all that the bound leaves
        self._make_room(sum(map(len, files.values())))

    # Files

    @contextmanager
    def open(self, path: Path) -> Iterator[BinaryIO]:
        """A copy to read, whoever removes it meanwhile.

        Raises:
            FileNotFoundError: there is none.
        """
        with open_plain_file(path) as file:
            os.utime(file.fileno())
            yield file

    def put_file(self, path: Path, data: bytes) -> None:
        write_atomically(path, data)
        self._make_room(len(data))

    # What goes

    def forget(self, path: Path) -> bool:
        """Remove a copy of a file or a folder; whether there was one."""
        with self._lock:
            if (handle := self._held.pop(path, None)) is not None:
                os.close(handle)
        there = path.exists()
        with suppress(FileNotFoundError):
            if path.is_dir():
                remove_folder(path)
            else:
                path.unlink()
        return there

    def forget_project(self, project: str) -> None:
        with self._lock:
            for path in [path for path in self._held if path.is_relative_to(self.root / project)]:
                os.close(self._held.pop(path))
        with suppress(FileNotFoundError):
            shutil.rmtree(self.root / project)

    def close(self) -> None:
        while self._held:
            os.close(self._held.popitem()[1])

    def _make_room(self, written: int) -> None:
        self._unchecked += written
        if self._unchecked < self._most_bytes // (SLACK * SLACK):
            return
        self._unchecked = 0
        for path in (*self.root.glob("*/versions/.*"), *self.root.glob("*/examples/.*")):
            remove_stale(path)
        found = sorted(self._copies())
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total <= self._most_bytes - self._most_bytes // SLACK:
                return
            if _remove_unused(path):
                total -= size

    def _copies(self) -> Iterator[tuple[int, int, Path]]:
        """When each was last used, its bytes, and where it is."""
        for path in (*self.root.glob("*/versions/[!.]*"), *self.root.glob("*/examples/[!.]*")):
            with suppress(FileNotFoundError):
                status = path.stat()
                size = status.st_size
                if path.is_dir():
                    size = sum(file.stat().st_size for file in path.iterdir())
                yield status.st_mtime_ns, size, path


def _is(handle: int, folder: Path) -> bool:
    try:
        there = folder.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)


def _remove_unused(path: Path) -> bool:
    """Remove a copy unless a process holds it; whether it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    finally:
        os.close(handle)
    return True
