"""How a member's logits become probabilities that mean what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LARGEST_BIAS = 50.0
"""Nats; with one far beyond, float32 gives no number."""


@dataclass(frozen=True)
class Calibration:
    """probabilities = softmax(logits / temperature + bias)

    Attributes:
        temperature: above 0.
        bias: [C] nats by class; () for none, as versions of 0.2.0 have.
    """

    temperature: float = 1.0
    bias: tuple[float, ...] = ()

    def probs(self, logits: Tensor, dim: int) -> Tensor:
        """Probabilities of logits of any shape, whose axis ``dim`` is of the classes."""
        scaled = logits / self.temperature
        if self.bias:
            shape = [1] * logits.ndim
            shape[dim] = len(self.bias)
            scaled = scaled + torch.tensor(self.bias, device=logits.device).view(shape)
        return scaled.softmax(dim=dim)

    def to_metrics(self, classes: Sequence[str]) -> dict[str, Any]:
        """As a version's metrics keep it."""
        bias = self.bias or (0.0,) * len(classes)
        return {
            "temperature": self.temperature,
            "class_bias": dict(zip(classes, bias, strict=True)),
        }

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any], classes: Sequence[str]) -> Calibration:
        """What ``to_metrics`` wrote; metrics of 0.2.0 have no bias.

        Raises:
            ValueError: no temperature above 0, or not one bias for each class.
        """
        temperature = metrics.get("temperature")
        if not isinstance(temperature, float) or not 0 < temperature < math.inf:
            raise ValueError(f"no temperature above 0, but {temperature!r:.40}")
        found = metrics.get("class_bias")
        if found is None:
            return cls(temperature)
        if not isinstance(found, Mapping) or set(found) != set(classes):
            raise ValueError(f"no class_bias for each class, but {found!r:.80}")
        bias = tuple(found[name] for name in classes)
        if not all(isinstance(each, float) and abs(each) <= LARGEST_BIAS for each in bias):
            raise ValueError(f"a class_bias beyond {LARGEST_BIAS:g}, or no number: {found!r:.80}")
        return cls(temperature, bias)
