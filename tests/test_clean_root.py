"""The steps of docker/Dockerfile and every command of docker/, in a clean Debian without Docker.

`make soak` alone: it takes some minutes and 3 GB of disk. Commands run as the image's user, with a
read-only root, in a mount namespace of their own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from backend.settings import ROOT
from tests.compose import read_compose
from tests.limits import wait_until
from tests.live.harness.servers import Process, ValkeyServer, free_port, start_valkey
from tests.test_docker import COMPOSE, DOCKERFILE, copied, in_json, instructions, passes
from tests.test_kubernetes import WRITTEN, pods
from tests.test_platform import OURS, PLATFORM

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

USER = instructions("USER")[-1]
PATH = "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_LIMIT_S = 120

APART = ("/usr/bin/unshare", "--mount", "--propagation", "private")
"""What is mounted below it, nobody else sees, and it goes with the process."""


def commands() -> dict[str, list[str]]:
    """Each command that the image, a service or a pod runs, once."""
    found = [in_json(instructions("CMD")[-1])]
    found += [read_compose(COMPOSE, PLATFORM)["services"][name]["command"] for name in OURS]
    found += [read_compose(COMPOSE)["services"][name]["command"] for name in ("web", "worker")]
    # The example of a pass needs a version and a pool; tests/training/batch runs it.
    found += [each["command"] for _, _, each in pods(WRITTEN) if each["name"] != "infer"]
    return {shlex.join(command[2:]): command for command in found}


def inside(root: Path, binds: Mapping[Path, str], *, read_only: bool) -> list[str]:
    """What runs the command that follows it in ``root``, with places of this machine in it."""
    lines = [f"mount --bind {root} {root}", f"mount --bind /dev {root}/dev"]
    lines += [f"mount -t tmpfs tmpfs {root}{folder}" for folder in ("/dev/shm", "/tmp")]
    lines += [f"mount -t proc proc {root}/proc"]
    lines += [f"mount --bind {place} {root}{target}" for place, target in binds.items()]
    if read_only:
        lines.append(f"mount -o remount,bind,ro {root}")
    user = USER if read_only else "0:0"
    folder = "/app" if read_only else "/build"
    lines.append(f'exec chroot --userspec={user} {root} sh -c \'cd {folder} && exec "$@"\' sh "$@"')
    script = "\n".join(lines)
    return [*APART, "sh", "-euc", script, "sh"]


def pip_sources(root: Path) -> tuple[dict[str, str], dict[Path, str]]:
    """What pip is told on this machine: (variables, places that they name)."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    told = dict(re.findall(r"^global\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE))
    variables = {f"PIP_{name.replace('-', '_').upper()}": value for name, value in told.items()}
    variables |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    binds = {Path("/etc/resolv.conf"): "/etc/resolv.conf"}
    for word in " ".join(variables.values()).split():
        place = Path(word.removeprefix("file://"))
        if place.is_dir() and place.is_absolute():
            place = Path(*place.parts[:3])  # an index's pages name files beside their folder
            (root / place.relative_to("/")).mkdir(parents=True, exist_ok=True)
            binds[place] = str(place)
        elif place.is_file():
            (root / place.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
            (root / place.relative_to("/")).touch()
            binds[place] = str(place)
    return variables, binds


def copy_stage(stage: int, folder: Path) -> None:
    for *sources, target in copied(stage):
        for source in sources:
            to = folder / target
            if (ROOT / source).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, to, ignore=ignore)
            else:
                shutil.copy2(ROOT / source, to)


def make_root(folder: Path) -> None:
    suite = re.search(r"^FROM python:\S+-slim-(\w+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert suite is not None
    packages = "--include=python3,python3-venv,ca-certificates"
    made = ["debootstrap", "--variant=minbase", packages, suite[1], str(folder)]
    run([*APART, *made])  # it may leave /proc mounted
    (folder / "usr/local/bin/python").symlink_to("/usr/bin/python3")  # as python:slim has it
    (folder / "build").mkdir()
    copy_stage(1, folder / "build")
    (folder / "app").mkdir()
    copy_stage(2, folder / "app")
    (argument,) = instructions("ARG")
    name, _, value = argument.partition("=")
    variables, binds = pip_sources(folder)
    environment = {name: value, **variables, "PATH": PATH, "HOME": "/root"}
    for step in instructions("RUN"):
        here = inside(folder, binds, read_only=False)
        run([*here, "sh", "-euc", step], {**os.environ, **environment})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Debian with what the image holds, made by the steps of its Dockerfile."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("debootstrap makes the clean root: it is not installed, or this is not root")
    folder = tmp_path_factory.mktemp("debian")
    folder.chmod(0o755)
    folder = folder / "root"
    try:
        make_root(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[:3]}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = start_valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.mark.parametrize("name", commands())
def test_a_command_of_the_image_works(
    name: str, root: Path, valkey: ValkeyServer, tmp_path: Path
) -> None:
    of_image = dict(
        pair.split("=", 1) for line in instructions("ENV") for pair in shlex.split(line)
    )
    environment = {
        **of_image,
        "PATH": PATH,
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "LABEL_STUDIO_URL": f"http://127.0.0.1:{free_port()}",  # down, as at the first start
        "LABEL_STUDIO_API_KEY": "0" * 40,
        "REDIS_URL": valkey.url,
        "BASIC_AUTH_PASS": "a long password",
        "WORKERS": "1",
    }
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    os.chown(data, *map(int, USER.split(":")))
    for parent in data.parents:
        if parent.name.startswith(("pytest-", "test_")):
            parent.chmod(0o755)
    here = inside(root, {data: "/data"}, read_only=True)
    command = list(commands()[name])
    if "--burst" in command:
        command.insert(command.index("--burst") + 1, "1")
    if name.endswith("migrate") or "--burst" in command:
        run([*here, *command], environment)
        assert (data / "ledger.sqlite3").is_file()
        return
    if name.endswith("serve"):
        check = in_json(instructions("HEALTHCHECK")[0])
    else:
        check = ["sh", "-c", read_compose(COMPOSE)["services"]["worker"]["healthcheck"]["test"][1]]
    process = Process([*here, *command], tmp_path / "process.log", environment)

    def healthy() -> bool:
        assert process.alive(), process.tail()
        return passes([*here, *check], environment)

    try:
        wait_until(healthy, START_LIMIT_S, f"the healthcheck of {name}", every_s=1)
        assert {path.stat().st_uid for path in data.rglob("*")} == {int(USER.split(":")[0])}
    finally:
        process.stop()
    assert process.popen.returncode != -signal.SIGKILL, "docker stop would have had to kill it"
    assert not passes([*here, *check], environment)
