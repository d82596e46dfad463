"""``make screenshots``: the pictures of docs/pictures, taken from the demo of `make run`.

The demo runs on free ports in a temporary DATA_DIR, with the settings that ship, and is stopped at
the end. Only what the project draws itself is in the pictures.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from backend.data_dir import load_secrets, remember
from backend.local.label_studio_server import LABEL_STUDIO_USER
from backend.settings import Settings, load_settings
from tests.limits import wait_until
from tests.live.harness.servers import ROOT, Process, free_port

PICTURES = ROOT / "docs/pictures"
MOST_BYTES = 150_000
SIZE = {"width": 1120, "height": 700}
CHROMIUM = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
LIMIT_MS = 120_000
START_LIMIT_S, ROUND_LIMIT_S, STOP_LIMIT_S = 600, 1500, 15
SEEN_PROGRESS = 0.3
"""Of the training, when its picture is taken."""


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
    with TemporaryDirectory(prefix="screenshots-") as folder:
        started = Demo(Path(folder) / "data")
        try:
            started.wait_until_up()
            yield started
        finally:
            started.process.stop(STOP_LIMIT_S)


def keep(page: Page, name: str) -> None:
    """Write what the page shows in 256 colours, of which the few of the labels must not be lost."""
    shown = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    written = io.BytesIO()
    few = shown.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(written, "PNG", optimize=True)
    if written.tell() > MOST_BYTES:
        raise SystemExit(f"{name} takes {written.tell()} bytes: make the window smaller")
    (PICTURES / f"{name}.png").write_bytes(written.getvalue())
    print(f"{name}.png  {written.tell() / 1000:.0f} kB", flush=True)


def open_page(browser: Browser, **given: Any) -> Page:
    page = browser.new_page(viewport=SIZE, color_scheme="light", **given)
    page.set_default_timeout(LIMIT_MS)
    return page


def take_pictures(browser: Browser, running: Demo) -> None:
    secret = running.settings.dashboard_pass
    assert secret is not None, "make run makes one"
    login = {
        "username": running.settings.dashboard_user,
        "password": secret.get_secret_value(),
    }
    dashboard = open_page(browser, http_credentials=login, base_url=running.settings.backend_url)
    home = f"/projects/{running.project()['project']}"

    running.wait_for(lambda found: trains(found["round"]), "the training of the first round")
    dashboard.goto(f"{home}/")
    keep(dashboard, "dashboard-round")

    running.wait_for(
        lambda found: found["version"] is not None and found["round"]["state"] == "succeeded",
        "the first suggestions",
    )
    label_studio(open_page(browser), running)
    dashboard.goto(f"{home}/")
    # The doctor looks beside the web.
    dashboard.get_by_role("link", name="Look again").wait_for()
    keep(dashboard, "dashboard-now")
    dashboard.goto(f"{home}/queue")
    dashboard.wait_for_function(ALL_DRAWN)
    keep(dashboard, "dashboard-queue")
    dashboard.goto(f"{home}/versions")
    dashboard.get_by_text("worst, median and best").click()
    dashboard.wait_for_function(ALL_DRAWN)
    keep(dashboard, "dashboard-versions")


ALL_DRAWN = """() => [...document.images].every(
    each => each.getBoundingClientRect().top > innerHeight || each.naturalWidth > 0)"""
"""But for those below the window, which are fetched later."""


def trains(found: dict[str, Any] | None) -> bool:
    return found is not None and found["stage"] == "fit" and found["progress"] >= SEEN_PROGRESS


def label_studio(page: Page, running: Demo) -> None:
    url = str(running.settings.label_studio_url)
    page.goto(f"{url}/user/login/")
    page.fill("input[name=email]", LABEL_STUDIO_USER)
    page.fill("input[name=password]", running.password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda address: "/user/login" not in address)
    page.goto(f"{url}/projects/{running.project()['project']}/data")
    page.get_by_text("Committee queue").click()
    button = page.get_by_role("button", name="Label All Tasks")
    button.wait_for()
    page.wait_for_load_state("networkidle")
    keep(page, "label-studio-queue")
    button.click()
    page.locator(".lsf-outliner-item__title").first.wait_for()
    page.wait_for_load_state("networkidle")
    keep(page, "label-studio-task")


def main() -> None:
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("no chromium on the PATH: `apt-get install chromium` brings it")
    if (ROOT / ".env").exists():
        raise SystemExit(".env names settings that the pictures must not show: move it away first")
    PICTURES.mkdir(exist_ok=True)
    with demo() as running, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(CHROMIUM))
        try:
            take_pictures(browser, running)
        finally:
            browser.close()


if __name__ == "__main__":
    main()
