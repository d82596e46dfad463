"""What DATA_DIR/demo.json remembers of each demo project."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backend.data_dir import read_json_object, write_json_object
from backend.errors import StudioRefused
from backend.label_studio.bulk import Studio
from backend.settings import Settings


@dataclass(frozen=True)
class DemoRecord:
    """What was done with one source of images.

    Attributes:
        key: the project's ``<id>.<created>``.
        done: every image is uploaded and annotated.
        connected: ``address_checksum`` when the project was connected.
    """

    project: int | None = None
    key: str = ""
    done: bool = False
    connected: str = ""


def source_of(images: Path | None) -> str:
    """What a demo project is filled from: ``drawn``, or a folder's absolute path."""
    return "drawn" if images is None else str(images.resolve())


def recorded(data_dir: Path, source: str) -> DemoRecord:
    """The record of ``source``; an empty one before the first time."""
    return DemoRecord(**_read(data_dir).get(source, {}))


def remember_demo(data_dir: Path, source: str, **changes: Any) -> DemoRecord:
    """Change the record of ``source``."""
    all_records = _read(data_dir)
    changed = replace(DemoRecord(**all_records.get(source, {})), **changes)
    write_json_object(data_dir / "demo.json", {**all_records, source: asdict(changed)})
    return changed


def address_checksum(settings: Settings) -> str:
    """A checksum of what Label Studio needs to call us: it changes when that does."""
    # "secret": an earlier release gave the webhook the web's password.
    password = settings.basic_auth_pass.get_secret_value()
    address = f"{settings.backend_url} {settings.basic_auth_user} {password} secret"
    return hashlib.sha256(address.encode()).hexdigest()


def still_exists(studio: Studio, known: DemoRecord) -> bool:
    """Whether Label Studio still has the project; a deleted demo project is not made again."""
    if known.project is None:
        return False
    try:
        return studio.project(known.project).key == known.key
    except StudioRefused as error:
        if error.studio_status == 404:
            return False
        raise


def _read(data_dir: Path) -> dict[str, dict[str, Any]]:
    return read_json_object(data_dir / "demo.json", "the demo project is then found again") or {}
