import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from tests.command_page import json_keys
from tests.training.discs import CLASSES, disc_examples
from tests.training.laboratory import Small
from training.__main__ import cli
from training.check_network import check_network
from training.committee.committee import Committee
from training.committee.version import write_version
from training.config import BadConfig, TrainConfig
from training.fitting.fit import fit_member
from training.networks.build import build_network
from training.networks.own_network import BadNetwork, start_from, weights_digest

CPU = torch.device("cpu")
HERE = "tests.training.laboratory"
OWN = TrainConfig(
    CLASSES, members=2, network=f"{HERE}:small", crop_px=64, batch=4, steps=40, decoder_lr=2e-2
)


def test_an_own_network_trains_serves_and_is_kept_like_ours(tmp_path):
    examples = disc_examples(8)
    weights = [fit_member(examples, OWN, member, CPU)[0] for member in range(2)]
    write_version(tmp_path / "1", 1, weights, OWN, {}, {"temperature": 1.0})
    committee = Committee.load(tmp_path / "1", device=CPU, own_network=OWN.network)
    assert committee.engine.name == "openvino"
    example = disc_examples(1, first_seed=50)[0]
    prediction = committee.predict(example.image)
    assert (prediction.predicted == example.mask).mean() > 0.9
    assert prediction.features.shape == (2, 2 * len(CLASSES))


def test_its_encoder_learns_at_the_lower_rate():
    config = replace(OWN, steps=1, encoder_lr=0.0, weight_decay=0.0)
    torch.manual_seed(int(np.random.SeedSequence([0, 0]).generate_state(1)[0]))
    before = build_network(config).state_dict()
    after, _ = fit_member(disc_examples(4), config, 0, CPU)
    assert torch.equal(before["encoder.0.weight"], after["encoder.0.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_members_start_from_its_weights_but_for_what_does_not_fit(tmp_path, suffix):
    given = Small(3, 7).state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(given, path)
    else:
        save_file(given, path)
    network = Small(3, 4)
    fresh = start_from(network, path, weights_digest(path))
    assert fresh == ["head.bias", "head.weight"]
    assert torch.equal(network.state_dict()["down.0.weight"], given["down.0.weight"])
    config = replace(
        OWN, network_weights=str(path), network_weights_sha256=weights_digest(path), steps=1
    )
    started = build_network(config).state_dict()
    assert torch.equal(started["encoder.0.weight"], given["encoder.0.weight"])


def test_weights_that_cannot_be_used_are_refused_with_a_sentence(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(BadNetwork, match="cannot be read"):
        weights_digest(path)
    save_file({"other.weight": torch.zeros(3)}, path)
    with pytest.raises(BadNetwork, match=r"'other.weight'.*another network"):
        start_from(Small(3, 4), path, weights_digest(path))
    with pytest.raises(BadNetwork, match="changed since the round began"):
        start_from(Small(3, 4), path, "0" * 64)
    save_file({"head.bias": torch.zeros(9)}, path)
    with pytest.raises(BadNetwork, match="no tensor"):
        start_from(Small(3, 4), path, weights_digest(path))
    path.write_bytes(b"nonsense")
    with pytest.raises(BadNetwork, match="must hold a state dict"):
        start_from(Small(3, 4), path, weights_digest(path))
    other = tmp_path / "weights.pt"
    for wrong in ({"epoch": 3, "model": {}}, {0: torch.zeros(3)}):
        torch.save(wrong, other)
        with pytest.raises(BadNetwork, match="names to tensors"):
            start_from(Small(3, 4), other, weights_digest(other))


def test_pickled_code_in_weights_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("it ran",))

    path = tmp_path / "weights.pt"
    torch.save({"head.bias": Evil()}, path)
    with pytest.raises(BadNetwork, match="must hold a state dict"):
        start_from(Small(3, 4), path, weights_digest(path))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere.net:make", "cannot be imported"),
        (f"{HERE}:absent", "cannot be imported"),
        (f"{HERE}:fails", "no licence"),
        (f"{HERE}:no_module", "must return a torch.nn.Module, got int"),
    ],
)
def test_a_network_that_cannot_be_made_is_refused_with_a_sentence(name, sentence):
    with pytest.raises(BadNetwork, match=sentence):
        build_network(replace(OWN, network=name))


@pytest.mark.parametrize("name", ["resnet", "a.b", "a:b:c", "a b:c", ":x", "os.path:"])
def test_what_names_no_network_is_refused(name):
    with pytest.raises(BadConfig, match=r"package\.module:factory"):
        replace(OWN, network=name)


def failed(name, **options):
    return {c.name: c.said for c in check_network(f"{HERE}:{name}", **options) if c.passed is False}


@pytest.mark.parametrize("name", ["small", "WithFeatures"])
def test_the_kit_passes_what_works(name):
    checks = list(check_network(f"{HERE}:{name}", classes=4, channels=2))
    assert [c for c in checks if c.passed is False] == []
    assert {"made", "sizes", "training", "OpenVINO", "predicting"} <= {c.name for c in checks}


@pytest.mark.parametrize(
    ("name", "check", "sentence"),
    [
        ("fails", "made", "no licence"),
        ("Halved", "sizes", "must give logits"),
        ("Softmaxed", "logits", "leave the softmax out"),
        ("OverTheBatch", "eval", "beside it in the batch"),
        ("Dropping", "eval", "dropout"),
        ("Detached", "gradients", "reaches no parameter"),
        ("Unused", "gradients", "'never.weight'"),
        ("Forgetful", "saving", "must be in the state dict"),
        ("TwoClasses", "classes", "made for 2 classes it answers 3"),
    ],
)
def test_the_kit_names_what_is_missing(name, check, sentence):
    assert sentence in failed(name)[check]


def test_a_network_that_openvino_cannot_follow_is_served_by_torch():
    checks = {c.name: c for c in check_network(f"{HERE}:BySize")}
    assert checks["OpenVINO"].passed is None
    assert "torch serves it" in checks["OpenVINO"].said
    assert "(torch, 1 threads)" in checks["predicting"].said


def test_the_command_says_what_is_missing_and_fails(tmp_path):
    run = CliRunner().invoke(cli, ["check-network", f"{HERE}:Softmaxed"])
    assert run.exit_code == 1
    assert "MISSING  logits" in run.output
    assert "docs/NETWORKS.md" in run.output
    run = CliRunner().invoke(cli, ["check-network", f"{HERE}:Softmaxed", "--json"])
    found = json.loads(run.stdout)
    assert run.exit_code == 1
    assert json_keys()["training check-network"] == found.keys()
    assert found["usable"] is False
    path = tmp_path / "weights.pt"
    torch.save(Small(3, 3).state_dict(), path)
    run = CliRunner().invoke(cli, ["check-network", f"{HERE}:small", "--weights", str(path)])
    assert run.exit_code == 0, run.output
    assert f"NETWORK_WEIGHTS={path}" in run.output
