"""A dashboard on a ledger, with a doctor and a Label Studio that answer at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.settings import Settings
from backend.web.app import build_app
from backend.web.dashboard import background
from backend.workplace import Workplace
from tests.backend.web.dashboard.filled import MARKUP
from tests.backend.workplaces import make_settings

PROXY = "10.0.0.5"
OWNER, VIEWER = ("owner", "its-own-8731"), ("viewer", "another-8731")

FINDINGS: list[dict[str, Any]] = [
    {"severity": "ok", "project": None, "code": "ledger", "what": "The ledger is sound."},
    {
        "severity": "error",
        "project": 7,
        "code": "webhook",
        "what": f"A label is called {MARKUP}",
        "mend": "Rename it.",
    },
    {"severity": "error", "project": 8, "code": "webhook", "what": "Another project's."},
]


class Page:
    """The pages as a login sees them."""

    def __init__(self, client: FlaskClient, work: Workplace) -> None:
        self.client, self.work = client, work

    def text(self, path: str, auth: tuple[str, str] = OWNER, status: int = 200) -> str:
        answer = self.client.get(path, auth=auth)
        assert answer.status_code == status, answer.text
        return answer.text


@pytest.fixture
def doctored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "run_doctor", lambda: FINDINGS)
    monkeypatch.setattr(background.Studio, "whoami", lambda _self: {"id": 1})
    monkeypatch.setattr(background.Studio, "tasks", lambda _self, _project, ids: [])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(
        tmp_path,
        dashboard_pass=OWNER[1],
        dashboard_viewer_pass=VIEWER[1],
        dashboard_proxies=PROXY,
    )


@pytest.fixture
def pages(settings: Settings, doctored: None) -> Iterator[Page]:
    app = build_app(settings)
    work: Workplace = app.extensions["committee"]
    with app.test_client() as client:
        yield Page(client, work)
    for thread in threading.enumerate():
        if thread.name.startswith("dashboard"):
            thread.join(5)
    work.close()
