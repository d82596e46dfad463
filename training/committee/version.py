"""A version on disk: a folder of plain files that is whole or absent.

Weights are safetensors, everything else is JSON: reading a version can run no code. version.json
lists the SHA-256 of every other file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from training.committee.checksums import VERSION_FILE as VERSION_FILE
from training.committee.checksums import DamagedVersion as DamagedVersion
from training.committee.checksums import UnknownVersion as UnknownVersion
from training.committee.checksums import read_checked
from training.committee.checksums import read_checksums as read_checksums
from training.committee.folders import PREDICTED_FILE
from training.committee.folders import SHEET_FILE as SHEET_FILE
from training.committee.out_of_fold import pack
from training.config import TrainConfig
from training.files import write_folder
from training.networks.build import Weights

CONFIG_FILE = "config.json"
MANIFEST_FILE = "manifest.json"
METRICS_FILE = "metrics.json"


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
    predicted: Mapping[str, bytes] | None = None,
) -> None:
    """Write a version so that a reader sees all of it or none of it.

    One that is there already is replaced: it was left by an attempt that died.

    Args:
        sheet, predicted: as for ``version_files``.
    """
    files = version_files(number, weights, config, manifest, metrics, sheet, predicted)
    write_folder(folder, files)


def version_files(
    number: int,
    weights: Sequence[Weights],
    config: TrainConfig,
    manifest: Mapping[str, Any],
    metrics: Mapping[str, Any],
    sheet: bytes | None = None,
    predicted: Mapping[str, bytes] | None = None,
) -> dict[str, bytes]:
    """The files of a version by name, version.json among them.

    Args:
        sheet: a PNG to check it by eye, if one was drawn.
        predicted: key to the predicted classes of a labelled image, a PNG.
    """
    files = {member_file(m): save_weights(member) for m, member in enumerate(weights)}
    files[CONFIG_FILE] = config.to_json().encode()
    files[MANIFEST_FILE] = _json(manifest)
    files[METRICS_FILE] = _json(metrics)
    if sheet is not None:
        files[SHEET_FILE] = sheet
    if predicted:
        files[PREDICTED_FILE] = pack(predicted)
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    return {**files, VERSION_FILE: _json({"version": number, "files": checksums})}


def read_version(folder: Path) -> StoredVersion:
    """A version, each file checked against its checksum.

    Raises:
        UnknownVersion: there is none in this folder.
        DamagedVersion: a file is missing or is not what was saved.
        BadConfig: another release wrote it.
    """
    number, checksums = read_checksums(folder)
    # Predictions of thousands of images are no part of what predicts.
    files = {
        name: read_checked(folder / name, digest)
        for name, digest in checksums.items()
        if name != PREDICTED_FILE
    }
    missing = {CONFIG_FILE, MANIFEST_FILE, METRICS_FILE} - files.keys()
    if missing:
        raise DamagedVersion(f"{folder / VERSION_FILE} does not list {', '.join(sorted(missing))}")
    config = _config(folder / CONFIG_FILE, files[CONFIG_FILE])
    if (
        config.members > len(files)
        or not {member_file(m) for m in range(config.members)} <= files.keys()
    ):
        raise DamagedVersion(f"{folder} should hold {config.members} members, has {sorted(files)}")
    return StoredVersion(
        number,
        [_member(folder / member_file(m), files[member_file(m)]) for m in range(config.members)],
        config,
        _object(folder / MANIFEST_FILE, files[MANIFEST_FILE]),
        _object(folder / METRICS_FILE, files[METRICS_FILE]),
    )


def _member(path: Path, data: bytes) -> Weights:
    weights = load_weights(data)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise DamagedVersion(f"{path} holds numbers in {name} that are not finite")
    return weights


def _config(path: Path, data: bytes) -> TrainConfig:
    try:
        return TrainConfig.from_json(data.decode())
    except (ValueError, RecursionError, OverflowError) as error:
        raise DamagedVersion(f"{path} is no JSON: {error}") from error


def _object(path: Path, data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedVersion(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise DamagedVersion(f"{path} must hold a JSON object, got {type(found).__name__}")
    return found


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
