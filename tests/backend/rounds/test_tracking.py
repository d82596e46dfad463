"""Versions reach MLflow's own store, and a server that is away, slow or wrong costs a sentence."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from backend.ledger import Project
from backend.rounds import tracking
from backend.rounds.tracking import track_versions
from backend.workplace import Workplace
from tests.backend.web.dashboard.filled import fill
from tests.backend.workplaces import open_workplace
from training.committee.folders import PREDICTED_FILE, SHEET_FILE

needs_mlflow = pytest.mark.skipif(
    find_spec("mlflow") is None, reason="mlflow-skinny is not installed: make mlflow"
)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workplace]:
    uri = f"file://{tmp_path / 'mlruns'}"
    with open_workplace(tmp_path / "data", mlflow_tracking_uri=uri) as opened:
        counted: list[str] = []
        opened.counters.add = lambda name, *_: counted.append(name)  # type: ignore[method-assign]
        opened.counted = counted  # type: ignore[attr-defined]
        yield opened


@pytest.fixture
def row(work: Workplace) -> Project:
    row = fill(work, rounds=2, tasks=1)
    folder = work.settings.registry_path / row.slug / "versions" / "2"
    folder.mkdir(parents=True)
    files = {SHEET_FILE: "a PNG", PREDICTED_FILE: "private", "member-0.safetensors": "weights"}
    for name, text in files.items():
        (folder / name).write_text(text)
    digests = ", ".join(f'"{name}": "{"0" * 64}"' for name in files)
    (folder / "version.json").write_text(f'{{"version": 2, "files": {{{digests}}}}}')
    return row


def counted(work: Workplace) -> list[str]:
    found: list[str] = work.counted  # type: ignore[attr-defined]
    return found


@needs_mlflow
def test_each_version_becomes_one_run_and_a_killed_one_is_filled_again(
    work: Workplace, row: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert track_versions(work, row)
    runs = sorted((tmp_path / "mlruns").glob("*/*/tags/committee.version"))
    folders = {path.read_text(): path.parents[1] for path in runs}
    assert sorted(folders) == ["1", "2"]
    run = folders["2"]
    assert (run / "params" / "members").read_text() == "5"
    version = work.ledger.versions.get(row.id, 2)
    assert version is not None
    _, dice, step = (run / "metrics" / "foreground_dice").read_text().split()
    assert float(dice) == pytest.approx(version.metrics["foreground_dice"])
    assert step == "2"
    kept = {
        str(p.relative_to(run / "artifacts")) for p in run.glob("artifacts/**/*") if p.is_file()
    }
    assert kept == {SHEET_FILE, "version/member-0.safetensors", "version/version.json"}
    # One was killed in the middle of it, and another was withdrawn since.
    meta = run / "meta.yaml"
    meta.write_text(meta.read_text().replace("status: 3", "status: 1"))
    (run / "artifacts" / SHEET_FILE).unlink()
    work.ledger.versions.set_state(row.id, 1, "withdrawn", "rolled back")
    assert track_versions(work, row)
    assert sorted((tmp_path / "mlruns").glob("*/*/tags/committee.version")) == runs
    assert (run / "artifacts" / SHEET_FILE).read_text() == "a PNG"
    assert "status: 3" in meta.read_text()
    assert (folders["1"] / "tags" / "committee.state").read_text() == "withdrawn"
    assert counted(work) == []


@needs_mlflow
def test_a_server_that_never_answers_is_given_up_in_time(
    work: Workplace, row: Project, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = work.settings.model_copy(update={"mlflow_tracking_uri": uri})
        work.settings = settings
        assert not track_versions(work, row, within_s=0.5)
    assert "it took longer than 0.5 s" in caplog.text
    assert counted(work) == ["mlflow_failures"]


def test_what_goes_wrong_in_its_process_is_one_sentence(
    work: Workplace, row: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of that name that fails, so this needs no mlflow."""
    stand_in = work.settings.data_dir / "site" / "mlflow"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text(
        "class MlflowClient:\n"
        "    def __init__(self, tracking_uri):\n"
        "        raise OSError(f'no host\\nbehind {tracking_uri}')\n"
    )
    monkeypatch.setattr(tracking, "find_spec", lambda _name: object())
    here = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{stand_in.parent}{os.pathsep}{here}")
    assert not track_versions(work, row)
    assert f"project {row.id}: OSError: no host behind file://" in caplog.text
    assert counted(work) == ["mlflow_failures"]


def test_without_the_package_it_says_what_to_install(
    work: Workplace, row: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda _name: None)
    assert not track_versions(work, row)
    assert "install requirements-mlflow.txt" in caplog.text


def test_where_it_is_not_set_nothing_is_read_or_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("no process is due")

    monkeypatch.setattr(tracking.subprocess, "run", refuse)
    with open_workplace(tmp_path) as work:
        assert not track_versions(work, fill(work, rounds=1, tasks=1))
