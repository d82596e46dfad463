"""Versions that somebody else wrote, their checksums right: they are refused, and nothing runs."""

from __future__ import annotations

import ast
import hashlib
import hmac
import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from tests.training.discs import CLASSES
from training.committee.checksums import DamagedVersion, check_files, read_checksums
from training.committee.committee import Committee
from training.committee.compiled import CompiledCache
from training.committee.registry import LinkInRegistry, Registry, UnknownExample, UnknownFile
from training.committee.version import read_version, write_version
from training.config import BadConfig, TrainConfig
from training.files import MAX_JSON_BYTES
from training.networks.build import ForeignNetwork, build_network

ROOT = Path(__file__).parents[3]
CONFIG = TrainConfig(CLASSES, members=1, network="unet")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return build_network(CONFIG).state_dict()


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "versions" / "1"
    write_version(path, 1, [weights], CONFIG, {"entries": []}, {"temperature": 1.0})
    return path


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Change a file and its checksum, as whoever can write to the registry can."""
    (folder / name).write_bytes(data)
    found = json.loads((folder / "version.json").read_bytes())
    found["files"][name] = hashlib.sha256(data).hexdigest()
    (folder / "version.json").write_text(json.dumps(found))


def rewrite_json(folder: Path, name: str, **fields: Any) -> None:
    found = json.loads((folder / name).read_bytes())
    rewrite(folder, name, json.dumps({**found, **fields}).encode())


class Pickled:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.mark}",))


def test_the_version_itself_is_sound(folder: Path) -> None:
    """Else every refusal below could have another cause."""
    assert Committee.load(folder, engine="torch").version == 1


# The list of files


@pytest.mark.parametrize(
    "name",
    ["../../secret", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\\b", "a\0b", "x" * 200],
)
def test_a_list_that_names_a_file_elsewhere_is_refused_unread(folder: Path, name: str) -> None:
    secret = folder.parents[1] / "secret"
    secret.write_bytes(b"of a patient")
    found = json.loads((folder / "version.json").read_bytes())
    found["files"][name] = hashlib.sha256(b"a guess").hexdigest()
    (folder / "version.json").write_text(json.dumps(found))
    for read in (read_version, read_checksums, check_files):
        with pytest.raises(DamagedVersion) as refused:
            read(folder)
        # Not even what it hashes to: that would tell whether a guess was right.
        assert hashlib.sha256(b"of a patient").hexdigest() not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", "{}", '{"version": 1}', '{"version": [], "files": {}}', "\0"),
        *('{"version": 1, "files": []}', '{"version": 1, "files": {"config.json": 5}}'),
        *('{"version": 1, "files": {"config.json": "short"}}', '{"version": 1e999, "files": {}}'),
        "[" * 100_000,
    ],
)
def test_a_list_of_another_shape_is_a_sentence(folder: Path, text: str) -> None:
    (folder / "version.json").write_text(text)
    with pytest.raises(DamagedVersion, match=r"version\.json"):
        read_version(folder)


# What is no plain file


@pytest.mark.parametrize("name", ["member-00.safetensors", "config.json", "version.json"])
@pytest.mark.parametrize("target", ["/dev/zero", "/dev/stdin", "elsewhere", "/proc/self/environ"])
def test_a_link_is_not_followed(folder: Path, name: str, target: str) -> None:
    (folder / name).rename(folder / "elsewhere")
    (folder / name).symlink_to(target)
    with pytest.raises(DamagedVersion, match="cannot be read"):
        read_version(folder)


@pytest.mark.parametrize("name", ["member-00.safetensors", "version.json"])
def test_a_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(DamagedVersion, match="no plain file"):
        read_version(folder)


def test_a_file_without_end_is_not_read(folder: Path) -> None:
    with (folder / "config.json").open("ab") as file:
        file.truncate(MAX_JSON_BYTES + 1)  # sparse: no such disk is needed
    with pytest.raises(DamagedVersion, match="larger than 64 MiB"):
        read_version(folder)


def test_a_pipe_in_place_of_the_compiled_members_is_passed_over(folder: Path) -> None:
    os.mkfifo(folder / "compiled-f32-1.blob")
    assert CompiledCache(folder, b"binding").read("f32", "1") is None


# Folders that lead out of the registry


@pytest.mark.parametrize("name", ["versions", "examples", "rounds", "steps.json", ""])
def test_a_linked_folder_is_neither_written_nor_cleared(tmp_path: Path, name: str) -> None:
    """Clearing up removes what is old and hidden: a link to somebody's home would cost them
    theirs."""
    home = tmp_path / "home"
    for kept in (".ssh", "1", "versions/.ssh", "versions/1"):
        (home / kept).mkdir(parents=True)
        (home / kept / "version.json").write_text("{}")
        os.utime(home / kept, (0, 0))
    (home / "old.npz").touch()
    before = sorted(home.rglob("*"))
    registry = Registry(tmp_path / "registry")
    project = tmp_path / "registry" / "p1"
    project.parent.mkdir()
    if name:
        project.mkdir()
    (project / name if name else project).symlink_to(home)
    acts: dict[str, tuple[Callable[[], object], ...]] = {
        "versions": (
            lambda: registry.prune_versions("p1", []),
            lambda: registry.delete_version("p1", 1),
            lambda: registry.load("p1", 1),
        ),
        "examples": (lambda: registry.prune_examples("p1", set()),),
        "rounds": (
            lambda: registry.prune_rounds("p1", lambda _: True),
            lambda: registry.put_round("p1", 1, "x", b""),
        ),
        "steps.json": (lambda: registry.steps_of_0_2("p1", "key"),),
    }
    for act in acts.get(name, tuple(act for some in acts.values() for act in some)):
        with pytest.raises(LinkInRegistry, match="REGISTRY_URL"):
            act()
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd"])
def test_no_file_of_a_project_is_read_through_a_link(tmp_path: Path, target: str) -> None:
    registry = Registry(tmp_path / "registry")
    for name in ("examples/a.npz", "rounds/1/part.json.gz"):
        path = tmp_path / "registry" / "p1" / name
        path.parent.mkdir(parents=True)
        path.symlink_to(target)
    with pytest.raises(UnknownExample):
        registry.get_example("p1", "a")
    with pytest.raises(UnknownFile, match="part"):
        registry.get_round("p1", 1, "part.json.gz")


def test_a_linked_version_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "version.json").write_text("{}")
    registry = Registry(tmp_path / "registry")
    path = registry.version_path("p1", 1)
    path.parent.mkdir(parents=True)
    path.symlink_to(home)
    registry.delete_version("p1", 1)
    assert (home / "version.json").exists()
    assert not path.is_symlink()


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "a\0", "p1/..", "..\\x", "x" * 300])
def test_no_name_leads_out_of_the_registry(tmp_path: Path, name: str) -> None:
    registry = Registry(tmp_path / "registry")
    for act in (
        lambda: registry.versions(name),
        lambda: registry.put_round("p1", 1, name, b""),
        lambda: registry.example_note("p1", name),
    ):
        with pytest.raises(ValueError, match="expected a name"):
            act()
    assert not (tmp_path / "registry").exists()


# Weights


def safetensors(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


ONE = '{"t": {"dtype": "F32", "shape": [%s], "data_offsets": [%s]}}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        safetensors(b"", 2**63),
        safetensors(b"", 2**64 - 1),
        safetensors(b"{}", 2**31),
        safetensors(b"{" * 1000),
        safetensors(b'{"a":' * 50_000),
        safetensors(b"\xff\xfe\xfd"),
        safetensors((ONE % ("1", "0, 4")).encode()),
        safetensors((ONE % ("1", "4, 0")).encode(), data=b"1234"),
        safetensors((ONE % ("1000000000000", "0, 4")).encode(), data=b"1234"),
        safetensors((ONE % ("4294967296, 4294967296", "0, 4")).encode(), data=b"1234"),
        safetensors((ONE % ("-1", "0, 4")).encode(), data=b"1234"),
        safetensors((ONE % ("1", "0, 18446744073709551615")).encode(), data=b"1234"),
        safetensors(b'{"t": {"dtype": "PICKLE", "shape": [], "data_offsets": [0, 0]}}'),
    ],
)
def test_hostile_safetensors_are_a_sentence(folder: Path, data: bytes) -> None:
    rewrite(folder, "member-00.safetensors", data)
    with pytest.raises(DamagedVersion, match="safetensors"):
        Committee.load(folder, engine="torch")


def test_a_pickle_in_place_of_weights_runs_nothing(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    rewrite(folder, "member-00.safetensors", pickle.dumps(Pickled(mark)))
    rewrite(folder, "member-00.pt", pickle.dumps(Pickled(mark)))
    with pytest.raises(DamagedVersion):
        Committee.load(folder, engine="torch")
    torch.save({"weights": Pickled(mark)}, folder / "member-00.pt")
    rewrite(folder, "member-00.safetensors", (folder / "member-00.pt").read_bytes())
    with pytest.raises(DamagedVersion):
        Committee.load(folder, engine="torch")
    assert not mark.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(
    folder: Path, weights: dict[str, torch.Tensor], value: float
) -> None:
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    changed = {key: tensor.clone() for key, tensor in weights.items()}
    changed[name].flatten()[0] = value
    rewrite(folder, "member-00.safetensors", save(changed))
    with pytest.raises(DamagedVersion, match="not finite"):
        Committee.load(folder, engine="torch")


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    rewrite(folder, "member-00.safetensors", save({"x": torch.zeros(2)}))
    with pytest.raises(DamagedVersion, match="does not fit"):
        Committee.load(folder, engine="torch")


# Configuration


@pytest.mark.parametrize(
    "network", ["os:system", "subprocess:getoutput", "antigravity:fly", "builtins:eval"]
)
@pytest.mark.parametrize("own", [None, "laboratory.networks:make"])
def test_a_network_that_is_not_ours_is_not_even_imported(
    folder: Path, network: str, own: str | None
) -> None:
    rewrite_json(folder, "config.json", network=network)
    with pytest.raises(ForeignNetwork):
        Committee.load(folder, engine="torch", own_network=own)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("members", 10**9), ("members", 2), ("channels", 10**9), ("classes", ["a"])),
        *(("network", "../../x"), ("network", "os.system('x')"), ("zoom", 10**400)),
        *(("steps", "5"), ("extra", 1), ("seed", None), ("zoom", 0)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_hostile_configuration_is_a_sentence(folder: Path, field: str, value: object) -> None:
    rewrite_json(folder, "config.json", **{field: value})
    with pytest.raises((BadConfig, DamagedVersion)):
        read_version(folder)


def test_members_of_another_shape_than_the_configuration_says_are_refused(folder: Path) -> None:
    rewrite_json(folder, "config.json", channels=200)
    with pytest.raises(DamagedVersion, match="does not fit"):
        Committee.load(folder, engine="torch")


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "metrics.json"])
@pytest.mark.parametrize("data", [b"[" * 100_000, b"[]", b"{", b"\xff", b"1e999", b""])
def test_json_that_is_none_is_a_sentence(folder: Path, name: str, data: bytes) -> None:
    rewrite(folder, name, data)
    with pytest.raises((BadConfig, DamagedVersion)):
        Committee.load(folder, engine="torch")


@pytest.mark.parametrize("text", ["0.0", "-1.5", "NaN", "Infinity", '"1.0"', "[]", "null"])
def test_a_temperature_that_divides_nothing_is_refused(folder: Path, text: str) -> None:
    rewrite(folder, "metrics.json", f'{{"temperature": {text}}}'.encode())
    with pytest.raises(DamagedVersion, match="temperature"):
        Committee.load(folder, engine="torch")


@pytest.mark.parametrize(
    "bias",
    [
        *("[]", "{}", "3", '{"background": 1.0}'),
        *('{"background": 1.0, "%s": NaN}', '{"background": 1.0, "%s": 1e300}'),
    ],
)
def test_class_biases_that_are_none_are_refused(folder: Path, bias: str) -> None:
    text = bias.replace("%s", CONFIG.classes[1])
    rewrite(folder, "metrics.json", f'{{"temperature": 1.0, "class_bias": {text}}}'.encode())
    with pytest.raises(DamagedVersion, match="class_bias"):
        Committee.load(folder, engine="torch")


# Compiled members, which OpenVINO reads with no guard of its own


def test_compiled_members_are_read_with_the_seal_alone(folder: Path) -> None:
    blob = folder / "compiled-f32-1.blob"
    ours = CompiledCache.of_version(folder, b"of this installation")
    theirs = CompiledCache.of_version(folder, b"")
    forged = b"written by a stranger"
    plain = hashlib.sha256((folder / "version.json").read_bytes()).digest()
    for digest in (
        hashlib.sha256(plain + forged).digest(),
        hmac.digest(theirs.binding, forged, "sha256"),
        bytes(32),
    ):
        blob.write_bytes(digest + forged)
        assert ours.read("f32", "1") is None
    blob.write_bytes(hmac.digest(ours.binding, forged, "sha256") + forged)
    assert ours.read("f32", "1") == forged


def test_a_seal_is_of_one_version(folder: Path) -> None:
    before = CompiledCache.of_version(folder, b"seal").binding
    rewrite_json(folder, "metrics.json", temperature=2.0)
    assert CompiledCache.of_version(folder, b"seal").binding != before


# What our code never does


FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib"}
LAYERS = ("acquisition", "training", "backend")
SOURCES = [ROOT / "_wsgi.py", *sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))]


def wrongs(tree: ast.AST) -> list[str]:
    """What reads code out of data, or runs text: each with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [
                f"line {node.lineno}: imports {name}"
                for name in names
                if name.partition(".")[0] in FORBIDDEN_MODULES
            ]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        wrong = (
            called in FORBIDDEN_CALLS
            or called in ("os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load")
            or called.startswith(("yaml.unsafe", "yaml.full_load", "subprocess.getoutput"))
            or (called == "torch.load" and keywords.get("weights_only") != "True")
            or (called == "np.load" and keywords.get("allow_pickle", "False") != "False")
            or keywords.get("shell", "False") != "False"
        )
        if wrong:
            found.append(f"line {node.lineno}: {called}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_data_become_code(path: Path) -> None:
    assert wrongs(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        *("eval('1')", "import pickle\npickle.loads(b'')", "import dill", "yaml.load(x)"),
        *("torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)"),
        *("subprocess.run(c, shell=True)", "os.system('x')", "from marshal import loads"),
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert wrongs(ast.parse(source))


def test_reading_a_version_loads_no_pickle(folder: Path) -> None:
    """By Python's own audit hook, whatever library asks for it."""
    code = (
        "import sys; from pathlib import Path\n"
        "from training.committee.committee import Committee\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, _: seen.append(event) if event.startswith('pickle.') "
        "or event in ('os.system', 'subprocess.Popen', 'marshal.loads') else None)\n"
        "Committee.load(Path(sys.argv[1]), engine='torch')\n"
        "print([event for event in seen if event != 'marshal.loads'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr[-2000:]
