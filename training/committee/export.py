"""A version for other programs: one OpenVINO or ONNX model of all its members."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from training.committee.committee import Committee
from training.committee.engine import NoEngine
from training.committee.openvino_engine import to_openvino
from training.files import write_durably
from training.networks.forward import STRIDE

FORMATS = ("openvino", "onnx")

DESCRIPTION_FILE = "committee.json"

LARGEST_BATCH, LARGEST_PX = 64, 16384
"""Bounds that the ONNX exporter must be told; twice what Label Studio is promised."""


def export(committee: Committee, format_: str, folder: Path) -> list[Path]:
    """Write all members as one model: images in, calibrated probabilities and features out.

    The model takes float images [B, channels, h, w] in [0, 1], any size, at most
    ``max_side_px`` on the long side as the members were trained, and gives ``probs``
    [M, B, C, h, w] and ``features`` [M, B, F]. ``committee.json`` beside it says so too.

    Args:
        committee: the version.
        format_: one of ``FORMATS``.
        folder: made if it is not there; files of the same names are replaced.

    Returns:
        The files.

    Raises:
        NoEngine: the format cannot express the network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if format_ == "openvino":
        files = _to_openvino(committee, folder)
    elif format_ == "onnx":
        files = _to_onnx(committee, folder)
    else:
        raise ValueError(f"format must be one of {FORMATS}, got {format_!r}")
    description = folder / DESCRIPTION_FILE
    write_durably(description, json.dumps(_describe(committee, format_), indent=2).encode())
    return [*files, description]


def _to_openvino(committee: Committee, folder: Path) -> list[Path]:
    from openvino import save_model

    xml = folder / "committee.xml"
    _ = committee.openvino_model  # its answers are checked; the exported one pads as well
    model = to_openvino(
        committee.ensemble.as_one_network(committee.calibration), committee.config.channels
    )
    # fp16 is what the version itself holds.
    save_model(model, xml, compress_to_fp16=True)
    return [xml, xml.with_suffix(".bin")]


def _to_onnx(committee: Committee, folder: Path) -> list[Path]:
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    height, width = (torch.export.Dim(name, min=2, max=LARGEST_PX) for name in ("height", "width"))
    images = torch.rand(2, committee.config.channels, 3 * STRIDE, 4 * STRIDE)
    # It tells of its steps, and that torchvision is not there, which nothing here needs.
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                committee.ensemble.as_one_network(committee.calibration).eval(),
                (images,),
                dynamo=True,
                dynamic_shapes=({0: batch, 2: height, 3: width},),
                input_names=["images"],
                output_names=["probs", "features"],
                verbose=False,
            )
    # The exporter raises errors of its own, and whatever a laboratory's network raises.
    except Exception as error:
        raise NoEngine(f"ONNX cannot express the network: {error}") from error
    finally:
        exporter.setLevel(level)
    path = folder / "committee.onnx"
    program.save(path, external_data=False)
    return [path]


def _describe(committee: Committee, format_: str) -> dict[str, Any]:
    config = committee.config
    return {
        "format": format_,
        "version": committee.version,
        "classes": list(config.classes),
        "members": config.members,
        "network": config.network,
        **committee.calibration.to_metrics(config.classes),
        "max_side_px": config.max_side_px,
        "inputs": {"images": f"[B, {config.channels}, h, w] float32 in [0, 1], RGB where 3"},
        "outputs": {
            "probs": "[M, B, C, h, w] float32, calibrated; their mean over M is the committee's",
            "features": "[M, B, F] float32",
        },
    }
