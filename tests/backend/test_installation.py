"""Environments are made once, completed when half made, and failures say what to do."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.installation import EnvironmentFailed, ensure_environment
from backend.settings import ROOT


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, since making one takes seconds."""
    return tmp_path_factory.mktemp("environments") / "env"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A requirement that pip can install with nothing from outside."""
    folder = tmp_path / "package"
    folder.mkdir()
    wheel = folder / "tiny_package-1.0-py3-none-any.whl"
    build_wheel(wheel)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"{wheel}\n")
    return requirements


def build_wheel(path: Path) -> None:
    info = "tiny_package-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_package.py", "")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def imports(environment: Path, name: str) -> bool:
    command = [environment / "bin" / "python", "-c", f"import {name}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_an_environment_is_made_once_and_again_when_a_pin_changes(
    package: Path, environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ensure_environment(environment, [package], announce="Once.")
    assert imports(environment, "tiny_package")
    assert "Once." in capsys.readouterr().out
    assert not ensure_environment(environment, [package], announce="Once.")
    assert capsys.readouterr().out == ""
    package.write_text(package.read_text() + "# another release\n")
    assert ensure_environment(environment, [package])


def test_a_constraint_is_obeyed_and_a_changed_one_installs_again(
    package: Path, environment: Path, tmp_path: Path
) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("tiny-package==1.0\n")
    assert ensure_environment(environment, [package], constraints=[constraints])
    assert not ensure_environment(environment, [package], constraints=[constraints])
    constraints.write_text("tiny-package==2.0\n")
    with pytest.raises(EnvironmentFailed, match=r"tiny[-_]package"):
        ensure_environment(environment, [package], constraints=[constraints])


@pytest.mark.parametrize(
    ("constraints", "requirements"),
    [
        ("constraints.txt", ("requirements.txt", "requirements-dev.txt")),
        ("constraints-label-studio.txt", ("requirements-label-studio.txt",)),
    ],
)
def test_the_constraints_hold_every_pin(constraints: str, requirements: tuple[str, ...]) -> None:
    locked = set(pins(constraints))
    asked = {pin for name in requirements for pin in pins(name)}
    assert asked - locked == set(), "run `make lock`"


def pins(name: str) -> Iterator[str]:
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith("#"):
            package, _, version = line.partition(";")[0].strip().partition("==")
            yield f"{re.sub('[-_.]+', '-', package.lower())}=={version}"


def test_a_half_made_environment_is_completed(package: Path, environment: Path) -> None:
    ensure_environment(environment, [package])
    (environment / "bin" / "python").unlink()
    assert ensure_environment(environment, [package])
    assert imports(environment, "tiny_package")


def test_a_failed_installation_shows_pips_words_and_is_tried_again(
    package: Path, environment: Path
) -> None:
    right = package.read_text()
    package.write_text("./no-such-package.whl\n")
    with pytest.raises(
        EnvironmentFailed, match=r"no-such-package(.|\n)*run the same command again"
    ):
        ensure_environment(environment, [package])
    package.write_text(right)
    assert ensure_environment(environment, [package])


def test_it_runs_on_a_bare_python() -> None:
    # -I leaves the checkout out of the path, -S the installed packages.
    script = ROOT / "backend" / "installation.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", script, "--help"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_module_beside_it_hides_one_of_the_standard_library() -> None:
    """Python puts the folder of the file that it runs first on the path."""
    beside = {path.stem for path in (ROOT / "backend").iterdir()}
    assert not beside & sys.stdlib_module_names


def test_make_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    told = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("run", "test", "soak", "check", "audit", "lock", "bench"):
        assert f"\n{target}:" in makefile
        assert f"make {target} " in told
