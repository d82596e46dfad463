"""What the contracts of import-linter and ruff in pyproject.toml cannot say about imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
# These processes live for hours beside the ones that compute: torch alone is 300 MB, which only
# the web and a job's own process may load.
LIGHT = ("cli", "jobs.worker", "web.serve", "local.supervisor")
HEAVY = ("torch", "openvino", "cv2", "scipy", "matplotlib", "label_studio_sdk", "obstore")


@pytest.mark.parametrize("module", LIGHT)
def test_a_long_lived_process_stays_light(module: str) -> None:
    program = f"import sys, backend.{module}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_neither_the_web_nor_a_job_of_a_round_loads_label_studios_sdk() -> None:
    """Nor does a package that they import; ``backend.label_studio.bulk`` says what it costs."""
    program = """
import importlib, pkgutil, sys
import backend.jobs, backend.predict, backend.rounds, backend.web
for package in (backend.jobs, backend.rounds, backend.web):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(*sorted(set(sys.modules) & {"label_studio_sdk", "httpx", "pandas"}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_acquisition_needs_numpy_and_torch_only() -> None:
    graph = grimp.build_graph("acquisition", include_external_packages=True)
    imported = set().union(*(graph.find_modules_directly_imported_by(m) for m in graph.modules))
    outside = {name.partition(".")[0] for name in imported} - {"acquisition"}
    assert outside - sys.stdlib_module_names == {"numpy", "torch"}
