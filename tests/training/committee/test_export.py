import json
from dataclasses import replace

import numpy as np
import openvino
import pytest
import torch
from click.testing import CliRunner

from tests.training.discs import CLASSES
from training.__main__ import cli
from training.committee.calibration import Calibration
from training.committee.committee import Committee
from training.committee.engine import NoEngine
from training.committee.ensemble import Ensemble
from training.committee.export import export
from training.committee.version import write_version
from training.config import TrainConfig
from training.networks.build import build_network

CPU = torch.device("cpu")
OWN = TrainConfig(CLASSES, members=2, network="tests.training.laboratory:small")
BIAS = (0.75, *[0.0] * (len(CLASSES) - 1))

OTHER_SIZES = ((32, 64), (75, 41))


def committee_of(config):
    weights = []
    for member in range(config.members):
        torch.manual_seed(member)
        weights.append(build_network(config).state_dict())
    return Committee(
        Ensemble(weights, config, device=CPU), calibration=Calibration(1.7, BIAS), version=3
    )


@pytest.mark.parametrize(
    ("format_", "name"), [("openvino", "committee.xml"), ("onnx", "committee.onnx")]
)
def test_an_exported_model_answers_as_the_committee_at_any_size(tmp_path, format_, name):
    committee = committee_of(OWN)
    files = export(committee, format_, tmp_path)
    assert all(path.exists() for path in files)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    # OpenVINO reads ONNX too, and needs nothing of ours.
    model = openvino.Core().compile_model(tmp_path / name, "CPU", exact)
    for size in OTHER_SIZES:
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        found = model({"images": images.numpy()})
        probs, features = committee.engine(images)
        np.testing.assert_allclose(found["probs"], probs, atol=2e-3)  # kernels are in fp16
        np.testing.assert_allclose(found["features"], features, atol=2e-3)
    said = json.loads((tmp_path / "committee.json").read_text())
    assert said["classes"] == list(CLASSES)
    assert said["temperature"] == 1.7
    assert tuple(said["class_bias"].values()) == BIAS
    assert said["version"] == 3


def test_a_network_that_no_graph_can_follow_is_refused(tmp_path):
    config = replace(OWN, network="tests.training.laboratory:BySize")
    with pytest.raises(NoEngine, match="differ"):
        export(committee_of(config), "openvino", tmp_path)


def test_the_command_exports_a_version(tmp_path):
    torch.manual_seed(0)
    weights = [build_network(OWN).state_dict() for _ in range(2)]
    write_version(tmp_path / "4", 4, weights, OWN, {}, {"temperature": 1.0})
    arguments = ["export", str(tmp_path / "4"), "--output", str(tmp_path / "out")]
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 1
    assert "NETWORK=tests.training.laboratory:small" in run.output
    run = CliRunner().invoke(cli, [*arguments, "--network", OWN.network])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "out" / "committee.bin").exists()
    assert not list((tmp_path / "4").glob("compiled-*"))
    (tmp_path / "file").touch()
    arguments = ["export", str(tmp_path / "4"), "--network", OWN.network]
    run = CliRunner().invoke(cli, [*arguments, "--output", str(tmp_path / "file" / "below")])
    assert run.exit_code == 1
    assert "file" in run.output
    run = CliRunner().invoke(cli, ["export", str(tmp_path), "--output", str(tmp_path / "out")])
    assert run.exit_code == 1
    assert "there is no version" in run.output
