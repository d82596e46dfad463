"""The unit that starts `make run` with the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from backend.cli import cli
from backend.data_dir import load_secrets
from backend.local.supervisor import STOP_S, STOP_VALKEY_S, welcome
from backend.local.systemd_unit import systemd_unit
from backend.settings import ROOT, load_settings


def test_it_names_this_checkout_and_this_data_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    printed = CliRunner().invoke(cli, ["run", "--systemd-unit"])
    lines = printed.output.splitlines()
    assert printed.exit_code == 0
    assert f'ExecStart="{sys.executable}" -m backend run' in lines
    assert f"WorkingDirectory={ROOT}" in lines
    assert f'Environment="DATA_DIR={tmp_path}/data"' in lines


def test_systemd_waits_longer_than_our_own_stop_takes() -> None:
    (limit,) = [line for line in systemd_unit(Path("/d")).splitlines() if "TimeoutStopSec" in line]
    assert float(limit.partition("=")[2]) > STOP_S + STOP_VALKEY_S


def test_the_password_is_not_printed_into_systemds_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(_env_file=None, data_dir=tmp_path)
    password = load_secrets(tmp_path)["label_studio_password"]
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")  # of a terminal that systemd started
    assert password in welcome(settings, own_studio=True, project=None)
    output = os.fstat(1)
    monkeypatch.setenv("JOURNAL_STREAM", f"{output.st_dev}:{output.st_ino}")
    shown = welcome(settings, own_studio=True, project=None)
    assert password not in shown
    assert f"label_studio_password in {tmp_path}/secrets.json" in shown


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here to check by")
@pytest.mark.parametrize("name", ["plain", "100 % of a $HOME, with blanks"])
def test_systemd_takes_it(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    python = root / "python"
    python.symlink_to(sys.executable)
    unit = tmp_path / "committee.service"
    unit.write_text(systemd_unit(root / "data", root, str(python)))
    checked = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
