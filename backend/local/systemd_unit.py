"""A systemd user unit, by which `make run` starts with the machine."""

from __future__ import annotations

import sys
from pathlib import Path

from backend.settings import ROOT


def systemd_unit(data_dir: Path, root: Path = ROOT, python: str = sys.executable) -> str:
    """The unit for this checkout and this DATA_DIR; other settings come from .env."""
    return f"""\
# Made by `python -m backend run --systemd-unit`; docs/BACKUP.md says how it is installed.
[Unit]
Description=Committee: backend, embedded Valkey and local Label Studio

[Service]
# Not by make: signals are to reach the supervisor itself.
ExecStart={_quoted(python)} -m backend run
WorkingDirectory={_without_specifiers(str(root))}
Environment={_quoted(f"DATA_DIR={data_dir}")}
UMask=0077
# The supervisor ends its children in order, within 10 s of SIGTERM; what is left then is killed.
KillMode=mixed
TimeoutStopSec=20
# A failure is mostly a server or a disk that is not there yet.
Restart=on-failure
RestartSec=30

[Install]
WantedBy=default.target
"""


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_without_specifiers(escaped)}"'


def _without_specifiers(text: str) -> str:
    return text.replace("%", "%%")
