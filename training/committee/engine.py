"""What runs the members: OpenVINO on a CPU, torch on a GPU or wherever asked for.

An engine takes a batch of images at the network's resolution and gives each member's calibrated
probabilities and features. All engines give the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training.committee.calibration import Calibration
from training.compute import bounded_threads
from training.errors import TrainingError
from training.networks.forward import forward_padded, logits_and_features, stride_of


class NoEngine(TrainingError):
    """The engine that was asked for cannot run these members here."""


class Engine(Protocol):
    """Members, ready to answer.

    Attributes:
        name: "openvino" or "torch".
        precision: of its arithmetic: "f32", "bf16" or "f16".
    """

    name: str
    precision: str

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            images: [B, channels, h, w] float32 in [0, 1] on the CPU, any h and w of at least 1.

        Returns:
            Probabilities [M, B, C, h, w] and features [M, B, F], float32, where they were
            computed. They are the engine's: they hold until its next call.
        """
        ...


class Members(nn.Module):
    """All members as one network, from images to calibrated probabilities and features.

    Args:
        members: of one kind.
        calibration: what makes probabilities of their logits.
        pads: take images of any size; else their sides must be multiples of ``stride``.
    """

    def __init__(
        self, members: Sequence[nn.Module], calibration: Calibration, *, pads: bool = True
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.calibration, self.pads = calibration, pads
        self.stride = stride_of(members[0])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[M, B, C, h, w] probabilities and [M, B, F] features of [B, channels, h, w] images."""
        answers = [self.answer(m, images) for m in range(len(self.members))]
        return torch.stack([probs for probs, _ in answers]), torch.stack([f for _, f in answers])

    def answer(self, member: int, images: Tensor) -> tuple[Tensor, Tensor]:
        """One member's probabilities [B, C, h, w] and features [B, F]."""
        run = logits_and_features if self.pads else forward_padded
        logits, features = run(self.members[member], images)
        probs = self.calibration.probs(logits.float(), dim=1)
        if features is None:
            # What a network without features can still say of an image: how much of each class
            # it sees, and how unevenly.
            spread = probs.std(dim=(2, 3), correction=0)  # of a single pixel: 0, not NaN
            features = torch.cat((probs.mean(dim=(2, 3)), spread), dim=1)
        return probs, features.float()


class TorchEngine:
    """Members run one after the other by torch; on a GPU in half precision."""

    name = "torch"

    def __init__(self, members: Members, *, threads: int, device: torch.device) -> None:
        self._members = members.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._threads, self._device = threads, device
        self.precision = "f16" if device.type == "cuda" else "f32"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with bounded_threads(self._threads), self._autocast():
            x = images.to(self._device, memory_format=torch.channels_last)
            probs: Tensor | None = None
            features = []
            for m in range(len(self._members.members)):
                seen, inside = self._members.answer(m, x)
                if probs is None:
                    probs = torch.empty(
                        len(self._members.members), *seen.shape, device=self._device
                    )
                probs[m] = seen
                features.append(inside)
            assert probs is not None
            return probs, torch.stack(features)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._device.type != "cuda":
            return nullcontext()
        return torch.autocast("cuda", torch.float16)
