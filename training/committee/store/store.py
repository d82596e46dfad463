"""What a registry keeps its files in; ``FolderStore`` and ``ObjectStore`` do it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from training.committee.checksums import DamagedVersion
from training.errors import TrainingError

SCHEMES = ("s3", "gs", "az")
"""Of object stores; S3 alone is tested."""

T = TypeVar("T")


class StoreUnavailable(TrainingError):
    """The object store does not answer, or refuses us; it may answer in a while."""


class VersionTaken(TrainingError):
    """Another has written a version of this number, of other contents."""


class Store(Protocol):
    """Files of all projects. A project's name and what lies below it are checked names.

    Every call may raise ``StoreUnavailable``. A ``path`` is that of a file below the project's
    folder, such as ``examples/<digest>.npz``; versions have calls of their own, since they are
    whole or absent.
    """

    @property
    def url(self) -> str:
        """As REGISTRY_URL names it."""

    def projects(self) -> list[str]: ...

    def versions(self, project: str) -> list[int]:
        """Numbers of the versions there are, ascending."""

    def contents(self, project: str) -> dict[int, set[str]]:
        """Number to names of the files, of the versions there are."""

    def version_place(self, project: str, number: int) -> str:
        """Where a version lies, for people."""

    def version_path(self, project: str, number: int) -> Path:
        """The folder on this host where a version's files can be read.

        Raises:
            UnknownVersion, DamagedVersion: they could not be brought here.
        """

    def version_file(self, project: str, number: int, name: str) -> bytes:
        """A file of a version, compared with its checksum; or version.json.

        Raises:
            UnknownVersion, DamagedVersion.
        """

    def put_version(
        self, project: str, number: int, files: Mapping[str, bytes], *, at_hand: bool = True
    ) -> Path:
        """Write a version, so that a reader sees all of it or none of it.

        Args:
            files: name to content, version.json among them.
            at_hand: it is going to be used on this host.

        Returns:
            As ``version_path``.

        Raises:
            VersionTaken: an object store has another one of this number, which stays. In a folder
                it is replaced: it was left by an attempt that died.
        """

    def delete_version(self, project: str, number: int) -> None:
        """Remove a version; nothing if it is gone already, or the registry is being copied."""

    def prune_versions(self, project: str, keep: Collection[int]) -> None:
        """Remove the versions that are not in ``keep``, and what a dead process was writing."""

    def forget_copy(self, project: str, path: str) -> bool:
        """Remove this host's own copy of a file, or of a version (``versions/<number>``); whether
        there was one beside the original."""

    def other_files(self, project: str) -> dict[str, int]:
        """Path to bytes, of all files but those of versions."""

    def has(self, project: str, path: str) -> bool: ...

    def bring(self, project: str, paths: Collection[str]) -> None:
        """Have files at hand that are going to be opened; those that are missing are no error."""

    def open(self, project: str, path: str) -> AbstractContextManager[BinaryIO]:
        """A file to read, from this host's copy if there is one.

        Raises:
            OSError: as ``read``.
        """

    def read(self, project: str, path: str) -> bytes:
        """A file's bytes.

        Raises:
            FileNotFoundError: there is none.
            OSError: it is no plain file, too large, or not what was written.
        """

    def write(self, project: str, path: str, data: bytes, *, at_hand: bool = False) -> None:
        """Write a file whole; one that is there already is replaced.

        Args:
            at_hand: it is going to be opened on this host.
        """

    def remove(self, project: str, path: str) -> None:
        """Remove a file; nothing if it is gone."""

    def prune_examples(self, project: str, keep: Collection[str]) -> int:
        """Remove the examples whose digest is not in ``keep``; returns how many went."""

    def drop_round(self, project: str, round_id: int) -> None:
        """Remove a round's files; nothing if they are gone, or the registry is being copied."""

    def prune_rounds(self, project: str, ended: Callable[[int], bool]) -> None:
        """Remove the files of all rounds that have ended."""

    def drop_project(self, project: str) -> None:
        """Remove all that there is of a project, and of it on this host.

        Raises:
            RemovalsHeld: the registry is being copied, and nothing was removed.
            OSError: not all of it could be removed.
        """

    def check(self) -> None:
        """Write, read and remove a file.

        Raises:
            OSError: it is a folder that cannot be written.
        """

    def close(self) -> None: ...


def open_store(url: str, cache: Path, cache_bytes: int) -> Store:
    """The store that REGISTRY_URL names, as a folder's path or an object store's address.

    Args:
        cache: folder for this host's copies of what an object store holds.
        cache_bytes: as for ``HostCache``.
    """
    if "://" not in url:
        from training.committee.store.folder_store import FolderStore

        return FolderStore(Path(url))
    from training.committee.store.object_store import ObjectStore

    return ObjectStore(url, cache, cache_bytes)


def read_whole(store: Store, project: str, number: int, read: Callable[[Path], T]) -> T:
    """What ``read`` makes of a version's folder; a damaged copy of what an object store holds is
    brought anew.

    Raises:
        UnknownVersion, DamagedVersion: there is none, or the original is damaged.
    """
    try:
        return read(store.version_path(project, number))
    except DamagedVersion:
        if not store.forget_copy(project, f"versions/{number}"):
            raise
    return read(store.version_path(project, number))
