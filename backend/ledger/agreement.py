"""What the hosts of one installation must have alike, as each process tells it to the ledger.

Secrets are told by their HMAC under the secret that the hosts share: whoever reads the ledger alone
can guess none of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pydantic import SecretStr

from backend import __version__
from backend.ledger.engine import HEAD
from backend.settings import ROOT, Settings
from training.committee.removals import LOCK_FILE

Facts = Mapping[str, str]

SHARED = "SHARED_SECRET"

SETTINGS = (
    *("label_studio_url", "network", "fit_seconds", "allowed_image_hosts"),
    *("retrain_every", "members", "candidates", "queue_length"),
)
"""A round may be decided on one host, trained on others and ranked on a third."""

OF_WEB = ("backend_url",)

_FINGERPRINT = 16
"""Hex digits: 64 bits tell two secrets apart."""


def facts_of(settings: Settings, role: str) -> dict[str, str]:
    """What a process works with, by what it is called; alike on all hosts that have it.

    Args:
        role: "web" or "worker". Some settings matter to the web alone.
    """
    names = (*SETTINGS, *(OF_WEB if role == "web" else ()))
    found = {name.upper(): _shown(getattr(settings, name)) for name in names}
    found |= {"code": code(), "schema": HEAD}
    root = settings.registry_path
    address = settings.registry_url.rstrip("/").encode()
    if registry := hashlib.sha256(address).hexdigest()[:16] if root is None else registry_id(root):
        found["registry"] = registry
    if settings.network_weights is not None:
        found["NETWORK_WEIGHTS"] = _digest_of_file(settings.network_weights)
    found[SHARED] = settings.derived_key(b"fingerprint").hex()[:_FINGERPRINT]
    secret_of = {"BASIC_AUTH_PASS": (settings.basic_auth_user, settings.basic_auth_pass)}
    if role == "web" and settings.dashboard_pass is not None:
        secret_of["DASHBOARD_PASS"] = (settings.dashboard_user, settings.dashboard_pass)
    key = settings.derived_key(b"fingerprints of passwords")
    return found | {name: _fingerprint(key, *pair) for name, pair in secret_of.items()}


def registry_id(root: Path) -> str:
    """A name that the registry in this folder was given once, in the file of its lock.

    Returns:
        "" where it cannot be read or written now, or a backup is being made before it has one.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(root / LOCK_FILE, flags, 0o600), "r+b") as file:
            if not (found := file.read(100)):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = file.read(100)
                if not found:
                    file.write(found := secrets.token_hex(8).encode())
            return found.decode("ascii", "replace")
    except OSError:
        return ""


@cache
def code() -> str:
    """The release, and a digest of all modules: two checkouts may call themselves the same."""
    digest = hashlib.sha256()
    for package in ("acquisition", "backend", "training"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\0".encode())
            digest.update(path.read_bytes())
    return f"{__version__}, {digest.hexdigest()[:8]}"


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _digest_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:_FINGERPRINT]
    except OSError as error:  # a sign of life must not end with it; training says what is wrong
        return f"not readable: {error.strerror}"


def _fingerprint(key: bytes, user: str, password: SecretStr) -> str:
    text = f"{user}:{password.get_secret_value()}"
    return hmac.digest(key, text.encode(), "sha256").hex()[:_FINGERPRINT]
