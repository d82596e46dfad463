"""What DATA_DIR remembers besides the ledger: ports that were chosen, passwords that were made.

``local.json`` holds what ``make run`` chose, ``secrets.json`` the passwords.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.errors import BadSettings
from backend.setting_values import shown_without_password
from training.files import write_atomically


def prepare_data_dir(data_dir: Path) -> None:
    """Make DATA_DIR, readable by its owner alone: it will hold patients' images and passwords.

    Raises:
        BadSettings: it is a file, or cannot be made or written.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in it
        reason = error.strerror if isinstance(error, OSError) else None
        raise bad_data_dir(data_dir, reason or str(error)) from error
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        raise bad_data_dir(data_dir, "this user may not write there")


def bad_data_dir(data_dir: Path, reason: str) -> BadSettings:
    return BadSettings(
        "DATA_DIR must be a folder that can be written, "
        f"got {shown_without_password(str(data_dir))} ({reason})."
    )


def remembered(data_dir: Path) -> dict[str, Any]:
    """What ``make run`` chose in this DATA_DIR, from local.json; {} before its first time.

    Keys: ``port``, ``valkey_port``, ``label_studio_url``.
    """
    return read_json_object(data_dir / "local.json", "the ports are then chosen anew") or {}


def remember(data_dir: Path, **values: Any) -> None:
    """Add values to local.json; a value of None is removed."""
    merged = {**remembered(data_dir), **values}
    kept = {name: value for name, value in merged.items() if value is not None}
    write_json_object(data_dir / "local.json", kept)


def clicks_folder(data_dir: Path) -> Path:
    """Where what clicks are answered from is kept, in a folder for each project."""
    return data_dir / "cache" / "clicks"


def registry_cache(data_dir: Path) -> Path:
    """Where this host's copies of object stores are: a folder for each of them, in it one for each
    project."""
    return data_dir / "cache" / "registry"


MOST_NAMES = 8
"""Names of one Label Studio that are kept: uploads go on carrying an earlier one."""


def label_studio_folder(data_dir: Path) -> Path:
    """The folder of the Label Studio that ``make run`` starts: its database, uploads and key."""
    return data_dir / "label-studio"


def announced_names(data_dir: Path, server: str) -> list[str]:
    """The addresses that Label Studio at ``server`` said it has, newest first."""
    names = _announced(data_dir).get(server, [])
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def remember_name(data_dir: Path, server: str, name: str) -> None:
    """Keep an address that Label Studio at ``server`` announced."""
    known = announced_names(data_dir, server)
    if name not in known:
        names = {**_announced(data_dir), server: [name, *known][:MOST_NAMES]}
        write_json_object(data_dir / "announced.json", names)


def _announced(data_dir: Path) -> dict[str, Any]:
    path = data_dir / "announced.json"
    return read_json_object(path, "the names come again with /setup") or {}


def load_secrets(data_dir: Path, *, dashboard: bool = False) -> dict[str, str]:
    """The passwords of this DATA_DIR, from secrets.json (mode 0600), made when missing.

    Keys: ``basic_auth_pass``, ``valkey_password``, ``label_studio_password``,
    ``label_studio_token`` (40 hex digits, as Label Studio's legacy tokens are), and
    ``dashboard_pass`` once it was asked for.

    Args:
        dashboard: make ``dashboard_pass`` too. That it is there switches the dashboard on.

    Raises:
        BadSettings: the file is damaged.
    """
    path = data_dir / "secrets.json"
    found = read_json_object(path, "new passwords are then made, and `connect` must be run again")
    fresh = {
        "basic_auth_pass": secrets.token_urlsafe(24),
        "valkey_password": secrets.token_hex(24),
        "label_studio_password": secrets.token_urlsafe(12),
        "label_studio_token": secrets.token_hex(20),
        **({"dashboard_pass": secrets.token_urlsafe(24)} if dashboard else {}),
    }
    if found is None:
        # Two processes may start at once: the first file stays, and both read that one.
        write_json_object(path, fresh, replace=False)
        found = read_json_object(path, "new passwords are then made") or {}
    if fresh.keys() - found.keys():
        found = {**fresh, **found}
        write_json_object(path, found)
    return {name: str(value) for name, value in found.items()}


def derived_key(data_dir: Path, purpose: bytes) -> bytes:
    """A key of this DATA_DIR, derived from one of its passwords, which it does not reveal.

    ``Settings.derived_key`` gives the one that hosts share.
    """
    return hmac.digest(load_secrets(data_dir)["valkey_password"].encode(), purpose, "sha256")


def embedded_redis_url(port: int, password: str) -> str:
    """The address of the Valkey that ``make run`` starts."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


def read_json_object(path: Path, consequence: str) -> dict[str, Any] | None:
    """The JSON object in a file of DATA_DIR; None if there is no such file.

    Args:
        consequence: what happens once the file is deleted, for the message.

    Raises:
        BadSettings: the file cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadSettings(
            f"{path} must be a JSON file that this user can read ({error}); delete it "
            f"({consequence})."
        ) from error
    if not isinstance(found, dict):
        raise BadSettings(f"{path} must hold a JSON object; delete it ({consequence}).")
    return found


def write_json_object(path: Path, values: Mapping[str, Any], *, replace: bool = True) -> None:
    """Write a JSON object that only its owner may read.

    Args:
        replace: False leaves a file that is already there as it is.
    """
    write_atomically(path, json.dumps(values, indent=2).encode(), private=True, replace=replace)
