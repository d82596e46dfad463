"""Environments are made once, completed when half made, and failures say what to do."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.installation import EnvironmentFailed, ensure_environment
from backend.settings import ROOT


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half made, as a Ctrl-C or a Python that is gone leaves it; the first test completes it.

    Shared, since that takes seconds.
    """
    folder = tmp_path_factory.mktemp("environments") / "env"
    (folder / "lib" / "left").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(folder / "gone")
    return folder


@pytest.fixture
def empty(environment: Path) -> Path:
    """The same without what other tests installed into it, for what must not be installed."""
    remove_packages(environment)
    return environment


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip can install: tiny-package, which asks for tiny-part."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    build_wheel(folder, "tiny_package", "Requires-Dist: tiny-part\n")
    build_wheel(folder, "tiny_part")
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder), "NO_CACHE_DIR": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


@pytest.fixture
def package(tmp_path: Path, wheels: Path) -> Path:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("tiny_package\n")
    return requirements


@pytest.fixture
def lock(tmp_path: Path, wheels: Path) -> Path:
    path = tmp_path / "lock.txt"
    path.write_text("# Made by hand.\n" + "".join(map(locked, sorted(wheels.iterdir()))))
    return path


def build_wheel(folder: Path, name: str, metadata: str = "", code: str = "") -> None:
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


BACKEND = """
import shutil
{code}
def build_wheel(folder, *others):
    return shutil.copy("tiny_source-1.0-py3-none-any.whl", folder).rpartition("/")[2]
"""
PROJECT = """[build-system]
requires = []
build-backend = "builds"
backend-path = ["."]
"""


def build_source(folder: Path, code: str) -> Path:
    """A package as source, whose building runs ``code``."""
    inside = folder.parent / "source"
    inside.mkdir(exist_ok=True)
    build_wheel(inside, "tiny_source")
    (inside / "builds.py").write_text(BACKEND.format(code=code))
    (inside / "pyproject.toml").write_text(PROJECT)
    (inside / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tiny-source\nVersion: 1.0\n")
    archive = folder / "tiny-source-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(inside, "tiny-source-1.0")
    return archive


def locked(wheel: Path) -> str:
    """A pin as uv writes it; the first hash is of a file for another platform."""
    name = wheel.name.partition("-1.0")[0].replace("_", "-")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"{name}==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{digest}\n"


def remove_packages(environment: Path) -> None:
    """All that was installed, and the stamps that say so."""
    for path in (
        *environment.glob("lib/*/site-packages/tiny_*"),
        *environment.glob(".committee-*"),
    ):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def imports(environment: Path, name: str) -> bool:
    command = [environment / "bin" / "python", "-c", f"import {name}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_half_made_environment_is_completed_once_and_again_when_a_pin_changes(
    package: Path, lock: Path, environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ensure_environment(environment, [package], locks=[lock], announce="Once.")
    assert imports(environment, "tiny_package")
    assert imports(environment, "tiny_part")
    assert not (environment / "lib" / "left").exists()
    assert "Once." in capsys.readouterr().out
    assert not ensure_environment(environment, [package], locks=[lock], announce="Once.")
    assert capsys.readouterr().out == ""
    package.write_text(package.read_text() + "# another release\n")
    assert ensure_environment(environment, [package], locks=[lock])


def test_the_versions_are_those_of_the_locks(package: Path, lock: Path, environment: Path) -> None:
    lock.write_text("tiny-package==2.0\n")
    with pytest.raises(EnvironmentFailed, match=r"tiny[-_]package"):
        ensure_environment(environment, [package], locks=[lock])


@pytest.mark.parametrize("changed", ["tiny_package", "tiny_part"])
def test_a_file_that_the_locks_do_not_know_is_not_installed(
    package: Path, lock: Path, wheels: Path, empty: Path, changed: str
) -> None:
    package.write_text("tiny_package\ntiny_part\n")
    build_wheel(wheels, changed, code="by = 'somebody else'")
    with pytest.raises(EnvironmentFailed, match="DO NOT MATCH THE HASHES"):
        ensure_environment(empty, [package], locks=[lock])
    assert not imports(empty, changed)


def test_without_requirements_all_that_the_locks_name_for_this_platform_is_installed(
    lock: Path, environment: Path
) -> None:
    elsewhere = "tiny-elsewhere==1.0 ; sys_platform == 'nowhere' \\\n    --hash=sha256:" + "0" * 64
    lock.write_text(f"{lock.read_text()}{elsewhere}\n")
    assert ensure_environment(environment, [], locks=[lock])
    assert imports(environment, "tiny_part")
    assert not ensure_environment(environment, [], locks=[lock])


def test_a_package_without_a_hash_is_not_installed(package: Path, lock: Path, empty: Path) -> None:
    lock.write_text("tiny-package==1.0\ntiny-part==1.0\n")
    with pytest.raises(EnvironmentFailed, match="Hashes are required"):
        ensure_environment(empty, [package], locks=[lock])
    assert not imports(empty, "tiny_package")


def test_source_is_built_after_its_hash_was_checked(
    package: Path, lock: Path, wheels: Path, tmp_path: Path, environment: Path
) -> None:
    traces = tmp_path / "traces"
    leave = f"open({str(traces)!r}, 'w').close()"
    lock.write_text(lock.read_text() + locked(build_source(wheels, leave)))
    source = tmp_path / "source.txt"
    source.write_text("# Without a wheel.\ntiny-source==1.0\n")
    package.write_text("tiny_package\ntiny_source\n")
    assert ensure_environment(environment, [package], locks=[lock], sources=[source])
    assert imports(environment, "tiny_source")
    assert traces.exists()

    traces.unlink()
    remove_packages(environment)
    build_source(wheels, f"by = 'somebody else'; {leave}")
    with pytest.raises(EnvironmentFailed, match="DO NOT MATCH THE HASHES"):
        ensure_environment(environment, [package], locks=[lock], sources=[source])
    with pytest.raises(EnvironmentFailed, match="tiny_source"):  # not named as such
        ensure_environment(environment, [package], locks=[lock])
    assert not traces.exists()


@pytest.mark.parametrize(
    ("constraints", "requirements"),
    [
        (
            "constraints.txt",
            (
                *("requirements.txt", "requirements-nodeps.txt"),
                *("requirements-dev.txt", "requirements-dev-nodeps.txt"),
            ),
        ),
        (
            "constraints-label-studio.txt",
            ("requirements-label-studio.txt", "requirements-label-studio-source.txt"),
        ),
        ("constraints-tools.txt", ("requirements-audit.txt", "requirements-docs.txt")),
    ],
)
def test_the_constraints_hold_every_pin(constraints: str, requirements: tuple[str, ...]) -> None:
    locked = set(pins(constraints))
    asked = {pin for name in requirements for pin in pins(name)}
    assert asked - locked == set(), "run `make lock`"


@pytest.mark.parametrize("lock", sorted(ROOT.glob("constraints*.txt")), ids=lambda path: path.stem)
def test_everything_in_a_lock_has_hashes(lock: Path) -> None:
    lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if not line.startswith(" "):
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", following), line


def test_the_builds_of_torch_without_cuda_are_of_the_same_version() -> None:
    (torch,) = pins("constraints-torch-cpu.txt")
    assert torch in set(pins("requirements.txt")), "constraints-torch-cpu.txt says how it is made"


def pins(name: str) -> Iterator[str]:
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith(("#", " ")):
            package, _, version = re.split("[;\\\\]", line)[0].strip().partition("==")
            yield f"{re.sub('[-_.]+', '-', package.lower())}=={version}"


def test_a_failed_installation_shows_pips_words_and_is_tried_again(
    package: Path, lock: Path, environment: Path
) -> None:
    right = package.read_text()
    package.write_text("./no-such-package.whl\n")
    with pytest.raises(
        EnvironmentFailed, match=r"no-such-package(.|\n)*run the same command again"
    ):
        ensure_environment(environment, [package], locks=[lock])
    package.write_text(right)
    assert ensure_environment(environment, [package], locks=[lock])


def test_an_environment_whose_python_is_gone_is_made_again(
    package: Path, lock: Path, environment: Path
) -> None:
    ensure_environment(environment, [package], locks=[lock])
    (environment / "bin" / "python").unlink()
    with pytest.raises(EnvironmentFailed, match="-m venv"):
        ensure_environment(environment, [package], locks=[lock], python="false")
    assert not (environment / "bin").exists()


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
