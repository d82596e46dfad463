"""Label Studio's page as an annotator uses it: by mouse and keyboard, in a real browser."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import Locator, Page, Response, expect

from backend.label_studio.reserved_controls import UNSURE

LIMIT_MS = 60_000

# What has colour on a grey image is a mask. A channel more than this above another is no rounding
# of a grey.
COLOURED = 40

Size = tuple[int, int]


class LabelPage:
    """A page that is to be logged in."""

    def __init__(self, page: Page, url: str) -> None:
        page.set_default_timeout(LIMIT_MS)
        self.page, self._url = page, url

    def log_in(self, email: str, password: str) -> None:
        self.page.goto(f"{self._url}/user/login/")
        self.page.fill("input[name=email]", email)
        self.page.fill("input[name=password]", password)
        self.page.click("button[type=submit]")
        self.page.wait_for_url(lambda address: "/user/login" not in address)

    def open_project(self, project_id: int) -> None:
        """The list of tasks, in the committee's order."""
        self.page.goto(f"{self._url}/projects/{project_id}/data")
        self.page.get_by_text("Committee queue").click()
        expect(self._label_all).to_be_visible(timeout=LIMIT_MS)

    def label_all(self) -> int:
        """Begin to label in the queue's order; the first task."""
        with self.page.expect_response(_serves_a_task) as answer:
            self._label_all.click()
        return self._opened(answer.value)

    def submit(self) -> int:
        """The next task."""
        with self.page.expect_response(_serves_a_task) as answer:
            self.page.get_by_test_id("bottombar-submit-button").click()
        return self._opened(answer.value)

    def _opened(self, answer: Response) -> int:
        task: int = answer.json()["id"]
        expect(self.image).to_be_visible(timeout=LIMIT_MS)
        expect(self.page.get_by_test_id("bottombar-submit-button")).to_be_enabled(timeout=LIMIT_MS)
        return task

    @property
    def _label_all(self) -> Locator:
        return self.page.get_by_role("button", name="Label All Tasks")

    @property
    def image(self) -> Locator:
        return self.page.locator("img[alt=image]")

    @property
    def regions(self) -> Locator:
        """The labels in the list of regions."""
        return self.page.locator(".lsf-outliner-item__title")

    @property
    def layers(self) -> Locator:
        """The uncertainty layers in that list: one at most."""
        return self.regions.filter(has_text=UNSURE)

    def toggle_layer(self) -> None:
        """Press its eye."""
        row = self.page.locator(".lsf-outliner-item").filter(has_text=UNSURE)
        row.hover()
        row.locator(".lsf-outliner-item__control_type_visibility button").click()

    def answer_clicks(self) -> None:
        """Switch *Auto-Annotation* on, and accept what is answered."""
        for name in ("Auto-Annotation", "Auto-Accept Suggestions"):
            self.page.get_by_text(name, exact=True).click()

    def smart_point(
        self, label: str, at: tuple[int, int], size: Size, *, away: bool = False
    ) -> None:
        """Click with the smart point, and wait for the answer.

        Args:
            at: row and column of the image.
            size: its H, W in pixels.
            away: hold Alt.
        """
        self.page.keyboard.press("Escape")
        self.page.locator(".lsf-tool_smart").first.hover()
        self.page.get_by_label("key-point-tool").click()
        # The labels of the smart point stand after those to paint with.
        self._label(label).nth(1).click()
        # Without Ctrl a click on what is labelled selects that, and asks nothing.
        held = ["Control", "Alt"] if away else ["Control"]
        for key in held:
            self.page.keyboard.down(key)
        with self.page.expect_response(lambda each: "interactive-annotating" in each.url):
            self.page.mouse.click(*self._on_screen(at, size))
        for key in reversed(held):
            self.page.keyboard.up(key)

    def _label(self, name: str) -> Locator:
        """The buttons of a label, of each control: its name, and a key."""
        return self.page.locator(".lsf-label", has_text=re.compile(rf"^{re.escape(name)}\W*\w?$"))

    def paint(self, label: str, path: Sequence[tuple[int, int]], size: Size) -> None:
        """A stroke of the brush through these rows and columns of the image."""
        self.page.keyboard.press("Escape")
        self._label(label).first.click()
        first, *others = (self._on_screen(at, size) for at in path)
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for each in others:
            self.page.mouse.move(*each, steps=5)
        self.page.mouse.up()

    def _on_screen(self, at: tuple[int, int], size: Size) -> tuple[float, float]:
        shown = self.image.bounding_box()
        assert shown is not None
        row, column = at
        return (
            shown["x"] + (column + 0.5) / size[1] * shown["width"],
            shown["y"] + (row + 0.5) / size[0] * shown["height"],
        )

    def pixels(self) -> npt.NDArray[np.uint8]:
        """[H, W, 3] of the shown image, in screen pixels."""
        shown = self.image.bounding_box()
        assert shown is not None
        picture = Image.open(io.BytesIO(self.page.screenshot(clip=shown)))
        return np.asarray(picture.convert("RGB"))

    def coloured(self) -> npt.NDArray[np.bool_]:
        """[H, W] of the shown image, in screen pixels: where it is not grey."""
        spread: npt.NDArray[np.int64] = np.ptp(self.pixels().astype(int), axis=2)
        return spread > COLOURED

    def save(self, act: Callable[[], object]) -> None:
        """Do it, and wait until Label Studio has kept it as a draft: clicks are answered from that,
        so that an earlier one would lose what was done."""
        with self.page.expect_response(lambda each: "/drafts" in each.url):
            act()

    def relabel(self, label: str, other: str) -> None:
        """Give a region of one label another one, as a slip of the hand does."""
        self.page.keyboard.press("Escape")
        self.regions.filter(has_text=label).first.click()
        self._label(other).first.click()
        expect(self.regions.filter(has_text=other).first).to_be_visible()
        self.page.keyboard.press("Escape")


def _serves_a_task(response: Response) -> bool:
    return "id=next_task" in response.url
