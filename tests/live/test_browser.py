"""The loop as an annotator meets it: a real Chromium in front of a real Label Studio.

Its screenshots stay in test-artifacts/ (git-ignored), to be looked at.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Page, Response, expect, sync_playwright

from backend.label_studio import brush
from backend.label_studio.bulk import Studio
from tests.limits import wait_until
from tests.live.harness.servers import ROOT, LabelStudio
from tests.live.harness.stack import Stack, TinyProject, make_project

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.timeout(600)]

INITIAL = 6
EDGE_PX = 3  # of the screen
PICTURES = ROOT / "test-artifacts"
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
# The drawn fields are grey: what has colour on the canvas is a mask. A channel more than this
# above another is no rounding of a grey.
COLOURED = 40
LIMIT_MS = 60_000


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = shutil.which("chromium")
    if program is None:
        reason = "no chromium on the PATH: `apt-get install chromium` brings it"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run the browser test: {reason}")
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(LIMIT_MS)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def trained(stack: Stack) -> TinyProject:
    """A project whose first publication serves."""
    project = make_project(stack, "browser", 16, retrain_every=INITIAL)
    project.label(*project.few(INITIAL))
    row = stack.await_round(project)
    assert (row.state, row.error) == ("succeeded", None)
    return project


def test_an_annotator_labels_the_queue_in_its_order(
    page: Page, trained: TinyProject, studio: Studio, label_studio: LabelStudio
) -> None:
    PICTURES.mkdir(exist_ok=True)
    first, second = trained.ranking()[:2]

    log_in(page, label_studio)
    page.goto(f"{label_studio.url}/projects/{trained.id}/data")
    expect(page.get_by_text("Committee queue")).to_be_visible(timeout=LIMIT_MS)
    button = page.get_by_role("button", name="Label All Tasks")
    expect(button).to_be_visible(timeout=LIMIT_MS)
    page.screenshot(path=PICTURES / "queue.png")

    with page.expect_response(serves_a_task) as answer:
        button.click()
    assert answer.value.json()["id"] == first
    shown = prediction_of(studio, trained, first)
    sees_the_masks(page, shown)
    page.screenshot(path=PICTURES / "first-task.png")

    with page.expect_response(serves_a_task) as answer:
        page.get_by_test_id("bottombar-submit-button").click()
    assert answer.value.json()["id"] == second
    sees_the_masks(page, prediction_of(studio, trained, second))
    page.screenshot(path=PICTURES / "second-task.png")

    [annotation] = studio.annotations(first)
    assert annotation["parent_prediction"] == shown["id"]
    assert {region["origin"] for region in annotation["result"]} == {"prediction"}
    assert masks(annotation["result"]).keys() == masks(shown["result"]).keys()
    events = trained.stack.work.ledger.events.pending(trained.row_id)
    assert [e.ids for e in events if e.action == "ANNOTATION_CREATED"] == [[annotation["id"]]]


def test_the_colours_that_were_seen_are_the_masks(page: Page, trained: TinyProject) -> None:
    """What the check above stands on: with the regions hidden, nothing of the field has colour."""
    page.get_by_label("Hide all regions").click()
    wait_until(lambda: not coloured(page).any(), 30, "the masks to vanish")


def log_in(page: Page, server: LabelStudio) -> None:
    page.goto(f"{server.url}/user/login/")
    page.fill("input[name=email]", server.user)
    page.fill("input[name=password]", server.password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "/user/login" not in url)


def serves_a_task(response: Response) -> bool:
    return "id=next_task" in response.url


def prediction_of(studio: Studio, project: TinyProject, task_id: int) -> dict[str, Any]:
    serving = project.serving()
    assert serving is not None
    [found] = [p for p in studio.predictions(task_id) if p["model_version"] == serving.name]
    assert found["result"], "a task without predicted cells shows nothing to look at"
    return found


def sees_the_masks(page: Page, prediction: dict[str, Any]) -> None:
    """Wait until each region is listed with its label and the masks are on the canvas."""
    listed = page.locator(".lsf-outliner-item__title")
    labels = [region["value"]["brushlabels"][0] for region in prediction["result"]]
    expect(listed).to_have_text(labels, timeout=LIMIT_MS)
    predicted = np.any(list(masks(prediction["result"]).values()), axis=0)
    wait_until(lambda: agreement(coloured(page), predicted) > 0.98, 60, "the masks on the canvas")


def coloured(page: Page) -> npt.NDArray[np.bool_]:
    """[H, W] of the shown image, in screen pixels: where it is not grey."""
    shown = page.locator("img[alt=image]").bounding_box()
    assert shown is not None
    pixels = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=shown))).convert("RGB"))
    spread: npt.NDArray[np.int64] = np.ptp(pixels.astype(int), axis=2)
    return spread > COLOURED


def agreement(seen: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]) -> float:
    """The lesser of two shares: of the prediction that is seen, and of what is seen that was
    predicted. Pixels within ``EDGE_PX`` of an edge may be either: the browser smooths them."""
    height, width = seen.shape
    enlarged = np.asarray(
        Image.fromarray(predicted).resize((width, height), Image.Resampling.NEAREST)
    ).astype(np.uint8)
    square = np.ones((2 * EDGE_PX + 1, 2 * EDGE_PX + 1), np.uint8)
    inside = cv2.erode(enlarged, square) > 0
    around = cv2.dilate(enlarged, square) > 0
    assert inside.any(), "the predicted masks are too thin to tell"
    found, right = seen[inside].mean(), around[seen].mean() if seen.any() else 0.0
    return float(min(found, right))


def masks(result: list[dict[str, Any]]) -> dict[str, npt.NDArray[np.bool_]]:
    return {
        region["value"]["brushlabels"][0]: brush.decode(
            region["value"]["rle"], region["original_height"], region["original_width"]
        )
        > 127
        for region in result
    }
