"""Imports point one way, `_wsgi -> backend -> training -> acquisition`; this reads them all."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each layer may import those to its right.
LAYERS = ("_wsgi", "backend", "training", "acquisition")
# Label Studio's REST is spoken and images are fetched in the first two; the others ask our own
# processes, and the doctor Label Studio too, whether they answer.
SPEAK_HTTP = {
    "backend/label_studio/client.py",
    "backend/label_studio/ssrf.py",
    "backend/label_studio/images.py",
    "backend/local/supervisor.py",
    "backend/insight/installation_checks.py",
}
HTTP_CLIENTS = {"requests", "httpx", "aiohttp", "urllib3", "http.client", "urllib.request"}
# The worker's parent and the command line hold these for hours; torch is 300 MB that only the
# job's own process may load.
LIGHT = ("ledger.ledger", "settings", "jobs.jobs", "label_studio.client", "jobs.worker", "cli")
HEAVY = ("torch", "openvino", "cv2", "scipy")


def source_files(layer: str) -> list[Path]:
    single = ROOT / f"{layer}.py"
    return [single] if single.exists() else sorted((ROOT / layer).rglob("*.py"))


def imported_modules(source: str) -> Iterator[str]:
    """Every module that the source names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}: write it out"
            assert node.module is not None
            yield node.module
            # `from backend import studio` names the module backend.studio.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(file: Path) -> set[str]:
    return set(imported_modules(file.read_text(encoding="utf-8")))


def tops(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


ALL_FILES = [(layer, file) for layer in LAYERS for file in source_files(layer)]


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def test_every_package_has_files_to_read() -> None:
    assert {layer for layer, _ in ALL_FILES} >= {"backend", "training", "acquisition"}


@pytest.mark.parametrize(
    ("layer", "file"), [pytest.param(*pair, id=name_of(pair[1])) for pair in ALL_FILES]
)
class TestEveryFile:
    def test_imports_no_layer_above_its_own(self, layer: str, file: Path) -> None:
        above = set(LAYERS[: LAYERS.index(layer)])
        assert not tops(imports_of(file)) & above

    def test_imports_no_tests(self, layer: str, file: Path) -> None:
        assert "tests" not in tops(imports_of(file))

    def test_leaves_http_to_the_files_that_speak_it(self, layer: str, file: Path) -> None:
        if name_of(file) not in SPEAK_HTTP:
            assert not imports_of(file) & HTTP_CLIENTS


@pytest.mark.parametrize("file", source_files("acquisition"), ids=name_of)
def test_acquisition_needs_numpy_and_torch_only(file: Path) -> None:
    allowed = {"acquisition", "numpy", "torch"} | sys.stdlib_module_names
    assert tops(imports_of(file)) <= allowed


@pytest.mark.parametrize("file", source_files("training"), ids=name_of)
def test_training_knows_no_label_studio(file: Path) -> None:
    assert not {top for top in tops(imports_of(file)) if top.startswith("label_studio")}


@pytest.mark.parametrize(
    "module",
    [name for name in LIGHT if (ROOT / "backend" / f"{name.replace('.', '/')}.py").exists()],
)
def test_a_long_lived_process_stays_light(module: str) -> None:
    program = f"import sys, backend.{module}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


class TestTheReaderItself:
    @pytest.mark.parametrize(
        ("source", "modules"),
        [
            ("import torch.nn as nn", {"torch.nn"}),
            ("from backend import studio", {"backend", "backend.studio"}),
            ("def f():\n    import requests", {"requests"}),
            ("if True:\n    from a.b import c", {"a.b", "a.b.c"}),
        ],
    )
    def test_it_finds_imports_wherever_they_stand(self, source: str, modules: set[str]) -> None:
        assert set(imported_modules(source)) == modules

    def test_it_refuses_a_relative_import(self) -> None:
        with pytest.raises(AssertionError, match="line 1"):
            list(imported_modules("from . import studio"))
