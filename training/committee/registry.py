"""The home of versions, of the examples they learn from, and of what a round leaves between jobs.

Everything of a project lies under ``root/<project>/``: ``versions/<number>/``,
``examples/<digest>.npz`` and ``rounds/<id>/``.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.committee.committee import Committee
from training.committee.folders import SHEET_FILE, checked_name, project_folder, version_numbers
from training.committee.folders import LinkInRegistry as LinkInRegistry
from training.committee.removals import may_remove
from training.committee.version import (
    VERSION_FILE,
    member_file,
    read_checksums,
    write_version,
)
from training.committee.version import DamagedVersion as DamagedVersion
from training.committee.version import UnknownVersion as UnknownVersion
from training.committee.version import load_weights as load_weights
from training.committee.version import save_weights as save_weights
from training.config import TrainConfig
from training.errors import TrainingError
from training.examples import Example
from training.files import open_plain_file, read_plain_file, remove_folder, write_atomically
from training.networks.build import Weights

KEEP_LOADED = 2
"""Versions that a process holds: the serving one and the next."""

STALE_S = 3600.0
"""A file still being written after this was left by a process that died."""

_loaded: OrderedDict[tuple[str, str, int, str, str | None], Committee] = OrderedDict()
_loading = threading.Lock()


class UnknownExample(TrainingError):
    """There is no such example, or it is not what was saved."""


class UnknownFile(TrainingError):
    """A round's scratch folder has no such file."""


class Registry:
    """The registry of all projects, in one folder.

    Args:
        root: made when it is first written to.
        threads: of a loaded committee's predictions.
        engine: of a loaded committee, as for ``Committee``.
        own_network: the only ``package.module:factory`` that a version may be made with.
        seal: a secret of this installation; compiled members without it are not read.
    """

    def __init__(
        self,
        root: Path,
        *,
        threads: int = 1,
        engine: str = "auto",
        own_network: str | None = None,
        seal: bytes = b"",
    ) -> None:
        self.root = root
        self.threads, self.engine, self.own_network = threads, engine, own_network
        self.seal = seal

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
        """Write a version whole; one of that number that is there already is replaced.

        Args:
            sheet: a PNG to check it by eye, if one was drawn.
            predicted: as for ``write_version``.

        Raises:
            ValueError: the members are not as many as the configuration says, or the metrics
                hold no temperature.
        """
        if len(weights) != config.members:
            raise ValueError(f"expected {config.members} members, got {len(weights)}")
        if not isinstance(metrics.get("temperature"), float):
            raise ValueError("metrics must hold the temperature that assess fitted")
        path = self.version_path(project, version)
        write_version(path, version, weights, config, manifest, metrics, sheet, predicted)
        return path

    def version_path(self, project: str, version: int) -> Path:
        return self._folder(project, "versions") / str(version)

    def versions(self, project: str) -> list[int]:
        """Numbers of the versions there are, ascending."""
        return version_numbers(self.root, project)

    def files(self, project: str, version: int) -> dict[str, str]:
        """Name to SHA-256 of a version's files.

        Raises:
            UnknownVersion, DamagedVersion.
        """
        return read_checksums(self._existing(project, version))[1]

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
        folder = self._existing(project, version)
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

    def sheet_path(self, project: str, version: int) -> Path | None:
        """The picture to check a version by eye; None if it has none."""
        path = self.version_path(project, version) / SHEET_FILE
        return path if path.exists() else None

    def delete_version(self, project: str, version: int) -> None:
        """Remove a version; nothing if it is gone already, or the registry is being copied."""
        path = self.version_path(project, version)
        with may_remove(self.root) as may:
            if may:
                remove_folder(path)

    def prune_versions(self, project: str, keep: Collection[int]) -> list[int]:
        """Remove the versions that are not in ``keep``, and what a dead process was writing.

        Returns:
            The numbers of those that went.
        """
        folder = self._folder(project, "versions")
        if not folder.exists():
            return []
        there = self.versions(project)
        for number in there:
            if number not in keep:
                self.delete_version(project, number)
        for path in (*folder.glob(".*"), *folder.parent.glob(".*")):
            _remove_stale(path)
        return sorted({*there} - {*self.versions(project)})

    def _existing(self, project: str, version: int) -> Path:
        path = self.version_path(project, version)
        if not (path / VERSION_FILE).exists():
            there = ", ".join(map(str, self.versions(project))) or "none"
            raise UnknownVersion(
                f"project {project} has no version {version} in {path.parent} (there: {there})"
            )
        return path

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
        write_atomically(self._example(project, digest), buffer.getvalue())

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
        folder = self._folder(project, "examples")
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
                    _remove_stale(path)
        return removed

    def _arrays(self, project: str, digest: str, *names: str) -> dict[str, NDArray[Any]]:
        """Those of an example's arrays that there are."""
        path = self._example(project, digest)
        try:
            # Only what is asked for is read: a note lies beside an image of megabytes.
            with (
                open_plain_file(path) as file,
                np.load(file, allow_pickle=False) as arrays,
            ):
                return {name: arrays[name] for name in names if name in arrays}
        except FileNotFoundError as error:
            raise UnknownExample(f"there is no example {path}") from error
        except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError) as error:
            raise self._damaged(project, digest, error) from error

    def _damaged(self, project: str, digest: str, error: Exception) -> UnknownExample:
        path = self._example(project, digest)
        path.unlink(missing_ok=True)
        return UnknownExample(
            f"{path} was damaged ({error}) and is removed: the next round makes it anew"
        )

    def _example(self, project: str, digest: str) -> Path:
        return self._folder(project, "examples") / f"{checked_name(digest)}.npz"

    # What a round's jobs leave for each other

    def round_path(self, project: str, round_id: int) -> Path:
        return self._folder(project, "rounds") / str(int(round_id))

    def put_round(self, project: str, round_id: int, name: str, data: bytes) -> None:
        """Write a scratch file whole; one that is there already is replaced."""
        write_atomically(self.round_path(project, round_id) / checked_name(name), data)

    def get_round(self, project: str, round_id: int, name: str) -> bytes:
        """A scratch file's bytes.

        Raises:
            UnknownFile: there is none of this name.
        """
        path = self.round_path(project, round_id) / checked_name(name)
        try:
            return read_plain_file(path)
        except OSError as error:
            raise UnknownFile(
                f"round {round_id} of {project} has no {name} in {path.parent} that can be read "
                f"({error.strerror})"
            ) from error

    def has_round(self, project: str, round_id: int, name: str) -> bool:
        return (self.round_path(project, round_id) / checked_name(name)).exists()

    def steps_of_0_2(self, project: str, key: str) -> int | None:
        """The steps that release 0.2.0 or an earlier one measured once and kept under this key."""
        try:
            found = json.loads(read_plain_file(self._folder(project, "steps.json")))
            steps = found.get(key)
        except (OSError, ValueError, AttributeError):
            return None
        return steps if isinstance(steps, int) and steps > 0 else None

    def drop_round(self, project: str, round_id: int) -> None:
        """Remove a round's scratch files; nothing if they are gone, or the registry is copied."""
        path = self.round_path(project, round_id)
        with may_remove(self.root) as may:
            if may:
                remove_folder(path)

    def prune_rounds(self, project: str, ended: Callable[[int], bool]) -> None:
        """Remove the scratch files of all rounds that have ended."""
        folder = self._folder(project, "rounds")
        if not folder.exists():
            return
        for path in folder.iterdir():
            if path.name.startswith("."):
                _remove_stale(path)
            elif path.name.isdecimal() and ended(int(path.name)):
                self.drop_round(project, int(path.name))

    def _folder(self, project: str, name: str) -> Path:
        return project_folder(self.root, project, name)


def _remove_stale(path: Path) -> None:
    """Remove what was being written by a process that has died since."""
    try:
        stale = time.time() - path.stat().st_mtime > STALE_S
    except FileNotFoundError:
        return  # its writer lives, and has just put it into its place
    if stale:
        shutil.rmtree(path, ignore_errors=True)
