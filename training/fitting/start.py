"""A member that begins with what another committee's member has learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.networks.build import Weights, skeleton


@dataclass(frozen=True)
class Start:
    """What a member begins with.

    Attributes:
        weights: a state dict of the same network, for ``classes``.
        classes: names by index, background first.
    """

    weights: Weights
    classes: tuple[str, ...]


def why_no_start(start: TrainConfig, config: TrainConfig) -> str | None:
    """Why members of ``config`` cannot begin with those of ``start``, as a clause; None if they
    can."""
    if start.network != config.network:
        return f"its network is {start.network!r}, this project's {config.network!r}"
    if start.channels != config.channels:
        return f"it takes {start.channels} channels, this project's images have {config.channels}"
    return None


def start_of(members: Sequence[Weights], classes: tuple[str, ...], member: int) -> Start:
    """What this member begins with, of a committee that may have another number of them."""
    return Start(members[member % len(members)], classes)


def begin_with(network: nn.Module, start: Start, config: TrainConfig) -> None:
    """Give a fresh network what ``start`` has learnt.

    Output channels are taken over by the class's name; a class that is new keeps its fresh ones.

    Args:
        network: of ``config``; changed in place.

    Raises:
        ValueError: the weights are of another network.
    """
    own = network.state_dict()
    other = skeleton(replace(config, classes=_one_class_more_or_less(config.classes))).state_dict()
    begun: dict[str, Tensor] = {}
    for name, fresh in own.items():
        given = start.weights.get(name)
        # Along the classes: the one axis whose length follows their number.
        axes = [a for a, n in enumerate(fresh.shape) if n != other[name].shape[a]]
        if given is None or given.ndim != fresh.ndim or len(axes) > 1:
            raise ValueError(f"the start's {name!r} is not that of the network {config.network!r}")
        taken = given.to(fresh.dtype)
        if axes:
            taken = _by_class(fresh, taken, axes[0], start.classes, config.classes)
        if taken.shape != fresh.shape:
            raise ValueError(
                f"the start's {name!r} has the shape {tuple(given.shape)}, "
                f"the network's {tuple(fresh.shape)}"
            )
        begun[name] = taken
    network.load_state_dict(begun, strict=True)


def _one_class_more_or_less(classes: tuple[str, ...]) -> tuple[str, ...]:
    return classes[:-1] if len(classes) > 2 else (*classes, f"not {classes[-1]}")


def _by_class(
    fresh: Tensor, given: Tensor, axis: int, old: Sequence[str], new: Sequence[str]
) -> Tensor:
    taken = fresh.clone()
    for index, name in enumerate(new):
        if name in old:
            here = torch.tensor([index])
            taken.index_copy_(axis, here, given.narrow(axis, old.index(name), 1))
    return taken
