import hashlib
import json
import os
import pickletools
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import training.files
from tests.training.discs import CLASSES, disc_example
from training.committee import registry as registry_module
from training.committee.calibration import Calibration
from training.committee.registry import (
    DamagedVersion,
    Registry,
    UnknownExample,
    UnknownFile,
    UnknownVersion,
    load_weights,
    save_weights,
)
from training.committee.version import read_version
from training.config import TrainConfig
from training.networks.build import build_network

CONFIG = TrainConfig(CLASSES, members=2, network="unet")
MANIFEST = {"entries": [{"task": 1, "digest": "abc"}]}
METRICS = {"temperature": 1.5, "ece": 0.02}


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry", engine="torch")


def weights_of(seed, config=CONFIG):
    torch.manual_seed(seed)
    return build_network(config).state_dict()


def save(registry, version=1, first_seed=0, project="p1"):
    weights = [weights_of(first_seed + member) for member in range(2)]
    return registry.save_version(project, version, weights, CONFIG, MANIFEST, METRICS)


def test_a_version_comes_back_as_it_was_saved(registry):
    folder = save(registry)
    stored = read_version(folder)
    assert (stored.number, stored.config, stored.manifest) == (1, CONFIG, MANIFEST)
    assert stored.metrics == METRICS
    for seed, member in enumerate(stored.weights):
        for name, tensor in weights_of(seed).items():
            torch.testing.assert_close(member[name], tensor, atol=1e-3, rtol=1e-3)


def test_whole_numbers_come_back_exactly_and_kernels_in_half(registry):
    weights = {"table": torch.arange(3000).reshape(2, 1500), "kernel": torch.full((2, 2), 0.1)}
    back = load_weights(save_weights(weights))
    assert torch.equal(back["table"], weights["table"])
    assert back["kernel"].dtype == torch.float32
    assert back["kernel"][0, 0] == torch.tensor(0.1).half()


def test_a_loaded_committee_knows_its_version_and_temperature(registry):
    save(registry, version=7)
    committee = registry.load("p1", 7)
    assert (committee.version, committee.calibration) == (7, Calibration(1.5))
    assert committee.predict(disc_example("a", 0).image).probs.shape == (3, 72, 88)


def test_kernels_are_stored_in_half_precision_and_answers_hardly_move(registry):
    weights = weights_of(0)
    data = save_weights(weights)
    floats = sum(t.numel() * 4 for t in weights.values() if t.is_floating_point())
    assert len(data) < 0.55 * floats
    for name, tensor in load_weights(data).items():
        assert tensor.dtype == weights[name].dtype


def test_the_same_weights_give_the_same_bytes():
    assert save_weights(weights_of(3)) == save_weights(dict(reversed(weights_of(3).items())))


def test_no_file_of_a_version_is_a_pickle(registry):
    for path in save(registry).iterdir():
        with pytest.raises(ValueError):  # noqa: PT011 - any refusal will do
            list(pickletools.genops(path.read_bytes()))


def test_versions_are_listed_by_number(registry):
    assert registry.versions("p1") == []
    for version in (10, 2):
        save(registry, version)
    assert registry.versions("p1") == [2, 10]


def test_files_have_the_checksums_that_version_json_lists(registry):
    folder = save(registry)
    files = registry.files("p1", 1)
    assert set(files) == {p.name for p in folder.iterdir()} - {"version.json"}
    for name, digest in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert list(registry.member_files("p1", 1)) == [
        "member-00.safetensors",
        "member-01.safetensors",
    ]


@pytest.mark.parametrize("name", ["member-01.safetensors", "config.json", "metrics.json"])
def test_a_changed_file_is_found(registry, name):
    path = save(registry) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedVersion, match=name):
        registry.load("p1", 1)


def test_a_missing_file_is_found(registry):
    (save(registry) / "member-00.safetensors").unlink()
    with pytest.raises(DamagedVersion, match=r"member-00\.safetensors is missing"):
        registry.load("p1", 1)


def test_a_damaged_list_of_files_is_found(registry):
    (save(registry) / "version.json").write_text("{")
    with pytest.raises(DamagedVersion, match=r"version\.json"):
        registry.load("p1", 1)


def test_a_version_of_another_release_is_refused(registry):
    folder = save(registry)
    config = json.loads((folder / "config.json").read_text()) | {"momentum": 1}
    text = json.dumps(config)
    (folder / "config.json").write_text(text)
    listed = json.loads((folder / "version.json").read_text())
    listed["files"]["config.json"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "version.json").write_text(json.dumps(listed))
    with pytest.raises(registry_module.TrainingError, match="another release"):
        registry.load("p1", 1)


def test_an_unknown_version_is_named_with_what_there_is(registry):
    save(registry, 3)
    with pytest.raises(UnknownVersion, match=r"no version 4 .*there: 3"):
        registry.load("p1", 4)


def test_a_save_that_dies_leaves_nothing_to_see(registry, monkeypatch):
    written = []

    def dies(path, data):
        if len(written) == 3:
            raise OSError("disk full")
        written.append(path.write_bytes(data))

    monkeypatch.setattr(training.files, "write_durably", dies)
    with pytest.raises(OSError, match="disk full"):
        save(registry)
    assert registry.versions("p1") == []
    assert list((registry.root / "p1" / "versions").iterdir()) == []


def test_a_save_that_is_repeated_replaces_what_was_left(registry):
    save(registry, first_seed=0)
    before = registry.files("p1", 1)
    save(registry, first_seed=5)
    assert registry.files("p1", 1) != before
    assert registry.versions("p1") == [1]
    assert [p.name for p in (registry.root / "p1" / "versions").iterdir()] == ["1"]


def test_a_process_keeps_the_last_two_versions(registry):
    for version in (1, 2, 3):
        save(registry, version)
    first = registry.load("p1", 1)
    assert registry.load("p1", 1) is first
    registry.load("p1", 2)
    registry.load("p1", 1)
    registry.load("p1", 3)
    assert registry.load("p1", 1) is first
    registry.load("p1", 2)
    registry.load("p1", 3)
    assert registry.load("p1", 1) is not first


def test_a_version_that_was_replaced_is_loaded_anew(registry):
    save(registry, first_seed=0)
    first = registry.load("p1", 1)
    save(registry, first_seed=9)
    assert registry.load("p1", 1) is not first


def test_a_deleted_version_is_gone_even_if_it_was_loaded(registry):
    save(registry)
    registry.load("p1", 1)
    registry.delete_version("p1", 1)
    registry.delete_version("p1", 1)
    with pytest.raises(UnknownVersion):
        registry.load("p1", 1)


def test_as_many_members_as_the_config_says_are_saved_or_none(registry):
    with pytest.raises(ValueError, match="expected 2 members, got 1"):
        registry.save_version("p1", 1, [weights_of(0)], CONFIG, MANIFEST, METRICS)


def test_metrics_without_a_temperature_are_refused(registry):
    weights = [weights_of(0), weights_of(1)]
    with pytest.raises(ValueError, match="temperature"):
        registry.save_version("p1", 1, weights, CONFIG, MANIFEST, {})


def test_bytes_that_are_no_weights_are_refused():
    with pytest.raises(DamagedVersion, match="safetensors"):
        load_weights(b"not weights")


def test_an_example_comes_back_as_it_was_put(registry):
    example = disc_example("task 7", 3)
    with pytest.raises(UnknownExample):
        registry.example_note("p1", "d7")
    registry.put_example("p1", "d7", example)
    assert registry.example_note("p1", "d7") == ""
    found = registry.get_example("p1", "d7")
    assert found.key == "task 7"
    np.testing.assert_array_equal(found.image, example.image)
    np.testing.assert_array_equal(found.mask, example.mask)
    np.testing.assert_array_equal(registry.get_mask("p1", "d7"), example.mask)


def test_an_example_of_any_channels_comes_back(registry):
    example = disc_example("7", 0)
    five = replace(example, image=np.repeat(example.image[..., :1], 5, axis=2))
    registry.put_example("p1", "five", five)
    assert registry.get_example("p1", "five").image.shape[2] == 5


def test_an_unknown_or_damaged_example_is_said(registry):
    with pytest.raises(UnknownExample, match="there is no example"):
        registry.get_example("p1", "d7")
    registry.put_example("p1", "d7", disc_example("7", 0))
    path = registry.root / "p1" / "examples" / "d7.npz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UnknownExample, match="damaged"):
        registry.get_example("p1", "d7")


def test_examples_that_hold_objects_are_refused_unread(registry):
    registry.put_example("p1", "d7", disc_example("7", 0))
    path = registry.root / "p1" / "examples" / "d7.npz"
    np.savez(path, key=np.array([print], dtype=object), image=0, mask=0)
    with pytest.raises(UnknownExample, match="damaged"):
        registry.get_example("p1", "d7")


def test_pruning_keeps_what_it_is_told_and_clears_what_died_half_written(registry):
    assert registry.prune_examples("p1", set()) == 0
    for digest in ("a", "b", "c"):
        registry.put_example("p1", digest, disc_example(digest, 0))
    folder = registry.root / "p1" / "examples"
    for name, age_s in ((".d.npz-xyz", 7200.0), (".e.npz-xyz", 0.0)):
        (folder / name).mkdir()
        then = time.time() - age_s
        os.utime(folder / name, (then, then))
    assert registry.prune_examples("p1", {"b", "z"}) == 2
    assert sorted(p.name for p in folder.iterdir()) == [".e.npz-xyz", "b.npz"]


def test_a_rounds_scratch_comes_back_and_goes(registry):
    assert not registry.has_round("p1", 4, "shard-1.json")
    registry.put_round("p1", 4, "shard-1.json", b"first")
    registry.put_round("p1", 4, "shard-1.json", b"second")
    assert registry.has_round("p1", 4, "shard-1.json")
    assert registry.get_round("p1", 4, "shard-1.json") == b"second"
    assert [p.name for p in (registry.root / "p1/rounds/4").iterdir()] == ["shard-1.json"]
    registry.drop_round("p1", 4)
    registry.drop_round("p1", 4)
    with pytest.raises(UnknownFile, match="has no shard-1"):
        registry.get_round("p1", 4, "shard-1.json")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\0b"])
def test_a_name_cannot_lead_out_of_its_folder(registry, name):
    with pytest.raises(ValueError, match="expected a name"):
        registry.put_round("p1", 1, name, b"")
    with pytest.raises(ValueError, match="expected a name"):
        registry.example_note(name, "d")


def test_threads_are_the_registrys(registry):
    save(registry)
    assert Registry(registry.root, threads=2, engine="torch").load("p1", 1).ensemble.threads == 2
