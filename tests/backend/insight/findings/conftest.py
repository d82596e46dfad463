"""What the tests of the doctor share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.settings import Settings, load_settings
from tests.backend.insight.findings.fake_web import API_KEY, PASSWORD, USER, MakeSettings, Web
from tests.backend.workplaces import make_ledger
from tests.live.harness.servers import free_port


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    def make(**fields: Any) -> Settings:
        given: dict[str, Any] = {
            "data_dir": tmp_path,
            "label_studio_url": f"http://127.0.0.1:{free_port()}",
            "label_studio_api_key": API_KEY,
            "redis_url": f"redis://:secret-8732@127.0.0.1:{free_port()}/0",
            "backend_url": f"http://127.0.0.1:{free_port()}",
            "basic_auth_user": USER,
            "basic_auth_pass": PASSWORD,
        }
        return load_settings(_env_file=None, **(given | fields))

    return make


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    made = make_settings()
    make_ledger(made.ledger_url)
    return made


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.label_studio.client.RETRY_AFTER_S", ())


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()
