"""docker/compose.platform.yaml on top of compose.yaml: valid, confined, and of what is tested."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from backend.cli import cli
from backend.redis_queue import QUEUES, TRAIN_GPU
from backend.settings import ROOT
from tests.compose import assert_confined, read_compose, unknown_settings
from tests.test_docker import COMPOSE, TOOLS

PLATFORM = ROOT / "docker" / "compose.platform.yaml"
PAGE = ROOT / "docs" / "DEPLOYMENT.md"
OURS = ("web", "worker", "worker-train", "migrate")


@pytest.fixture(scope="module")
def platform() -> dict[str, Any]:
    return read_compose(COMPOSE, PLATFORM)


def services(platform: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    return [platform["services"][name] for name in names or platform["services"]]


def test_it_follows_the_schema() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    check = [TOOLS / "check-jsonschema", *schema, PLATFORM]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_image_is_pinned_and_postgresql_is_as_docs_ledger_says(
    platform: dict[str, Any],
) -> None:
    images = {service["image"] for service in services(platform)}
    assert all(re.search(r":\d+\.\d+(\.\d+)?(-[a-z]+)*$", image) for image in images), images
    tested = re.search(r"PostgreSQL (\d+) is tested", (ROOT / "docs" / "LEDGER.md").read_text())
    assert tested is not None
    (postgresql,) = (image for image in images if image.startswith("postgres:"))
    assert postgresql.startswith(f"postgres:{tested[1]}.")


def test_no_service_has_a_privilege_or_may_fill_the_machine(platform: dict[str, Any]) -> None:
    assert_confined(platform)


def test_each_network_holds_those_alone_that_speak_there(platform: dict[str, Any]) -> None:
    members: dict[str, set[str]] = {}
    for name, service in platform["services"].items():
        for network in service["networks"]:
            members.setdefault(network, set()).add(name)
    assert members == {
        "front": {"label-studio", *OURS},
        "queue": {"valkey", *OURS},
        "ledger": {"ledger", *OURS},
        "storage": {"s3", "web", "worker", "worker-train"},
        "label-studio-database": {"label-studio", "label-studio-database"},
    }
    internal = {name for name, value in platform["networks"].items() if value.get("internal")}
    assert internal == set(members) - {"front"}
    published = {name for name, each in platform["services"].items() if each.get("ports")}
    assert published == {"label-studio", "web"}
    of_web = platform["services"]["web"]["networks"]["front"]
    assert of_web == read_compose(COMPOSE)["services"]["web"]["networks"]["front"]


def test_our_services_agree_with_the_others(platform: dict[str, Any]) -> None:
    ledger, s3, studio, database = services(
        platform, "ledger", "s3", "label-studio", "label-studio-database"
    )
    for service in services(platform, *OURS):
        given = service["environment"]
        url = make_url(re.sub(r"\$\{.*?\}", "password", given["LEDGER_URL"]))
        made = ledger["environment"]
        assert (url.host, url.database) == ("ledger", made["POSTGRES_DB"])
        assert url.username == made["POSTGRES_USER"]
        assert made["POSTGRES_PASSWORD"] in given["LEDGER_URL"]
        assert given["REGISTRY_URL"].split("/")[2] == s3["environment"]["S3_BUCKET"]
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert given[name] == s3["environment"][name]
    asked, made = studio["environment"], database["environment"]
    assert asked["POSTGRE_HOST"] == "label-studio-database"
    assert (asked["POSTGRE_NAME"], asked["POSTGRE_USER"], asked["POSTGRE_PASSWORD"]) == (
        *(made["POSTGRES_DB"], made["POSTGRES_USER"], made["POSTGRES_PASSWORD"]),
    )


def test_our_services_are_given_settings_that_exist_and_a_folder_each(
    platform: dict[str, Any],
) -> None:
    for service in services(platform, *OURS):
        assert unknown_settings(service["environment"]) == set()
    folders = [service["volumes"] for service in services(platform, "web", "worker")]
    folders += [platform["services"]["worker-train"]["volumes"]]
    assert len({str(folder) for folder in folders}) == 3
    assert {mount.split(":")[0] for folder in folders for mount in folder} <= set(
        platform["volumes"]
    )


def test_commands_parse_and_every_queue_has_a_worker(platform: dict[str, Any]) -> None:
    taken: list[str] = []
    for service in services(platform, *OURS):
        python, flag, module, name, *words = service["command"]
        assert (python, flag, module) == ("python", "-m", "backend")
        with cli.commands[name].make_context(name, list(words)) as context:
            taken += context.params.get("queues") or ()
    assert sorted(taken) == sorted(set(QUEUES) - {TRAIN_GPU})


def test_web_and_workers_wait_for_the_migration(platform: dict[str, Any]) -> None:
    for service in services(platform, "web", "worker", "worker-train"):
        waits = service["depends_on"]
        assert waits["migrate"] == {"condition": "service_completed_successfully"}
        assert set(waits) == {"label-studio", "valkey", "s3", "migrate"}
    migrate = platform["services"]["migrate"]
    assert migrate["restart"] == "no"
    assert "ledger" in migrate["depends_on"]


def test_every_secret_comes_from_outside_and_the_page_makes_it(
    platform: dict[str, Any], tmp_path: Path
) -> None:
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text() + PLATFORM.read_text()))
    given = {
        value
        for service in services(platform)
        for name, value in service.get("environment", {}).items()
        if re.search("PASS|KEY$|USER_TOKEN|AUTH$|SECRET", name)
    }
    assert all(value.startswith("${") for value in given), given
    commands = re.search(r"```\n(\(umask.*?)```", PAGE.read_text(), re.DOTALL)
    assert commands is not None
    subprocess.run(["sh", "-euc", commands[1]], cwd=tmp_path, check=True)
    file = tmp_path / ".env"
    made = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert set(made) == required
    assert len(set(made.values())) == len(made)
    assert all(re.fullmatch("[0-9a-f]{40,48}", value) for value in made.values()), made
    assert len(made["LABEL_STUDIO_TOKEN"]) == 40
    assert file.stat().st_mode & 0o077 == 0
