"""A laboratory's own network: found by name, made, and given its first weights.

The protocol is in docs/NETWORKS.md; ``training.check_network`` tries all of it.
"""

from __future__ import annotations

import hashlib
import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor, nn

from training.errors import TrainingError


class BadNetwork(TrainingError):
    """A laboratory's own network, or its weights, cannot be used."""


def make_own_network(name: str, channels: int, classes: int) -> nn.Module:
    """Call ``package.module:factory`` with channels and classes.

    Raises:
        BadNetwork: it cannot be imported or called, or returns no module.
    """
    module_name, _, factory_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    # Importing runs the laboratory's code: it may fail in any way.
    except Exception as error:
        raise BadNetwork(
            f"the network {name} cannot be imported ({type(error).__name__}: {error}): is "
            f"{module_name.partition('.')[0]!r} in the folder you start from, or on PYTHONPATH, "
            "for the web and for every worker?"
        ) from error
    try:
        network = factory(channels=channels, classes=classes)
    except Exception as error:
        raise BadNetwork(
            f"{name}(channels={channels}, classes={classes}) failed "
            f"({type(error).__name__}: {error}): it must return a torch.nn.Module"
        ) from error
    if not isinstance(network, nn.Module):
        raise BadNetwork(
            f"{name}(channels={channels}, classes={classes}) must return a torch.nn.Module, "
            f"got {type(network).__name__}"
        )
    return network


def weights_digest(path: Path) -> str:
    """SHA-256 of a file of weights.

    Raises:
        BadNetwork: it cannot be read.
    """
    return hashlib.sha256(_read(path)).hexdigest()


def start_from(network: nn.Module, path: Path, sha256: str) -> list[str]:
    """Load what fits of a state dict; the rest keeps its fresh weights.

    Args:
        network: changed in place.
        path: safetensors, or what ``torch.save`` wrote of a state dict (read without running
            code).
        sha256: of the file; every member must start from the same.

    Returns:
        Names of the network's tensors that the file lacks or holds in another shape: a head for
        other classes, for one.

    Raises:
        BadNetwork: the file is missing, another one, no state dict, or of another network.
    """
    data = _read(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise BadNetwork(
            f"{path} should have the SHA-256 {sha256} and has {digest}: it was changed since the "
            "round began, or is another file on this machine"
        )
    given, own = _state_dict(path), network.state_dict()
    strange = sorted(given.keys() - own.keys())
    if strange:
        raise BadNetwork(
            f"{path} holds {len(strange)} tensors that the network has not, first {strange[0]!r} "
            f"(the network's first is {next(iter(own), 'none')!r}): is it of another network?"
        )
    fitting = {name: value for name, value in given.items() if value.shape == own[name].shape}
    if not fitting:
        raise BadNetwork(f"no tensor of {path} has the shape that the network's has")
    network.load_state_dict(fitting, strict=False)
    return sorted(own.keys() - fitting.keys())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadNetwork(f"the network's weights {path} cannot be read: {error}") from error


def _state_dict(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return tensors_from_bytes(_read(path))
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise BadNetwork(
            f"{path} must hold a state dict, as safetensors or by torch.save: {error}"
        ) from error
    if not isinstance(found, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()
    ):
        raise BadNetwork(f"{path} must hold a state dict, names to tensors, and nothing else")
    return found
