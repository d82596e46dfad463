"""The machine's own Chromium, without a window: for the browser tests and the screenshots."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


class NoChromium(Exception):
    """There is none; the message says how to get it."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of its own, closed at the end.

    Raises:
        NoChromium: the machine has none.
    """
    program = shutil.which("chromium")
    if program is None:
        raise NoChromium("no chromium on the PATH: `apt-get install chromium` brings it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()
