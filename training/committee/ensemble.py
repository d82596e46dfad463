"""The members of a committee as torch modules, made from their weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from training.committee.calibration import Calibration
from training.committee.checksums import DamagedVersion
from training.committee.engine import Members
from training.compute import bounded_threads, default_device
from training.config import NETWORKS, TrainConfig
from training.examples import Example
from training.fitting.folds import fold
from training.images import shrink
from training.networks.batch_norms import fold_batch_norms
from training.networks.build import Weights, skeleton
from training.networks.forward import logits_and_features, stride_of
from training.pixels import Image8


class Ensemble:
    """Members with their weights; a module is made when it is first needed.

    Args:
        weights: one state dict per member.
        config: what they were trained with.
        threads: of one prediction on the CPU.
        device: the GPU if there is one, else the CPU.

    Raises:
        DamagedVersion: there are more or fewer weights than the configuration says.
    """

    def __init__(
        self,
        weights: Sequence[Weights],
        config: TrainConfig,
        *,
        threads: int = 1,
        device: torch.device | None = None,
    ) -> None:
        if len(weights) != config.members:
            raise DamagedVersion(f"expected {config.members} members, got {len(weights)}")
        self.config, self.threads = config, threads
        self.device = device or default_device()
        self._weights = weights

    def member(self, number: int) -> nn.Module:
        """A fresh module of a member as it was trained, on the CPU, for inference only.

        Raises:
            DamagedVersion: its weights do not fit the configuration.
        """
        member = skeleton(self.config)
        try:
            member.load_state_dict(self._weights[number], strict=True)
        except RuntimeError as error:
            raise DamagedVersion(
                f"member {number} does not fit the network {self.config.network!r} "
                f"with {len(self.config.classes)} classes: {error}"
            ) from error
        return member.eval().requires_grad_(requires_grad=False)

    def as_one_network(self, calibration: Calibration, *, pads: bool = True) -> Members:
        """Fresh modules of all members as one network; ``pads`` as for ``Members``.

        Raises:
            DamagedVersion: as ``member``.
        """
        return Members(self._fresh(), calibration, pads=pads)

    @cached_property
    def stride(self) -> int:
        """What the sides of an image must be multiples of, in pixels."""
        return stride_of(skeleton(self.config))

    @cached_property
    def modules(self) -> list[nn.Module]:
        """The members on the device, ready for inference by torch.

        Raises:
            DamagedVersion: as ``member``.
        """
        members = self._fresh()
        for member in members:
            if self.config.network in NETWORKS:
                fold_batch_norms(member)
            member.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return members

    @torch.inference_mode()
    def logits(self, image: Image8, member: int) -> Tensor:
        """One member's logits [C, h, w] on the CPU, not calibrated.

        Args:
            image: [H, W, channels] uint8.
        """
        with bounded_threads(self.threads):
            x = self.batch([image]).to(self.device, memory_format=torch.channels_last)
            logits, _ = logits_and_features(self.modules[member], x)
            return logits[0].float().contiguous().cpu()

    def out_of_fold(self, example: Example) -> Tensor:
        """Logits [C, h, w], not calibrated, by the member that never trains on this key."""
        return self.logits(example.image, fold(example.key, self.config.members))

    def batch(self, images: Sequence[Image8]) -> Tensor:
        """Images of one size as the network takes them: [B, channels, h, w] in [0, 1].

        Args:
            images: each [H, W, channels] uint8; shrunk to ``max_side_px``.

        Raises:
            ValueError: one has another type or number of channels.
        """
        for image in images:
            if image.ndim != 3 or image.shape[2] != self.config.channels or image.dtype != np.uint8:
                raise ValueError(
                    f"image must be [H, W, {self.config.channels}] uint8, "
                    f"got {image.shape} {image.dtype}"
                )
        small = np.stack([shrink(image, self.config.max_side_px) for image in images])
        return torch.from_numpy(small).permute(0, 3, 1, 2).contiguous() / 255

    def _fresh(self) -> list[nn.Module]:
        return [self.member(m) for m in range(self.config.members)]
