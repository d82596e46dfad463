"""Whether a version's files are what was saved: by their SHA-256, without loading any of them.

A process that must stay light can ask this; it brings no torch. Checksums tell of accidents:
whoever can write here can rewrite them too, so nothing that is read may lead out of the folder,
hang or run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path

from training.errors import TrainingError

VERSION_FILE = "version.json"

MAX_FILE_BYTES = 4 * 2**30
"""Of a version's file; a member of ours has some ten million."""

MAX_JSON_BYTES = 64 * 2**20
"""Of a version's JSON; the manifest of 100,000 labelled tasks has some 15 MB."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class UnknownVersion(TrainingError):
    """There is no such version."""


class DamagedVersion(TrainingError):
    """A version's files are not what was saved."""


def read_checksums(folder: Path) -> tuple[int, dict[str, str]]:
    """A version's number and the SHA-256 of each of its files.

    Raises:
        UnknownVersion: there is none in this folder.
        DamagedVersion: version.json cannot be read or is not what was saved.
    """
    path = folder / VERSION_FILE
    try:
        found = json.loads(read_plain(path))
        return int(found["version"]), dict(_checked(*pair) for pair in found["files"].items())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnknownVersion(f"there is no version in {folder}") from error
    except OSError as error:
        raise DamagedVersion(f"{path} cannot be read: {error.strerror}") from error
    except (
        *(ValueError, KeyError, TypeError, AttributeError),
        *(RecursionError, OverflowError),
    ) as error:
        raise DamagedVersion(f"{path} is not what was saved: {error}") from error


def _checked(name: object, digest: object) -> tuple[str, str]:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{str(name)[:80]!r} is no name of a version's file")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"{name} has no SHA-256")
    return name, digest


def read_plain(path: Path) -> bytes:
    """A file's bytes: of the file itself, through no link, and not without end.

    Raises:
        OSError: it is missing, a link, no plain file, or too large.
    """
    # Without O_NONBLOCK a named pipe would be waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is no plain file")
        most = MAX_JSON_BYTES if path.suffix == ".json" else MAX_FILE_BYTES
        if found.st_size > most:
            raise OSError(0, f"it is larger than {most / 2**20:.0f} MiB")
        return file.read(most)


def read_checked(path: Path, expected: str) -> bytes:
    """A file's bytes, which have this SHA-256.

    Raises:
        DamagedVersion: it is missing, cannot be read, or is another.
    """
    try:
        data = read_plain(path)
    except FileNotFoundError as error:
        raise DamagedVersion(f"{path} is missing: restore it or delete the version") from error
    except OSError as error:
        raise DamagedVersion(
            f"{path} cannot be read ({error.strerror}): restore it or delete the version"
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected:
        raise DamagedVersion(
            f"{path} should have the SHA-256 {expected} and has {digest}: "
            "restore it or delete the version"
        )
    return data


def check_files(folder: Path) -> None:
    """Compare every file of a version with its checksum.

    Raises:
        UnknownVersion: there is none in this folder.
        DamagedVersion: a file is missing, cannot be read, or is not what was saved.
    """
    for name, digest in read_checksums(folder)[1].items():
        read_checked(folder / name, digest)
