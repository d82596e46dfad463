"""The image and the compose file: linted, valid, and their commands run here without Docker."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from ruamel.yaml import YAML

from backend import __version__
from backend.settings import ROOT, Settings
from tests.limits import wait_until
from tests.live.harness.servers import Process, ValkeyServer, free_port, start_valkey

DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"
TOOLS = Path(sys.executable).parent
START_LIMIT_S = 60


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(YAML(typ="safe").load(COMPOSE))


def instructions(keyword: str) -> list[str]:
    """The arguments of each instruction, continuation lines joined."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return re.findall(rf"^{keyword} +(.*)$", text, re.MULTILINE)


def in_json(instruction: str) -> list[str]:
    """The exec form's words."""
    words: list[str] = YAML(typ="safe").load(instruction[instruction.index("[") :])
    return words


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [TOOLS / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_compose_file_follows_the_schema() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    done = subprocess.run(
        [TOOLS / "check-jsonschema", *schema, COMPOSE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_image_is_pinned_by_its_version(compose: dict[str, Any]) -> None:
    images = [line.split()[0] for line in instructions("FROM")]
    images += [service["image"] for service in compose["services"].values()]
    assert all(re.search(r":\d+\.\d+\.\d+(-[a-z]+)*$", image) for image in images), images


def test_label_studio_is_the_one_that_the_tests_run(compose: dict[str, Any]) -> None:
    pinned = (ROOT / "requirements-label-studio.txt").read_text()
    version = re.search(r"^label-studio==(\S+)$", pinned, re.MULTILINE)
    assert version is not None
    assert compose["services"]["label-studio"]["image"].endswith(f":{version[1]}")


def test_our_own_image_is_of_this_version(compose: dict[str, Any]) -> None:
    assert compose["x-committee"]["image"] == f"committee:{__version__}"


def test_label_studio_may_reach_a_private_network(compose: dict[str, Any]) -> None:
    environment = compose["services"]["label-studio"]["environment"]
    assert environment["ML_BLOCK_LOCAL_IP"] == "false"
    assert environment["SSRF_PROTECTION_ENABLED"] == "false"
    assert environment["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] == "true"
    assert "TASK_LOCK_TTL" in environment


def test_web_and_worker_are_given_settings_that_exist(compose: dict[str, Any]) -> None:
    names = {name.upper() for name in Settings.model_fields}
    for role in ("web", "worker"):
        assert set(compose["services"][role]["environment"]) <= names
    assert {
        name for line in instructions("ENV") for name in re.findall(r"(\w+)=", line)
    } - names == {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}


def test_no_service_but_label_studio_and_the_web_is_reached_from_outside(
    compose: dict[str, Any],
) -> None:
    published = {
        name: ports for name, s in compose["services"].items() if (ports := s.get("ports"))
    }
    assert set(published) == {"label-studio", "web"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_the_worker_yields_to_the_web_within_a_group_that_they_share(
    compose: dict[str, Any],
) -> None:
    web, worker = (compose["services"][role] for role in ("web", "worker"))
    assert web["cgroup_parent"] == worker["cgroup_parent"]
    assert web["cgroup_parent"].endswith(".slice")  # systemd's driver takes no other name
    assert worker["cpu_shares"] < web.get("cpu_shares", 1024)
    others = [compose["services"][name] for name in ("label-studio", "valkey")]
    assert not any("cgroup_parent" in service for service in others)


def test_the_image_does_not_run_as_root() -> None:
    user = instructions("USER")[-1]
    assert int(user.split(":")[0]) > 0


def test_every_secret_comes_from_outside(compose: dict[str, Any]) -> None:
    values = [
        value
        for service in compose["services"].values()
        for name, value in service.get("environment", {}).items()
        if re.search("PASS|KEY|USER_TOKEN", name)
    ]
    assert len(values) >= 4
    assert all(value.startswith("${") for value in values), values


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image would hold in /app, and nothing else of the checkout."""
    app = tmp_path_factory.mktemp("app")
    for line in instructions("COPY"):
        if line.startswith("--from") or line.startswith("requirements"):
            continue
        source, target = line.split()
        if (ROOT / source).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, app / target, ignore=ignore)
        else:
            shutil.copy2(ROOT / source, app / target)
    return app


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = start_valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def environment(compose: dict[str, Any], valkey: ValkeyServer, tmp_path: Path) -> dict[str, str]:
    """The container's environment, its addresses moved to this machine."""
    of_image = dict(
        shlex.split(pair)[0].split("=", 1)
        for line in instructions("ENV")
        for pair in line.split()
        if not pair.startswith("PATH")
    )
    of_compose: dict[str, str] = compose["services"]["web"]["environment"]
    port = free_port()
    return {
        **{k: v for k, v in os.environ.items() if k.lower() not in Settings.model_fields},
        **of_image,
        # Unset variables reach a container as empty ones.
        **{name: re.sub(r"\$\{.*\}", "", value) for name, value in of_compose.items()},
        "LABEL_STUDIO_API_KEY": "0" * 40,
        "LABEL_STUDIO_URL": f"http://127.0.0.1:{free_port()}",  # down, as at the first start
        "REDIS_URL": valkey.url,
        "DATA_DIR": str(tmp_path / "data"),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "WORKERS": "1",
    }


def passes(check: list[str], environment: dict[str, str]) -> bool:
    done = subprocess.run(check, env=environment, capture_output=True, check=False)
    return done.returncode == 0


def here(command: list[str]) -> list[str]:
    assert command[0] == "python"
    return [sys.executable, *command[1:]]


def test_the_images_own_command_serves_and_its_healthcheck_agrees(
    image: Path, environment: dict[str, str], compose: dict[str, Any], tmp_path: Path
) -> None:
    command = in_json(instructions("CMD")[-1])
    assert command == compose["services"]["web"]["command"]
    web = Process(here(command), tmp_path / "web.log", environment, cwd=image)
    check = here(in_json(instructions("HEALTHCHECK")[0]))

    def healthy() -> bool:
        assert web.alive(), web.tail()
        return passes(check, environment)

    try:
        wait_until(healthy, START_LIMIT_S, "the image's HEALTHCHECK")
        url = f"http://127.0.0.1:{environment['PORT']}"
        assert requests.get(f"{url}/health", timeout=5).json()["status"] == "UP"
        assert requests.post(f"{url}/setup", json={}, timeout=5).status_code == 401
    finally:
        web.stop()
    assert not passes(check, environment)


def test_the_workers_command_works_and_its_healthcheck_agrees(
    image: Path, environment: dict[str, str], compose: dict[str, Any], tmp_path: Path
) -> None:
    service = compose["services"]["worker"]
    worker = Process(here(service["command"]), tmp_path / "worker.log", environment, cwd=image)
    kind, line = service["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    check = ["sh", "-c", line.replace("/data/", f"{environment['DATA_DIR']}/")]

    def healthy() -> bool:
        assert worker.alive(), worker.tail()
        return passes(check, environment)

    try:
        wait_until(healthy, START_LIMIT_S, "the worker's healthcheck")
    finally:
        worker.stop()
    assert worker.popen.returncode != -signal.SIGKILL, "docker stop would have had to kill it"
    assert not passes(check, environment)
