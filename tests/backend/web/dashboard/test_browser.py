"""The pages in a real Chromium: nothing from elsewhere, no error, readable by everybody.

Screenshots stay in test-artifacts/ (git-ignored), to be looked at.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from backend.web.app import build_app
from backend.web.dashboard import background, queue_routes, routes
from backend.workplace import Workplace
from tests.backend.web.dashboard.conftest import FINDINGS, OWNER, VIEWER
from tests.backend.web.dashboard.filled import NUMBER, begin_round, fill
from tests.backend.web.dashboard.kept import keep_predictions
from tests.backend.web.dashboard.test_actions import keep_files
from tests.backend.web.dashboard.test_queue import FakeStudio, grey_png
from tests.backend.workplaces import make_settings
from tests.live.harness.servers import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PICTURES = ROOT / "test-artifacts"
LIMIT_MS = 60_000
WIDE, PHONE = 1200, 360
HOME = f"/projects/{NUMBER}"
PICTURE = grey_png()
PATHS = (
    *(f"{HOME}/", f"{HOME}/learning", f"{HOME}/measures", f"{HOME}/versions"),
    *(f"{HOME}/queue", f"{HOME}/queue?skipped", f"{HOME}/queue/3", f"{HOME}/classes"),
    *(f"{HOME}/labels", f"{HOME}/queue?unsure", f"{HOME}/versions/compare?left=7&right=8"),
    *(f"{HOME}/do/pause", f"{HOME}/none"),
)

STUMBLES = (Path(__file__).parent / "stumbles.js").read_text()


class Served:
    """The dashboard on a port of its own, and its workplace."""

    def __init__(self, folder: Path) -> None:
        settings = make_settings(folder, dashboard_pass=OWNER[1], dashboard_viewer_pass=VIEWER[1])
        app = build_app(settings)
        self.work: Workplace = app.extensions["committee"]
        self.row = fill(self.work, tasks=12)
        keep_files(self.work, self.row.slug, 7, 8)
        keep_predictions(self.work, self.row, 7, 8)
        self._server = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.work.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "run_doctor", lambda: FINDINGS)
        patch.setattr(background.StudioWatch, "_quick", lambda _self: FakeStudio())
        patch.setattr(queue_routes, "task_picture", lambda *_: PICTURE)
        patch.setattr(routes, "SLOW_S", 1)
        started = Served(tmp_path_factory.mktemp("dashboard"))
        yield started
        started.close()


class Guard:
    """A page that notes every error of the console and every request to elsewhere."""

    def __init__(self, browser: Browser, url: str, login: tuple[str, str], **given: Any) -> None:
        credentials = {"username": login[0], "password": login[1]}
        self.context = browser.new_context(http_credentials=credentials, base_url=url, **given)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(LIMIT_MS)
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on(
            "request",
            lambda asked: (
                None
                if asked.url.startswith(f"{url}/")
                else self.wrong.append(f"elsewhere: {asked.url}")
            ),
        )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_ours_alone_and_readable_in_both_themes_and_on_a_phone(
    browser: Browser, served: Served, theme: Any
) -> None:
    PICTURES.mkdir(exist_ok=True)
    size = {"width": WIDE, "height": 900}
    guard = Guard(browser, served.url, OWNER, color_scheme=theme, viewport=size)
    page = guard.page
    stumbles = []
    for path in PATHS:
        page.goto(path)
        name = re.sub(r"\W+", "-", path.removeprefix(HOME)).strip("-") or "now"
        for width in (WIDE, PHONE):
            page.set_viewport_size({"width": width, "height": 900})
            picture = PICTURES / f"dashboard-{name}-{theme}-{width}.png"
            page.screenshot(path=picture, full_page=True)
            stumbles += [f"{path} {width}: {each}" for each in page.evaluate(STUMBLES)]
    guard.context.close()
    assert stumbles == []
    # The last page is one that is not there, which the console tells of.
    assert [each for each in guard.wrong if "404" not in each] == []
    assert len(guard.wrong) == 1


def test_the_keyboard_is_enough_to_act_and_the_page_says_what_was_done(
    browser: Browser, served: Served
) -> None:
    guard = Guard(browser, served.url, OWNER)
    page = guard.page
    page.goto(f"{HOME}/versions")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.get_by_role("link", name="Go back to this version: 7").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Go back to this version: version 7?")
    page.get_by_role("button", name="Yes: go back to this version").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Version 7 ranks again; a new queue is being made.")).to_be_visible()
    assert served.work.ledger.versions.promoted_numbers(served.row.id)[0] == 7
    guard.context.close()
    assert guard.wrong == []


def test_a_page_renews_itself_while_somebody_looks(browser: Browser, served: Served) -> None:
    active = served.work.ledger.rounds.active(served.row.id)
    if active is not None:
        served.work.ledger.rounds.cancel(active.id, "the test needs it no more")
    served.work.ledger.processes.beat("w", "worker", "", "host", 1)
    guard = Guard(browser, served.url, VIEWER)
    page = guard.page
    page.goto(f"{HOME}/")
    expect(page.locator("#next")).to_contain_text("Label 4 more images")
    expect(page.get_by_text("viewer, may only read")).to_be_visible()
    number = begin_round(served.work.ledger, served.row.id)
    expect(page.locator("#next")).to_contain_text(f"Round {number} learns", timeout=LIMIT_MS)
    expect(page.get_by_role("progressbar", name="training")).to_have_attribute("value", "0.5")
    served.work.ledger.rounds.cancel(number, "the test needs it no more")
    guard.context.close()
    assert guard.wrong == []
