"""Members as one OpenVINO graph: converted, compiled, run, and kept as bytes."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from torch import Tensor

from training.committee.engine import Members, NoEngine
from training.networks.forward import pad_to_stride


class OpenVinoEngine:
    """Members as one OpenVINO graph, on the CPU.

    Args:
        compiled: of members that do not pad: within the graph it would cost a copy of all that
            goes in and of all that comes out.
        precision: "f32" or "bf16".
        stride: of the members.
    """

    name = "openvino"

    def __init__(self, compiled: Any, precision: str, stride: int) -> None:
        self._request = compiled.create_infer_request()
        self.precision, self._stride = precision, stride

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        h, w = images.shape[-2:]
        padded = pad_to_stride(images, self._stride)
        self._request.infer([padded.numpy()], share_inputs=True)
        probs, features = (self._request.get_output_tensor(i).data for i in range(2))
        return torch.from_numpy(probs)[..., :h, :w], torch.from_numpy(features)


def openvino_version() -> str | None:
    """Release of the OpenVINO there is, as "2026.4.1"; None without one."""
    try:
        from openvino import get_version
    except ImportError:
        return None
    return str(get_version()).partition("-")[0]


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 itself; elsewhere it would be emulated."""
    if openvino_version() is None:
        return False
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def to_openvino(members: Members, channels: int) -> Any:
    """The members as an ``openvino.Model``, for any batch and size.

    By the frontend itself, not ``openvino.convert_model``, which reports to its maker when
    openvino-telemetry is installed.

    Raises:
        NoEngine: OpenVINO cannot express a member, which only a laboratory's own network can
            bring about.
    """
    from openvino import PartialShape
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    traced = _trace(members, channels)
    try:
        frontend = FrontEndManager().load_by_framework("pytorch")
        # The model keeps no reference to either; without these names they would be gone.
        decoder = TorchScriptPythonDecoder(traced)
        loaded = frontend.load(decoder)
        model = frontend.convert(loaded)
    except Exception as error:
        # The frontend raises its own types and RuntimeErrors alike.
        raise NoEngine(f"OpenVINO cannot express the network: {error}") from error
    model.reshape(PartialShape([-1, channels, -1, -1]))
    model.input(0).get_tensor().set_names({"images"})
    for port, name in zip(model.outputs, ("probs", "features"), strict=True):
        port.get_tensor().set_names({name})
    return model


def _trace(members: Members, channels: int) -> Any:
    # The layout that convolutions are written for: channels last would be traced as transposes.
    members = members.eval().cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Sizes that the trace takes for constants are tried by Committee's own check.
            warnings.simplefilter("ignore")
            return torch.jit.trace(  # type: ignore[no-untyped-call]
                members,
                torch.rand(1, channels, 2 * members.stride, 3 * members.stride),
                check_trace=False,
            )
    except Exception as error:
        raise NoEngine(f"the network cannot be traced ({type(error).__name__}: {error})") from error


def compile_openvino(model: Any, precision: str, threads: int) -> Any:
    """Compile an ``openvino.Model`` for this processor."""
    return _core().compile_model(model, "CPU", _properties(precision, threads))


def export_compiled(compiled: Any) -> bytes:
    """What ``import_compiled`` reads."""
    buffer = io.BytesIO()
    compiled.export_model(buffer)
    return buffer.getvalue()


def import_compiled(data: bytes, precision: str, threads: int) -> Any:
    """A compiled model from what ``export_compiled`` wrote under the same OpenVINO.

    Raises:
        NoEngine: it was written by another, or is damaged.
    """
    try:
        return _core().import_model(io.BytesIO(data), "CPU", _properties(precision, threads))
    except RuntimeError as error:
        raise NoEngine(f"the compiled model cannot be read: {error}") from error


def _core() -> Any:
    from openvino import Core

    return Core()


def _properties(precision: str, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Each process would pin its threads to the same first cores as every other.
        "ENABLE_CPU_PINNING": False,
    }
