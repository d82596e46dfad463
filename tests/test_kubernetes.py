"""docker/kubernetes/: valid, restricted, and with names, queues and commands of ours."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from backend import __version__
from backend.cli import cli
from backend.redis_queue import QUEUES, TRAIN_GPU, redis_name
from backend.settings import ROOT, load_settings
from tests.compose import unknown_settings
from tests.test_docker import COMPOSE
from training.__main__ import cli as training_cli

FOLDER = ROOT / "docker" / "kubernetes"
OVERLAYS = ("base", "keda", "gpu")
VERSIONS = ("1.30", "1.37")
"""The oldest that docs/DEPLOYMENT.md promises, and the newest whose schema there is."""

KEDA = json.loads((ROOT / "tests" / "schemas" / "keda" / "keda-2.20.2.json").read_text())

Manifest = dict[str, Any]


def read(text: str | Path) -> list[Manifest]:
    return [dict(each) for each in YAML(typ="safe").load_all(text)]


WRITTEN = [
    manifest
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name not in ("kustomization.yaml", "references.yaml")
    for manifest in read(path)
]

GIVEN = [
    (name, value)
    for path in (FOLDER / "secrets.example.env", FOLDER / "base" / "settings.env")
    for name, equals, value in (line.partition("=") for line in path.read_text().splitlines())
    if equals and not name.startswith("#")
]
"""Settings and secrets: (variable, value or "")."""


@pytest.fixture(scope="module")
def overlays() -> dict[str, list[Manifest]]:
    """What each folder's kustomization makes."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: what kustomize makes is not looked at")
    made = {}
    for name in OVERLAYS:
        command = ["kubectl", "kustomize", FOLDER / name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        made[name] = read(done.stdout)
    return made


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def pod_of(manifest: Manifest) -> Manifest | None:
    """A workload's pod template."""
    spec = manifest.get("spec", {})
    template: Manifest | None = spec.get("jobTargetRef", spec).get("template")
    return template


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """(name, pod template, its one container) of each workload."""
    for manifest in manifests:
        if (template := pod_of(manifest)) is not None:
            (container,) = template["spec"]["containers"]
            yield name_of(manifest), template, container


def queues_of(container: Manifest) -> list[str]:
    command = container["command"]
    return command[-1].split(",") if "--queues" in command else []


def check_schemas(manifest: Manifest) -> None:
    kind = manifest["kind"]
    if kind in KEDA:
        jsonschema_rs.validate(KEDA[kind], manifest)
        if kind != "ScaledJob":
            return
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": manifest["metadata"]}
        manifest = {**job, "spec": manifest["spec"]["jobTargetRef"]}
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("manifest", WRITTEN, ids=name_of)
def test_a_manifest_follows_the_schema(manifest: Manifest) -> None:
    check_schemas(manifest)


def test_what_kustomize_makes_follows_the_schema(overlays: dict[str, list[Manifest]]) -> None:
    for manifest in overlays["gpu"]:  # it holds what the others have, with its own changes
        check_schemas(manifest)


def test_a_misspelt_field_is_refused() -> None:
    (scaled,) = (each for each in WRITTEN if each["kind"] == "ScaledJob")
    with pytest.raises(jsonschema_rs.ValidationError):
        check_schemas({**scaled, "spec": {**scaled["spec"], "maxReplicas": 1}})
    web = next(each for each in WRITTEN if name_of(each) == "Deployment web")
    with pytest.raises(kubernetes_validate.ValidationError):
        check_schemas({**web, "spec": {**web["spec"], "replica": 1}})


def test_pods_are_restricted_limited_and_of_one_user() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "docker" / "Dockerfile").read_text(), re.M)
    assert user is not None
    for name, template, container in pods(WRITTEN):
        spec = template["spec"]
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": int(user[1]),
            "runAsGroup": int(user[2]),
            "fsGroup": int(user[2]),
            "seccompProfile": {"type": "RuntimeDefault"},
        }, name
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert spec["automountServiceAccountToken"] is False, name
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
        assert container["resources"]["limits"].keys() >= {"memory"}, name
        assert all(each.get("emptyDir", {"sizeLimit": 1})["sizeLimit"] for each in spec["volumes"])
    (namespace,) = (each for each in WRITTEN if each["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_selector_finds_its_pods() -> None:
    labels = [template["metadata"]["labels"] for _, template, _ in pods(WRITTEN)]
    for manifest in WRITTEN:
        spec = manifest.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if selector is None:
            continue
        wanted = selector.get("matchLabels", selector)
        found = [each for each in labels if each.items() >= wanted.items()]
        assert found, name_of(manifest)
        if manifest["kind"] == "Deployment":
            assert pod_of(manifest)["metadata"]["labels"] == wanted  # type: ignore[index]
    assert all(each["app.kubernetes.io/name"] == "committee" for each in labels)


def test_alive_and_ready_are_asked_apart_and_workers_as_in_compose() -> None:
    found = {name: container for name, _, container in pods(WRITTEN)}
    web = found.pop("Deployment web")
    asked = {name: probe["httpGet"]["path"] for name, probe in web.items() if "Probe" in name}
    assert asked == {
        "startupProbe": "/health",
        "livenessProbe": "/health",
        "readinessProbe": "/ready",
    }
    compose = YAML(typ="safe").load(COMPOSE)
    _, line = compose["services"]["worker"]["healthcheck"]["test"]
    workers = {name: each for name, each in found.items() if " worker-" in name}
    assert len(workers) == 4
    for container in workers.values():
        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["exec"]["command"] == ["sh", "-c", line]


def test_every_command_parses() -> None:
    for name, _, container in pods(WRITTEN):
        if container["name"] == "infer":
            continue  # the next test
        python, flag, module, command, *words = container["command"]
        assert (python, flag, module) == ("python", "-m", "backend"), name
        cli.commands[command].make_context(command, list(words)).close()


def test_the_example_of_a_pass_parses(tmp_path: Path) -> None:
    (job,) = (each for each in WRITTEN if each["metadata"]["name"] == "committee-infer")
    assert job["spec"]["completionMode"] == "Indexed"
    (_, _, container) = next(pods([job]))
    shell, flag, line = container["command"]
    assert (shell, flag) == ("sh", "-c")
    (tmp_path / "pool.jsonl").touch()
    (tmp_path / "pool").mkdir()
    line = line.replace("/work/", f"{tmp_path}/").replace("=/pool", f"={tmp_path}/pool")
    line = line.replace("$JOB_COMPLETION_INDEX", "7")
    _, _, flag, module, command, *words = shlex.split(line)
    assert (flag, module, command) == ("-m", "training", "infer")
    with training_cli.commands[command].make_context(command, words) as context:
        shard = context.params["shard"]
    assert str(job["spec"]["completions"]) in str(shard)


def test_every_setting_exists_and_none_stands_twice() -> None:
    names = [name for name, _ in GIVEN]
    assert unknown_settings(names) == set()
    assert len(set(names)) == len(names)
    for name, _, container in pods(WRITTEN):
        assert "env" not in container, name
        for source in container.get("envFrom", ()):
            ((kind, reference),) = source.items()
            assert kind in ("configMapRef", "secretRef"), name
            assert reference == {"name": "committee"}, name


def test_the_settings_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN:
        monkeypatch.setenv(name, value or f"{name.lower()}-{'x' * 32}")
    settings = load_settings(_env_file=None, data_dir=tmp_path)
    assert settings.ledger_path is None
    assert settings.registry_path is None


def test_every_queue_has_a_worker_and_scaling_counts_its_jobs(
    overlays: dict[str, list[Manifest]],
) -> None:
    for overlay, manifests in overlays.items():
        taken = [queue for _, _, each in pods(manifests) for queue in queues_of(each)]
        expected = set(QUEUES) if overlay == "gpu" else set(QUEUES) - {TRAIN_GPU}
        assert sorted(taken) == sorted(expected), overlay
        for manifest in manifests:
            if manifest["kind"] == "ScaledJob":
                lists = {t["metadata"]["listName"] for t in manifest["spec"]["triggers"]}
                (_, _, container) = next(pods([manifest]))
                queues = queues_of(container)
                assert lists == {f"rq:queue:{redis_name(queue)}" for queue in queues}
                assert "--burst" in container["command"], "a Job must end"


def test_kustomize_reaches_all_images_and_references(overlays: dict[str, list[Manifest]]) -> None:
    for overlay, manifests in overlays.items():
        (settings,) = (each for each in manifests if each["kind"] == "ConfigMap")
        assert all(
            each["metadata"].get("namespace") == "committee"
            for each in manifests
            if each["kind"] != "Namespace"
        )
        for name, _, container in pods(manifests):
            cuda = overlay == "gpu" and name.startswith("ScaledJob")
            assert container["image"] == f"committee{'-cuda' * cuda}:{__version__}", name
            for source in container["envFrom"]:
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] == settings["metadata"]["name"], name
        assert any(
            name_of(each) == f"Job migrate-{__version__.replace('.', '-')}" for each in manifests
        )


def test_a_worker_that_trains_is_the_same_with_keda_and_without() -> None:
    without, with_keda = (
        pod_of(deepcopy(each)) for each in WRITTEN if each["metadata"]["name"] == "worker-train"
    )
    assert without is not None
    assert with_keda is not None
    assert with_keda["spec"].pop("restartPolicy") == "Never"
    (container,) = with_keda["spec"]["containers"]
    container["command"].remove("--burst")
    assert with_keda == without
