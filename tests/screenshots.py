"""``make screenshots``: the pictures of docs/pictures, taken from the demo of `make run`.

A walk through the demo follows (tests/walkthrough.py), whose pictures stay in test-artifacts/, to
be looked at. The demo is stopped at the end. Only what the project draws itself is in the pictures.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page

from tests.chromium import NoChromium, chromium
from tests.demo import ALL_DRAWN, Demo, demo, open_dashboard, open_label_studio
from tests.live.harness.servers import ROOT
from tests.walkthrough import walk

PICTURES = ROOT / "docs/pictures"
MOST_BYTES = 150_000
SEEN_PROGRESS = 0.3
"""Of the training, when its picture is taken."""


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


def take_pictures(browser: Browser, running: Demo) -> None:
    dashboard = open_dashboard(browser, running)
    running.wait_for(lambda found: trains(found["round"]), "the training of the first round")
    dashboard.goto("./")
    dashboard.locator("#progress li.now").wait_for()  # else it would show a round that has ended
    keep(dashboard, "dashboard-round")

    running.wait_for(
        lambda found: found["version"] is not None and found["round"]["state"] == "succeeded",
        "the first suggestions",
    )
    label_studio(browser, running)
    dashboard.goto("./")
    # The doctor looks beside the web.
    dashboard.get_by_role("link", name="Look again").wait_for()
    keep(dashboard, "dashboard-now")
    dashboard.goto("queue")
    dashboard.wait_for_function(ALL_DRAWN)
    keep(dashboard, "dashboard-queue")
    dashboard.goto("versions")
    dashboard.get_by_text("worst, median and best").click()
    dashboard.wait_for_function(ALL_DRAWN)
    keep(dashboard, "dashboard-versions")


def trains(found: dict[str, Any] | None) -> bool:
    return found is not None and found["stage"] == "fit" and found["progress"] >= SEEN_PROGRESS


def label_studio(browser: Browser, running: Demo) -> None:
    annotator = open_label_studio(browser, running)
    annotator.open_project(running.project()["project"])
    annotator.page.wait_for_load_state("networkidle")
    keep(annotator.page, "label-studio-queue")
    annotator.label_all()
    annotator.regions.first.wait_for()
    annotator.page.wait_for_load_state("networkidle")
    keep(annotator.page, "label-studio-task")


def main() -> None:
    if (ROOT / ".env").exists():
        raise SystemExit(".env names settings that the pictures must not show: move it away first")
    PICTURES.mkdir(exist_ok=True)
    try:
        with chromium() as browser, demo() as running:
            take_pictures(browser, running)
            walk(browser, running)
    except NoChromium as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
