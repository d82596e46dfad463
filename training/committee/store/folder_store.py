"""A registry in a folder: everything of a project lies under ``root/<project>/``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from training.committee.checksums import (
    VERSION_FILE,
    DamagedVersion,
    read_checked,
    read_checksums,
    read_list,
)
from training.committee.folders import may_be_project, project_folder, version_numbers
from training.committee.removals import RemovalsHeld, may_remove
from training.files import (
    open_plain_file,
    read_plain_file,
    remove_folder,
    write_atomically,
    write_folder,
)

STALE_S = 3600.0
"""A file still being written after this was left by a process that died."""


class FolderStore:
    """See ``Store``.

    Args:
        root: made when it is first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        return str(self.root)

    def projects(self) -> list[str]:
        if not self.root.exists():
            return []
        return sorted(p.name for p in self.root.iterdir() if p.is_dir() and may_be_project(p.name))

    # Versions

    def versions(self, project: str) -> list[int]:
        return version_numbers(self.root, project)

    def contents(self, project: str) -> dict[int, set[str]]:
        found = {}
        for number in self.versions(project):
            with suppress(FileNotFoundError):  # removed meanwhile
                found[number] = {path.name for path in self.version_path(project, number).iterdir()}
        return found

    def version_place(self, project: str, number: int) -> str:
        return str(self.version_path(project, number))

    def version_path(self, project: str, number: int) -> Path:
        return project_folder(self.root, project, "versions") / str(number)

    def version_file(self, project: str, number: int, name: str) -> bytes:
        folder = self.version_path(project, number)
        if name == VERSION_FILE:
            return read_list(folder)
        checksums = read_checksums(folder)[1]
        if name not in checksums:
            raise DamagedVersion(f"{folder / VERSION_FILE} does not list {name}")
        return read_checked(folder / name, checksums[name])

    def put_version(
        self, project: str, number: int, files: Mapping[str, bytes], *, at_hand: bool = True
    ) -> Path:
        folder = self.version_path(project, number)
        write_folder(folder, files)
        return folder

    def delete_version(self, project: str, number: int) -> None:
        path = self.version_path(project, number)
        with may_remove(self.root) as may:
            if may:
                remove_folder(path)

    def prune_versions(self, project: str, keep: Collection[int]) -> None:
        folder = project_folder(self.root, project, "versions")
        if not folder.exists():
            return
        for number in self.versions(project):
            if number not in keep:
                self.delete_version(project, number)
        for path in (*folder.glob(".*"), *folder.parent.glob(".*")):
            remove_stale(path)

    def forget_copy(self, project: str, path: str) -> bool:
        return False

    # Other files

    def other_files(self, project: str) -> dict[str, int]:
        home = project_folder(self.root, project, "versions").parent
        return {
            path.relative_to(home).as_posix(): path.stat().st_size
            for path in sorted(home.rglob("*"))
            if path.is_file()
            and not path.is_symlink()
            and path.relative_to(home).parts[0] != "versions"
            and not any(part[0] == "." for part in path.relative_to(home).parts)
        }

    def has(self, project: str, path: str) -> bool:
        return self._path(project, path).exists()

    def bring(self, project: str, paths: Collection[str]) -> None:
        pass

    @contextmanager
    def open(self, project: str, path: str) -> Iterator[BinaryIO]:
        with open_plain_file(self._path(project, path)) as file:
            yield file

    def read(self, project: str, path: str) -> bytes:
        return read_plain_file(self._path(project, path))

    def write(self, project: str, path: str, data: bytes, *, at_hand: bool = False) -> None:
        write_atomically(self._path(project, path), data)

    def remove(self, project: str, path: str) -> None:
        self._path(project, path).unlink(missing_ok=True)

    def prune_examples(self, project: str, keep: Collection[str]) -> int:
        folder = project_folder(self.root, project, "examples")
        if not folder.exists():
            return 0
        removed = 0
        with may_remove(self.root) as may:
            for path in folder.iterdir():
                if path.suffix == ".npz" and not path.name.startswith("."):
                    if may and path.stem not in keep:
                        path.unlink(missing_ok=True)
                        removed += 1
                else:
                    remove_stale(path)
        return removed

    def drop_round(self, project: str, round_id: int) -> None:
        path = self._path(project, f"rounds/{round_id}")
        with may_remove(self.root) as may:
            if may:
                remove_folder(path)

    def prune_rounds(self, project: str, ended: Callable[[int], bool]) -> None:
        folder = project_folder(self.root, project, "rounds")
        if not folder.exists():
            return
        for path in folder.iterdir():
            if path.name.startswith("."):
                remove_stale(path)
            elif path.name.isdecimal() and ended(int(path.name)):
                self.drop_round(project, int(path.name))

    def drop_project(self, project: str) -> None:
        folder = self.root / project
        if not folder.exists():
            return
        with may_remove(self.root) as may:
            if not may:
                raise RemovalsHeld(f"a backup of {self.root} is being made")
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)

    def check(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=self.root) as file:
            file.write(b"committee")

    def close(self) -> None:
        pass

    def _path(self, project: str, path: str) -> Path:
        first, *below = path.split("/")
        return project_folder(self.root, project, first).joinpath(*below)


def remove_stale(path: Path) -> None:
    """Remove what was being written by a process that has died since."""
    try:
        stale = time.time() - path.stat().st_mtime > STALE_S
    except FileNotFoundError:
        return  # its writer lives, and has just put it into its place
    if stale:
        shutil.rmtree(path, ignore_errors=True)
