"""Which engine runs a committee's members here: OpenVINO or torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch

from training.committee.calibration import Calibration
from training.committee.compiled import CompiledCache
from training.committee.engine import Engine, Members, NoEngine, TorchEngine
from training.committee.ensemble import Ensemble
from training.committee.memory import goes_by_rows
from training.committee.openvino_engine import (
    OpenVinoEngine,
    compile_openvino,
    export_compiled,
    has_bf16,
    import_compiled,
    openvino_version,
    to_openvino,
)
from training.committee.row_engine import Bodies, RowEngine
from training.networks.forward import STRIDE
from training.networks.unet import Lite0UNet, UNet

log = logging.getLogger(__name__)

SAME_PROBS = 1e-3
"""Rounding moves a probability by less than this in float32."""


@dataclass
class EngineChoice:
    """Makes the engine of one committee.

    Attributes:
        ensemble: the members.
        calibration: what makes probabilities of their logits.
        wanted: "openvino", "torch", or "auto": torch on a GPU, OpenVINO on a CPU, and torch there
            too for a network that OpenVINO cannot express.
        bf16: let OpenVINO compute in bfloat16 where the processor does it itself.
        cache: where compiled members are kept; None to compile at each start.
    """

    ensemble: Ensemble
    calibration: Calibration
    wanted: str = "auto"
    bf16: bool = False
    cache: CompiledCache | None = None

    @property
    def wants_torch(self) -> bool:
        """Whether torch was asked for, or is the faster one on this device."""
        on_gpu = self.ensemble.device.type != "cpu"
        return self.wanted == "torch" or (self.wanted == "auto" and on_gpu)

    def make(self) -> Engine:
        """An engine, ready to run.

        Raises:
            NoEngine: the engine that was asked for cannot run the members.
            DamagedVersion: the weights do not fit the configuration.
        """
        if self.wants_torch:
            return self._torch_engine()
        try:
            return self._openvino_engine()
        except NoEngine as error:
            if self.wanted != "auto":
                raise
            log.warning("predicting by torch, which takes longer: %s", error)
            return self._torch_engine()

    @cached_property
    def openvino_model(self) -> Any:
        """The members as an ``openvino.Model`` that does not pad, checked against torch.

        Raises:
            NoEngine: OpenVINO cannot express a member, or its answers differ from torch's.
        """
        members = self.ensemble.as_one_network(self.calibration, pads=False)
        return self._converted(members, by_rows=False)

    @cached_property
    def served_model(self) -> Any:
        """What runs here: ``openvino_model``, or for many classes what ``RowEngine`` takes.

        Raises:
            NoEngine: as ``openvino_model``.
        """
        if not self._by_rows:
            return self.openvino_model
        members = self.ensemble.as_one_network(self.calibration, pads=False)
        return self._converted(Bodies(list(members.members), self.calibration), by_rows=True)

    def variant(self, wanted: str, *, bf16: bool) -> EngineChoice:
        """Another choice for the same members; what was converted for OpenVINO is shared."""
        other = replace(self, wanted=wanted, bf16=bf16, cache=None)
        for name in ("openvino_model", "served_model"):
            if name in vars(self):
                setattr(other, name, getattr(self, name))
        return other

    @property
    def _by_rows(self) -> bool:
        config = self.ensemble.config
        return goes_by_rows(config.network, config.members, len(config.classes))

    def _converted(self, members: Members, *, by_rows: bool) -> Any:
        model = to_openvino(members, self.ensemble.config.channels)
        compiled = compile_openvino(model, "f32", self.ensemble.threads)
        engine = self._of_compiled(compiled, "f32", by_rows=by_rows)
        check_answers(self.ensemble, self.calibration, engine)
        return model

    def _of_compiled(self, compiled: Any, precision: str, *, by_rows: bool) -> Engine:
        engine = OpenVinoEngine(compiled, precision, self.ensemble.stride)
        return self._row_engine(engine, compiled.release_memory) if by_rows else engine

    def _row_engine(self, body: Engine, release: Callable[[], None] = lambda: None) -> RowEngine:
        return RowEngine(
            body,
            cast("list[Lite0UNet | UNet]", self.ensemble.modules),
            self.calibration,
            stride=self.ensemble.stride,
            threads=self.ensemble.threads,
            release=release,
        )

    def _torch_engine(self) -> Engine:
        # The modules are shared with ``Ensemble.logits``.
        kind = Bodies if self._by_rows else Members
        members = kind(self.ensemble.modules, self.calibration)
        engine = TorchEngine(members, threads=self.ensemble.threads, device=self.ensemble.device)
        return self._row_engine(engine) if self._by_rows else engine

    def _openvino_engine(self) -> Engine:
        release = openvino_version()
        if release is None:
            raise NoEngine("OpenVINO is not installed")
        precision = "bf16" if self.bf16 and has_bf16() else "f32"
        threads, by_rows = self.ensemble.threads, self._by_rows
        # An earlier release kept whole members of as many classes.
        kept_as = f"rows-{precision}" if by_rows else precision
        data = None if self.cache is None else self.cache.read(kept_as, release)
        if data is not None:
            try:
                compiled = import_compiled(data, precision, threads)
                return self._of_compiled(compiled, precision, by_rows=by_rows)
            except NoEngine as error:
                log.warning("%s: compiling anew", error)
        compiled = compile_openvino(self.served_model, precision, threads)
        if self.cache is not None:
            self.cache.keep(kept_as, release, export_compiled(compiled))
        return self._of_compiled(compiled, precision, by_rows=by_rows)


def device_of(engine: str, device: torch.device | None) -> torch.device | None:
    """The device to make an ensemble for: the CPU for OpenVINO, else the one that was asked for."""
    return torch.device("cpu") if engine == "openvino" else device


def check_answers(ensemble: Ensemble, calibration: Calibration, engine: Engine) -> None:
    """Compare an engine with torch, at an image size that the engine was not made with.

    Raises:
        NoEngine: the answers differ. A network whose course depends on its input's size or values
            cannot be made into a graph.
    """
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (STRIDE + 13, 2 * STRIDE + 5, ensemble.config.channels), np.uint8)
    probs, _ = engine(ensemble.batch([image]))
    for m in range(ensemble.config.members):
        expected = calibration.probs(ensemble.logits(image, m), dim=0)
        if expected.shape != probs[m, 0].shape:
            raise NoEngine(
                f"it answers {tuple(probs[m, 0].shape)} where torch answers {tuple(expected.shape)}"
            )
        apart = float((probs[m, 0].cpu() - expected).abs().max())
        if not apart < SAME_PROBS:
            raise NoEngine(f"its probabilities differ from torch's by up to {apart:.3f}")
