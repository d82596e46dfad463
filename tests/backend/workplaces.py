"""Settings and workplaces for tests: addresses at which nobody answers, throwaway passwords."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask.testing import FlaskClient

from backend.label_studio.label_config import build_label_config
from backend.ledger import upgrade
from backend.settings import Settings, load_settings
from backend.web.app import build_app
from backend.workplace import Workplace
from training.colours import class_colour

SERVER = "http://studio.test"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
USER, PASSWORD = "lab", "throwaway-8731"

GIVEN: dict[str, Any] = {
    "label_studio_url": SERVER,
    "label_studio_api_key": TOKEN,
    "redis_url": "redis://127.0.0.1:1/0",
    "basic_auth_user": USER,
    "basic_auth_pass": PASSWORD,
}


def make_settings(data_dir: Path, **fields: Any) -> Settings:
    """Settings with a ledger of this release."""
    settings = load_settings(_env_file=None, **{**GIVEN, "data_dir": data_dir, **fields})
    make_ledger(settings.ledger_url)
    return settings


def make_ledger(url: str) -> None:
    """A ledger of this release, if none is there: a copy, since hundreds of tests want one."""
    file = Path(url.removeprefix("sqlite:///"))
    if not file.exists():
        file.write_bytes(_migrated_ledger())


@cache
def _migrated_ledger() -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "ledger.sqlite3"
        upgrade(f"sqlite:///{file}")
        return file.read_bytes()


@contextmanager
def open_workplace(data_dir: Path, **fields: Any) -> Iterator[Workplace]:
    """A workplace with a ledger of this release; ``fields`` are settings."""
    work = Workplace(make_settings(data_dir, **fields))
    try:
        yield work
    finally:
        work.close()


def brush_config(*labels: str) -> str:
    """A label config with brush labels."""
    return build_label_config(
        (label, class_colour(index)) for index, label in enumerate(labels, start=1)
    )


@contextmanager
def open_client(settings: Settings) -> Iterator[FlaskClient]:
    """A client of the web with these settings, without a server."""
    app = build_app(settings)
    try:
        with app.test_client() as client:
            yield client
    finally:
        app.extensions["committee"].close()
