"""The committee at work: its members predict an image together, however large it is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acquisition.aggregate import aggregate, class_means
from acquisition.uncertainty import MEASURES, uncertainty_maps
from training.committee.calibration import Calibration
from training.committee.compiled import CompiledCache
from training.committee.engine import Engine
from training.committee.engine_choice import EngineChoice, device_of
from training.committee.ensemble import Ensemble
from training.committee.memory import MOST_AT_ONCE
from training.committee.prediction import Prediction, Segmentation, winners
from training.committee.row_engine import RowEngine
from training.committee.tiles import Strip, strips
from training.committee.version import DamagedVersion, read_version
from training.compute import bounded_threads
from training.config import TrainConfig
from training.examples import Example
from training.images import network_size
from training.networks.build import check_allowed
from training.particles.sizes import typical_diameters
from training.pixels import Image8

BATCH_PX = {"cpu": 1 << 18, "cuda": 1 << 23}
"""Pixels of the images predicted at once. One image of 512 px keeps a CPU busy; eight do not keep
a GPU busy."""

BF16_AGREEMENT = 0.998
"""bfloat16 serves where it predicts float32's class on at least this share of the pixels."""


UNCALIBRATED = Calibration()


class Committee:
    """A version, ready to predict.

    Args:
        ensemble: the members.
        calibration: what makes probabilities of their logits.
        version: its number; 0 if it was never saved.
        engine: "openvino" (on the CPU), "torch" or "auto", as for ``EngineChoice``.
        bf16: let OpenVINO compute in bfloat16.
        cache: where compiled members are kept.
        particle_px: class name to the typical diameter of its particles in the labels, in pixels
            at the network's resolution.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        *,
        calibration: Calibration = UNCALIBRATED,
        version: int = 0,
        engine: str = "auto",
        bf16: bool = False,
        cache: CompiledCache | None = None,
        particle_px: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.ensemble, self.version = ensemble, version
        self.particle_px = particle_px
        self._choice = EngineChoice(ensemble, calibration, engine, bf16, cache)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        threads: int = 1,
        device: torch.device | None = None,
        engine: str = "auto",
        own_network: str | None = None,
        seal: bytes | None = b"",
    ) -> Committee:
        """Load a version from its folder, ready to predict.

        The first load on a machine compiles the members and keeps the result in the folder.

        Args:
            folder: the version's.
            threads: of one prediction on the CPU.
            device: the GPU if there is one, else the CPU.
            engine: as for ``Committee``.
            own_network: the only ``package.module:factory`` that it may be made with: a folder
                that somebody else can write must not choose what is imported here.
            seal: a secret of this installation, as for ``CompiledCache.of_version``; with None
                nothing that was compiled is read from the folder or kept in it.

        Raises:
            UnknownVersion: there is none.
            DamagedVersion: a file is not what was saved.
            BadConfig: another release wrote it.
            ForeignNetwork: it was made with another network than ours and ``own_network``.
            NoEngine: ``engine`` cannot run it here.
        """
        stored = read_version(folder)
        check_allowed(stored.config, own_network)
        agreement = stored.metrics.get("bf16_agreement")
        try:
            calibration = Calibration.from_metrics(stored.metrics, stored.config.classes)
        except ValueError as error:
            raise DamagedVersion(f"{folder} has {error}") from error
        committee = cls(
            Ensemble(
                stored.weights, stored.config, threads=threads, device=device_of(engine, device)
            ),
            calibration=calibration,
            version=stored.number,
            engine=engine,
            bf16=isinstance(agreement, float) and agreement >= BF16_AGREEMENT,
            cache=None if seal is None else CompiledCache.of_version(folder, seal),
            particle_px=stored.metrics.get("particle_px", {}),
        )
        committee.prepare()
        return committee

    @property
    def config(self) -> TrainConfig:
        """What the members were trained with."""
        return self.ensemble.config

    @property
    def calibration(self) -> Calibration:
        """What makes probabilities of the members' logits."""
        return self._choice.calibration

    @property
    def wants_torch(self) -> bool:
        """Whether torch was asked for, or is the faster one on this device."""
        return self._choice.wants_torch

    @cached_property
    def engine(self) -> Engine:
        """What runs the members here; made at its first use.

        Raises:
            NoEngine: the engine that was asked for cannot run them.
            DamagedVersion: the weights do not fit the configuration.
        """
        return self._choice.make()

    def prepare(self) -> None:
        """Make the engine now, not at the first prediction.

        Raises:
            NoEngine, DamagedVersion: as ``engine``.
        """
        _ = self.engine

    @property
    def openvino_model(self) -> Any:
        """The calibrated members as one ``openvino.Model``; see ``EngineChoice``.

        Raises:
            NoEngine: OpenVINO cannot express them.
        """
        return self._choice.openvino_model

    def in_precision(self, precision: str) -> Committee:
        """The same committee, predicting by OpenVINO in "f32" or "bf16".

        Raises:
            NoEngine: OpenVINO cannot run it.
        """
        _ = self._choice.served_model  # converted once for all precisions
        return self._variant("openvino", bf16=precision == "bf16")

    def with_bf16(self, *, allowed: bool) -> Committee:
        """The same committee, whose OpenVINO may or may not compute in bfloat16."""
        return self._variant(self._choice.wanted, bf16=allowed)

    def _variant(self, engine: str, *, bf16: bool) -> Committee:
        other = Committee(self.ensemble, version=self.version, particle_px=self.particle_px)
        other._choice = self._choice.variant(engine, bf16=bf16)
        return other

    def keep_compiled(self, folder: Path, seal: bytes = b"") -> None:
        """Keep compiled members in a version's folder, as the first ``load`` with this seal would.

        Raises:
            NoEngine, DamagedVersion: as ``engine``.
        """
        self._choice.cache = CompiledCache.of_version(folder, seal)
        self.engine = self._choice.make()

    def out_of_fold(self, example: Example) -> tuple[Tensor, NDArray[np.uint8]]:
        """Probabilities [C, h, w] and classes [h, w] by the member that never trains on it."""
        probs = self.calibration.probs(self.ensemble.out_of_fold(example), dim=0)
        return probs, winners(probs[None])[0].numpy()

    def diameters(self, names: Collection[str], image: Segmentation) -> dict[int, float]:
        """What ``training.particles.instances`` takes as ``split`` for these classes: index to
        typical diameter in pixels of the image.

        A class whose size the version does not know, as none made by release 0.2.0 does, is
        measured in the prediction itself. A name that is no class of the version is left out.
        """
        wanted = {i: name for i, name in enumerate(self.config.classes) if i and name in names}
        if not wanted:
            return {}
        known = {
            i: self.particle_px[name] for i, name in wanted.items() if name in self.particle_px
        }
        if len(known) < len(wanted):
            classes = winners(torch.from_numpy(image.probs)[None])[0].numpy()
            known = {**typical_diameters([classes]), **known}
        scale = image.size[0] / image.probs.shape[1]
        return {i: known[i] * scale for i in wanted if i in known}

    def predict(self, image: Image8) -> Prediction:
        """Predict an image [H, W, channels] uint8: classes, uncertainty, the scores of all arms.

        Raises:
            ValueError: the image has another type or number of channels.
            NoEngine, DamagedVersion: as ``engine``.
        """
        return next(iter(self.predict_all([image])))

    def segment(self, image: Image8) -> Segmentation:
        """The classes of ``predict`` alone; its maps and scores take half as long again.

        Raises:
            ValueError, NoEngine, DamagedVersion: as ``predict``.
        """
        x = self.ensemble.batch([image])
        probs = np.empty((len(self.config.classes), *x.shape[2:]), np.float32)
        for strip, _ in self._strips(x):
            with bounded_threads(self.ensemble.threads):
                probs[:, strip.rows] = strip.probs[:, 0].mean(dim=0).cpu().numpy()
        return Segmentation((image.shape[0], image.shape[1]), probs)

    def predict_all(self, images: Iterable[Image8]) -> Iterator[Prediction]:
        """``predict`` for many images, in order; neighbours of one size are predicted together.

        Args:
            images: at most one more is read than can be predicted at once.
        """
        batch: list[Image8] = []
        for image in images:
            if batch and (image.shape != batch[0].shape or len(batch) == self._batch_size(image)):
                yield from self._predict_batch(batch)
                batch = []
            batch.append(image)
        if batch:
            yield from self._predict_batch(batch)

    def _batch_size(self, image: Image8) -> int:
        """How many such images are predicted at once."""
        height, width = network_size(image.shape[0], image.shape[1], self.config.max_side_px)
        on_gpu = self.wants_torch and self.ensemble.device.type != "cpu"
        most_px = BATCH_PX["cuda" if on_gpu else "cpu"]
        # Of many classes fewer images, so that their probabilities take no more room.
        values = max(MOST_AT_ONCE, self.config.members * len(self.config.classes))
        return max(1, most_px * MOST_AT_ONCE // (values * height * width))

    def _predict_batch(self, images: Sequence[Image8]) -> list[Prediction]:
        """Predict images of one size."""
        answer = self._run(self.ensemble.batch(images))
        with bounded_threads(self.ensemble.threads):
            predicted = torch.from_numpy(answer.predicted)
            arms = aggregate(
                {name: torch.from_numpy(each) for name, each in answer.maps.items()}, predicted
            )
            entropy = torch.from_numpy(answer.maps["predictive_entropy"])
            class_scores = class_means(entropy, predicted, len(self.config.classes)).numpy()
        return [
            Prediction(
                (image.shape[0], image.shape[1]),
                answer.probs[b],
                answer.predicted[b],
                {name: each[b] for name, each in answer.maps.items()},
                {name: float(scores[b]) for name, scores in arms.items()},
                class_scores[b],
                answer.features[:, b],
            )
            for b, image in enumerate(images)
        ]

    def _run(self, x: Tensor) -> _Answer:
        """Run the members on images [B, channels, h, w].

        Of the members' own probabilities no more than a strip is ever in memory.
        """
        B, _, h, w = x.shape
        probs: NDArray[np.float32] = np.empty((B, len(self.config.classes), h, w), np.float32)
        predicted: NDArray[np.uint8] = np.empty((B, h, w), np.uint8)
        maps = {name: np.empty((B, h, w), np.float32) for name in MEASURES}
        features: Tensor | None = None
        for strip, share in self._strips(x):
            features = share.clone() if features is None else features + share
            with bounded_threads(self.ensemble.threads):
                for name, uncertainty_map in uncertainty_maps(strip.probs).items():
                    maps[name][:, strip.rows] = uncertainty_map.cpu().numpy()
                mean = strip.probs.mean(dim=0)
                probs[:, :, strip.rows] = mean.cpu().numpy()
                predicted[:, strip.rows] = winners(mean).cpu().numpy()
        assert features is not None
        return _Answer(probs, predicted, maps, features.cpu().numpy())

    def _strips(self, x: Tensor) -> Iterator[tuple[Strip, Tensor]]:
        engine = self.engine
        return engine.strips(x) if isinstance(engine, RowEngine) else strips(x, engine)


@dataclass(frozen=True)
class _Answer:
    """What the members together give for images of one size.

    Attributes:
        probs: [B, C, h, w] the members' mean.
        predicted: [B, h, w] class indices.
        maps: measure name to [B, h, w].
        features: [M, B, F].
    """

    probs: NDArray[np.float32]
    predicted: NDArray[np.uint8]
    maps: Mapping[str, NDArray[np.float32]]
    features: NDArray[np.float32]
