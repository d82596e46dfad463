"""The demo of `make run`, by its own command: on free ports, with the settings that ship."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Browser, Page

from backend.data_dir import load_secrets, remember
from backend.local.label_studio_server import LABEL_STUDIO_USER
from backend.settings import Settings, load_settings
from tests.limits import wait_until
from tests.live.harness.label_page import LabelPage
from tests.live.harness.servers import ROOT, Process, free_port

SIZE = {"width": 1120, "height": 700}
LIMIT_MS = 120_000
ALL_DRAWN = """() => [...document.images].every(
    each => each.getBoundingClientRect().top > innerHeight || each.naturalWidth > 0)"""
"""But for those below the window, which are fetched later."""
START_LIMIT_S, ROUND_LIMIT_S, STOP_LIMIT_S = 600, 1500, 15


class Demo:
    """`make run`, by its own command, on a fresh ``data_dir``."""

    def __init__(self, data_dir: Path) -> None:
        own = {name.upper() for name in Settings.model_fields}
        # Empty is unset.
        self._environment = {**dict.fromkeys(own, ""), "DATA_DIR": str(data_dir)}
        self._data_dir = data_dir
        data_dir.mkdir(mode=0o700)
        # The usual ones may be taken in the minute between their choice and Label Studio's start.
        url = f"http://127.0.0.1:{free_port()}"
        remember(data_dir, label_studio_url=url, port=free_port())
        log = data_dir.parent / "run.log"
        self.process = Process(self._command("run"), log, self._environment, cwd=ROOT)

    def wait_until_up(self) -> None:
        wait_until(self._up, START_LIMIT_S, "the demo to start", every_s=1)
        self.settings = load_settings(_env_file=None, data_dir=self._data_dir)
        self.password = load_secrets(self._data_dir)["label_studio_password"]

    def project(self) -> dict[str, Any]:
        """The demo project's status."""
        shown = subprocess.run(
            self._command("status", "--json"),
            cwd=ROOT,
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            check=True,
        )
        (found,) = json.loads(shown.stdout)["projects"]
        return dict(found)

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], what: str) -> None:
        def holds() -> bool:
            assert self.process.alive(), self.process.tail()
            found = self.project()
            if (found["round"] or {}).get("error"):
                raise SystemExit(f"the round failed: {found['round']['error']}")
            return condition(found)

        wait_until(holds, ROUND_LIMIT_S, what, every_s=5)

    def _up(self) -> bool:
        assert self.process.alive(), self.process.tail()
        return "Ctrl-C stops it all" in self.process.log.read_text()

    @staticmethod
    def _command(*words: str) -> list[str]:
        return [sys.executable, "-m", "backend", *words]


@contextmanager
def demo() -> Iterator[Demo]:
    with TemporaryDirectory(prefix="demo-") as folder:
        started = Demo(Path(folder) / "data")
        try:
            started.wait_until_up()
            yield started
        finally:
            started.process.stop(STOP_LIMIT_S)


def open_page(browser: Browser, **given: Any) -> Page:
    page = browser.new_page(**{"viewport": SIZE, "color_scheme": "light", **given})
    page.set_default_timeout(LIMIT_MS)
    return page


def open_dashboard(browser: Browser, running: Demo) -> Page:
    """Logged in as the owner, at the pages of the demo's project: addresses are relative to it."""
    secret = running.settings.dashboard_pass
    assert secret is not None, "make run makes one"
    login = {
        "username": running.settings.dashboard_user,
        "password": secret.get_secret_value(),
    }
    home = f"{running.settings.backend_url}/projects/{running.project()['project']}/"
    return open_page(browser, http_credentials=login, base_url=home)


def open_label_studio(browser: Browser, running: Demo, **given: Any) -> LabelPage:
    """Logged in."""
    found = LabelPage(open_page(browser, **given), str(running.settings.label_studio_url))
    found.log_in(LABEL_STUDIO_USER, running.password)
    return found
