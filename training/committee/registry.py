"""The home of versions, of the examples they learn from, and of what a round leaves between jobs.

Everything of a project lies under ``<project>/`` in a store, which is a folder or an object store:
``versions/<number>/``, ``examples/<digest>.npz`` and ``rounds/<id>/``.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.committee.checksums import parse_checksums
from training.committee.committee import Committee
from training.committee.folders import LinkInRegistry as LinkInRegistry
from training.committee.folders import checked_name
from training.committee.store.folder_store import FolderStore
from training.committee.store.store import Store, read_whole
from training.committee.version import (
    VERSION_FILE,
    member_file,
    read_checksums,
    version_files,
)
from training.committee.version import DamagedVersion as DamagedVersion
from training.committee.version import UnknownVersion as UnknownVersion
from training.committee.version import load_weights as load_weights
from training.committee.version import save_weights as save_weights
from training.config import TrainConfig
from training.errors import TrainingError
from training.examples import Example
from training.networks.build import Weights

KEEP_LOADED = 2
"""Versions that a process holds: the serving one and the next."""

_loaded: OrderedDict[tuple[str, str, int, str, str | None], Committee] = OrderedDict()
_loading = threading.Lock()


class UnknownExample(TrainingError):
    """There is no such example, or it is not what was saved."""


class UnknownFile(TrainingError):
    """A round's scratch folder has no such file."""


class Registry:
    """The registry of all projects. Where its store is an object store, any call may raise
    ``StoreUnavailable``.

    Args:
        store: where the files lie; a path is a folder that is made when it is first written to.
        threads: of a loaded committee's predictions.
        engine: of a loaded committee, as for ``Committee``.
        own_network: the only ``package.module:factory`` that a version may be made with.
        seal: a secret of this installation; compiled members without it are not read.
    """

    def __init__(
        self,
        store: Store | Path,
        *,
        threads: int = 1,
        engine: str = "auto",
        own_network: str | None = None,
        seal: bytes = b"",
    ) -> None:
        self.store = FolderStore(store) if isinstance(store, Path) else store
        self.threads, self.engine, self.own_network = threads, engine, own_network
        self.seal = seal

    @property
    def root(self) -> Path:
        """The folder of a registry that is in one."""
        assert isinstance(self.store, FolderStore)
        return self.store.root

    # Versions

    def save_version(
        self,
        project: str,
        version: int,
        weights: Sequence[Weights],
        config: TrainConfig,
        manifest: Mapping[str, Any],
        metrics: Mapping[str, Any],
        sheet: bytes | None = None,
        predicted: Mapping[str, bytes] | None = None,
    ) -> Path:
        """Write a version whole.

        Args:
            sheet, predicted: as for ``version_files``.

        Returns:
            As ``version_path``.

        Raises:
            ValueError: the members are not as many as the configuration says, or the metrics
                hold no temperature.
            VersionTaken: as ``Store.put_version``.
        """
        if len(weights) != config.members:
            raise ValueError(f"expected {config.members} members, got {len(weights)}")
        if not isinstance(metrics.get("temperature"), float):
            raise ValueError("metrics must hold the temperature that assess fitted")
        files = version_files(version, weights, config, manifest, metrics, sheet, predicted)
        return self.store.put_version(project, version, files)

    def version_path(self, project: str, version: int) -> Path:
        """The folder on this host where a version's files can be read, if it is there.

        Raises:
            UnknownVersion, DamagedVersion: an object store could not give it.
        """
        return self.store.version_path(project, version)

    def versions(self, project: str) -> list[int]:
        """Numbers of the versions there are, ascending."""
        return self.store.versions(project)

    def files(self, project: str, version: int) -> dict[str, str]:
        """Name to SHA-256 of a version's files.

        Raises:
            UnknownVersion, DamagedVersion.
        """
        data = self.store.version_file(project, version, VERSION_FILE)
        return parse_checksums(self.store.version_place(project, version), data)[1]

    def member_files(self, project: str, version: int) -> dict[str, str]:
        """Name to SHA-256 of a version's members alone.

        Raises:
            UnknownVersion, DamagedVersion.
        """
        files = self.files(project, version)
        members = sum(name.startswith("member-") for name in files)
        return {member_file(m): files[member_file(m)] for m in range(members)}

    def load(self, project: str, version: int) -> Committee:
        """The version, its files checked once; a process keeps the ``KEEP_LOADED`` last used.

        Raises:
            UnknownVersion: there is none.
            DamagedVersion: a file is not what was saved.
            BadConfig: another release wrote it.
            ForeignNetwork: it was made with a network that is not ours nor ``own_network``.
            NoEngine: ``engine`` cannot run it.
        """
        try:
            return read_whole(self.store, project, version, self._load)
        except UnknownVersion as error:
            there = ", ".join(map(str, self.versions(project))) or "none"
            raise UnknownVersion(
                f"project {project} has no version {version} in "
                f"{self._place(project, 'versions')} (there: {there})"
            ) from error

    def _load(self, folder: Path) -> Committee:
        digest = hashlib.sha256(repr(read_checksums(folder)).encode()).hexdigest()
        key = (str(folder.resolve()), digest, self.threads, self.engine, self.own_network)
        with _loading:
            if key not in _loaded:
                _loaded[key] = Committee.load(
                    folder,
                    threads=self.threads,
                    engine=self.engine,
                    own_network=self.own_network,
                    seal=self.seal,
                )
            _loaded.move_to_end(key)
            while len(_loaded) > KEEP_LOADED:
                _loaded.popitem(last=False)
            return _loaded[key]

    def delete_version(self, project: str, version: int) -> None:
        """Remove a version; nothing if it is gone already, or the registry is being copied."""
        self.store.delete_version(project, version)

    def prune_versions(self, project: str, keep: Collection[int]) -> list[int]:
        """Remove the versions that are not in ``keep``, and what a dead process was writing.

        Returns:
            The numbers of those that went.
        """
        there = self.versions(project)
        self.store.prune_versions(project, keep)
        return sorted({*there} - {*self.versions(project)})

    # Examples

    def put_example(self, project: str, digest: str, example: Example, note: str = "") -> None:
        """Keep an example under a name that stands for all it was made of, and a note on it."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            key=np.array(example.key),
            image=example.image,
            mask=example.mask,
            note=np.array(note),
        )
        self.store.write(project, _example(digest), buffer.getvalue(), at_hand=True)

    def bring_examples(self, project: str, digests: Collection[str]) -> None:
        """Have these examples at hand, where they are in an object store."""
        self.store.bring(project, [_example(digest) for digest in digests])

    def get_example(self, project: str, digest: str) -> Example:
        """The example kept under this name.

        Raises:
            UnknownExample: there is none, or its file was damaged, and is so no longer in the way.
        """
        arrays = self._arrays(project, digest, "key", "image", "mask")
        try:
            return Example(str(arrays["key"]), arrays["image"], arrays["mask"])
        except (ValueError, KeyError) as error:
            raise self._damaged(project, digest, error) from error

    def example_note(self, project: str, digest: str) -> str:
        """The note kept with an example; "" where an earlier release kept none.

        Raises:
            UnknownExample: as ``get_example``.
        """
        return str(self._arrays(project, digest, "note").get("note", ""))

    def get_mask(self, project: str, digest: str) -> NDArray[np.uint8]:
        """The mask of an example, its image left packed.

        Raises:
            UnknownExample: as ``get_example``.
        """
        try:
            return np.asarray(self._arrays(project, digest, "mask")["mask"], np.uint8)
        except KeyError as error:
            raise self._damaged(project, digest, error) from error

    def prune_examples(self, project: str, keep: set[str]) -> int:
        """Remove the examples whose digest is not in ``keep``; returns how many went."""
        return self.store.prune_examples(project, keep)

    def _arrays(self, project: str, digest: str, *names: str) -> dict[str, NDArray[Any]]:
        """Those of an example's arrays that there are."""
        path = _example(digest)
        while True:
            try:
                # Only what is asked for is read: a note lies beside an image of megabytes.
                with (
                    self.store.open(project, path) as file,
                    np.load(file, allow_pickle=False) as arrays,
                ):
                    return {name: arrays[name] for name in names if name in arrays}
            except FileNotFoundError as error:
                raise UnknownExample(f"there is no example {self._place(project, path)}") from error
            except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError) as error:
                if not self.store.forget_copy(project, path):
                    raise self._damaged(project, digest, error) from error

    def _damaged(self, project: str, digest: str, error: Exception) -> UnknownExample:
        path = _example(digest)
        self.store.remove(project, path)
        return UnknownExample(
            f"{self._place(project, path)} was damaged ({error}) and is removed: the next round "
            "makes it anew"
        )

    # What a round's jobs leave for each other

    def put_round(self, project: str, round_id: int, name: str, data: bytes) -> None:
        """Write a scratch file whole; one that is there already is replaced."""
        self.store.write(project, _scratch(round_id, name), data)

    def get_round(self, project: str, round_id: int, name: str) -> bytes:
        """A scratch file's bytes.

        Raises:
            UnknownFile: there is none of this name.
        """
        path = _scratch(round_id, name)
        try:
            return self.store.read(project, path)
        except OSError as error:
            raise UnknownFile(
                f"round {round_id} of {project} has no {name} that can be read: "
                f"{self._place(project, path)} ({error.strerror})"
            ) from error

    def has_round(self, project: str, round_id: int, name: str) -> bool:
        return self.store.has(project, _scratch(round_id, name))

    def steps_of_0_2(self, project: str, key: str) -> int | None:
        """The steps that release 0.2.0 or an earlier one measured once and kept under this key."""
        try:
            found = json.loads(self.store.read(project, "steps.json"))
            steps = found.get(key)
        except (OSError, ValueError, AttributeError):
            return None
        return steps if isinstance(steps, int) and steps > 0 else None

    def drop_round(self, project: str, round_id: int) -> None:
        """Remove a round's scratch files; nothing if they are gone, or the registry is copied."""
        self.store.drop_round(project, int(round_id))

    def prune_rounds(self, project: str, ended: Callable[[int], bool]) -> None:
        """Remove the scratch files of all rounds that have ended."""
        self.store.prune_rounds(project, ended)

    def _place(self, project: str, path: str) -> str:
        return f"{self.store.url}/{project}/{path}"


def _example(digest: str) -> str:
    return f"examples/{checked_name(digest)}.npz"


def _scratch(round_id: int, name: str) -> str:
    return f"rounds/{int(round_id)}/{checked_name(name)}"
