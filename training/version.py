"""A version on disk: a folder of plain files that is whole or absent.

Weights are safetensors, everything else is JSON: reading a version can run no code. version.json
lists the SHA-256 of every other file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from training.config import TrainConfig
from training.errors import TrainingError
from training.fit import Weights

CONFIG_FILE = "config.json"
MANIFEST_FILE = "manifest.json"
METRICS_FILE = "metrics.json"
VERSION_FILE = "version.json"
SHEET_FILE = "contact-sheet.png"


class UnknownVersion(TrainingError):
    """There is no such version."""


class DamagedVersion(TrainingError):
    """A version's files are not what was saved."""


@dataclass(frozen=True)
class StoredVersion:
    """What a version's folder holds."""

    number: int
    weights: list[Weights]
    config: TrainConfig
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any]


def member_file(member: int) -> str:
    return f"member-{member:02d}.safetensors"


def save_weights(weights: Weights) -> bytes:
    """One member's state dict as safetensors.

    Kernels are halved to fp16, which moves probabilities by less than 0.001. Batch-norm
    statistics stay as they are: they are small, and a variance can outgrow fp16.
    """
    return tensors_to_bytes(
        {
            name: (
                tensor.half().contiguous()
                if tensor.ndim > 1 and tensor.is_floating_point()
                else tensor.contiguous()
            )
            for name, tensor in weights.items()
        }
    )


def load_weights(data: bytes) -> Weights:
    """What ``save_weights`` wrote, in float32 again.

    Raises:
        DamagedVersion: the bytes are no safetensors.
    """
    try:
        tensors = tensors_from_bytes(data)
    except SafetensorError as error:
        raise DamagedVersion(f"expected a member's weights as safetensors: {error}") from error
    return {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in tensors.items()
    }


def write_version(
    folder: Path,
    number: int,
    weights: Sequence[Weights],
    config: TrainConfig,
    manifest: Mapping[str, Any],
    metrics: Mapping[str, Any],
    sheet: bytes | None = None,
) -> None:
    """Write a version so that a reader sees all of it or none of it.

    One that is there already is replaced: it was left by an attempt that died.

    Args:
        sheet: a PNG to check it by eye, if one was drawn.
    """
    files = {member_file(m): save_weights(member) for m, member in enumerate(weights)}
    files[CONFIG_FILE] = config.to_json().encode()
    files[MANIFEST_FILE] = _json(manifest)
    files[METRICS_FILE] = _json(metrics)
    if sheet is not None:
        files[SHEET_FILE] = sheet
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    files[VERSION_FILE] = _json({"version": number, "files": checksums})
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


def read_checksums(folder: Path) -> tuple[int, dict[str, str]]:
    """A version's number and the SHA-256 of each of its files.

    Raises:
        UnknownVersion: there is none in this folder.
        DamagedVersion: version.json is not what was saved.
    """
    try:
        found = json.loads((folder / VERSION_FILE).read_bytes())
        return int(found["version"]), {str(k): str(v) for k, v in found["files"].items()}
    except FileNotFoundError as error:
        raise UnknownVersion(f"there is no version in {folder}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedVersion(f"{folder / VERSION_FILE} is not what was saved: {error}") from error


def read_version(folder: Path) -> StoredVersion:
    """A version, each file checked against its checksum.

    Raises:
        UnknownVersion: there is none in this folder.
        DamagedVersion: a file is missing or is not what was saved.
        BadConfig: another release wrote it.
    """
    number, checksums = read_checksums(folder)
    files = {name: _read_checked(folder / name, digest) for name, digest in checksums.items()}
    missing = {CONFIG_FILE, MANIFEST_FILE, METRICS_FILE} - files.keys()
    if missing:
        raise DamagedVersion(f"{folder / VERSION_FILE} does not list {', '.join(sorted(missing))}")
    config = TrainConfig.from_json(files[CONFIG_FILE].decode())
    names = [member_file(m) for m in range(config.members)]
    if not set(names) <= files.keys():
        raise DamagedVersion(f"{folder} should hold {config.members} members, has {sorted(files)}")
    return StoredVersion(
        number,
        [load_weights(files[name]) for name in names],
        config,
        json.loads(files[MANIFEST_FILE]),
        json.loads(files[METRICS_FILE]),
    )


def _read_checked(path: Path, expected: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedVersion(f"{path} is missing: restore it or delete the version") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected:
        raise DamagedVersion(
            f"{path} should have the SHA-256 {expected} and has {digest}: "
            "restore it or delete the version"
        )
    return data


def write_durably(path: Path, data: bytes) -> None:
    """Write a file that is on the disk when this returns."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        write_durably(staging / path.name, data)
        (staging / path.name).replace(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a reader sees all of it or none of it; nothing if it is not there."""
    if not folder.exists():
        return
    doomed = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    folder.rename(doomed / folder.name)
    shutil.rmtree(doomed)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
