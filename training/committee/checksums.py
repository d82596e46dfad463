"""Whether a version's files are what was saved: by their SHA-256, without loading any of them.

A process that must stay light can ask this; it brings no torch. Checksums tell of accidents:
whoever can write here can rewrite them too, so nothing that is read may lead out of the folder,
hang or run.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from training.errors import TrainingError
from training.files import read_plain_file

VERSION_FILE = "version.json"


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
    return parse_checksums(folder / VERSION_FILE, read_list(folder))


def read_list(folder: Path) -> bytes:
    """A version's version.json.

    Raises:
        UnknownVersion: there is none in this folder.
        DamagedVersion: it cannot be read.
    """
    path = folder / VERSION_FILE
    try:
        return read_plain_file(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnknownVersion(f"there is no version in {folder}") from error
    except OSError as error:
        raise DamagedVersion(f"{path} cannot be read: {error.strerror}") from error


def parse_checksums(place: Path | str, data: bytes) -> tuple[int, dict[str, str]]:
    """What the bytes of a version.json say, as ``read_checksums``.

    Args:
        place: where it lies, for the message.

    Raises:
        DamagedVersion: it is not what was saved.
    """
    try:
        found = json.loads(data)
        return int(found["version"]), dict(_checked(*pair) for pair in found["files"].items())
    except (
        *(ValueError, KeyError, TypeError, AttributeError),
        *(RecursionError, OverflowError),
    ) as error:
        raise DamagedVersion(f"{place} is not what was saved: {error}") from error


def _checked(name: object, digest: object) -> tuple[str, str]:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{str(name)[:80]!r} is no name of a version's file")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"{name} has no SHA-256")
    return name, digest


def read_checked(path: Path, expected: str) -> bytes:
    """A file's bytes, which have this SHA-256.

    Raises:
        DamagedVersion: it is missing, cannot be read, or is another.
    """
    try:
        data = read_plain_file(path)
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
