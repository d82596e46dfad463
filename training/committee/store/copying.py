"""A registry becomes another one: from a folder to an object store, or back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from training.committee.checksums import (
    VERSION_FILE,
    DamagedVersion,
    UnknownVersion,
    parse_checksums,
)
from training.committee.store.store import Store, StoreUnavailable, VersionTaken

Report = Callable[[str, int, int], None]
"""``report(what, done, total)``."""


@dataclass
class Copied:
    """What ``copy_registry`` did.

    Attributes:
        versions: that are in both now, compared file by file.
        files: that are in both now beside them, and have the same SHA-256.
        copied: versions and files of these that this call wrote, in ``copied_bytes``.
        problems: a sentence for each version or file that was left out.
    """

    versions: int = 0
    files: int = 0
    copied: int = 0
    copied_bytes: int = 0
    problems: list[str] = field(default_factory=list)


def copy_registry(source: Store, target: Store, report: Report = lambda *_what: None) -> Copied:
    """Copy all that a registry holds, and compare it with what is there then.

    Safe to repeat: what is there already is compared, and not written again. What is removed from
    the source meanwhile, as retention does, is no problem.

    Args:
        report: told what is being done.

    Raises:
        VersionTaken: the target holds another version of the same number.
        StoreUnavailable: one does not answer; the next call goes on.
        OSError: a folder cannot be written.
    """
    done = Copied()
    for project in source.projects():
        numbers, theirs = source.versions(project), set(target.versions(project))
        for n, number in enumerate(numbers):
            report(f"Versions of {project}", n, len(numbers))
            _copy_version(source, target, project, number, number in theirs, done)
        paths, sizes = source.other_files(project), target.other_files(project)
        for n, (path, size) in enumerate(paths.items()):
            report(f"Files of {project}", n, len(paths))
            _copy_file(source, target, project, path, sizes.get(path) == size, done)
    return done


def _copy_version(
    source: Store, target: Store, project: str, number: int, there: bool, done: Copied
) -> None:
    try:
        files = _read(source, project, number)
    except UnknownVersion:
        return  # retention was faster
    except DamagedVersion as error:
        done.problems.append(f"Version {number} of {project} is not copied: {error}")
        return
    if not there:
        target.put_version(project, number, files, at_hand=False)
        done.copied += 1
        done.copied_bytes += sum(map(len, files.values()))
    if _read(target, project, number) != files:
        raise VersionTaken(
            f"{target.url} holds another version {number} of {project}: name a registry that is "
            "empty, or what an earlier copy of this one left."
        )
    done.versions += 1


def _read(store: Store, project: str, number: int) -> dict[str, bytes]:
    """All files of a version, compared with their checksums."""
    data = store.version_file(project, number, VERSION_FILE)
    names = parse_checksums(store.version_place(project, number), data)[1]
    files = {name: store.version_file(project, number, name) for name in names}
    return {**files, VERSION_FILE: data}


def _copy_file(
    source: Store, target: Store, project: str, path: str, there: bool, done: Copied
) -> None:
    try:
        data = source.read(project, path)
    except FileNotFoundError:
        return
    except OSError as error:
        done.problems.append(f"{source.url}/{project}/{path} is not copied: {error.strerror}")
        return
    if not there or not _same(target, project, path, data):
        target.write(project, path, data)
        done.copied += 1
        done.copied_bytes += len(data)
        if not _same(target, project, path, data):
            raise StoreUnavailable(
                f"{target.url}/{project}/{path} is not what was written there: is somebody else "
                "writing to it? Copy again."
            )
    done.files += 1


def _same(target: Store, project: str, path: str, data: bytes) -> bool:
    try:
        found = target.read(project, path)
    except OSError:  # damaged, or gone
        return False
    return hashlib.sha256(found).digest() == hashlib.sha256(data).digest()
