"""A new user's first hour, by mouse and keyboard in a real browser, on the demo of `make run`.

Ten images are labelled by clicks and strokes, one of them wrongly; the round is watched on the
dashboard; the wrong label is looked for in *Check labels*; the first version is gone back to. Each
step leaves a picture in test-artifacts/walkthrough, to be looked at, and what was measured is
printed: how long the page took, and how far off the dashboard's time left was. `make screenshots`
runs it.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from playwright.sync_api import Browser, Page

from backend.insight.next_step import STAGE_WORDS
from backend.label_studio import brush
from backend.label_studio.bulk import Studio
from backend.label_studio.reserved_controls import RESERVED
from backend.ledger import Ledger, Project
from backend.local.demo.drawn import SIZE_PX, draw
from backend.web.dashboard.routes import FAST_S
from tests.demo import ALL_DRAWN, ROUND_LIMIT_S, Demo, open_dashboard, open_label_studio
from tests.limits import wait_until
from tests.live.harness.label_page import LabelPage
from tests.live.harness.servers import ROOT

PICTURES = ROOT / "test-artifacts/walkthrough"
WIDE = {"width": 1400, "height": 900}
"""With both switches of *Auto-Annotation* shown, a narrower window cuts *Submit* off."""

IMAGES = 10
CLICKS = 2
"""In an image, at most: at what is missing most."""

FEWEST_PX = 60
"""Of a particle that is worth a click."""

Mask = npt.NDArray[np.uint8]


@dataclass
class Walk:
    """What is at hand on the way, and what was measured.

    Attributes:
        row: the demo's project.
        took: seconds of each thing that the annotator waited for.
        planted: the task that was labelled wrongly.
    """

    annotator: LabelPage
    dashboard: Page
    studio: Studio
    ledger: Ledger
    row: Project
    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    planted: int | None = None
    pictures: int = 0

    def picture(self, page: Page, name: str) -> None:
        self.pictures += 1
        page.screenshot(path=PICTURES / f"{self.pictures:02d}-{name}.png")

    def timed(self, what: str, act: Callable[[], Any]) -> Any:
        started = time.monotonic()
        found = act()
        self.took[what].append(time.monotonic() - started)
        return found


def walk(browser: Browser, running: Demo) -> None:
    """All of it, on a demo whose first version serves."""
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    url = str(running.settings.label_studio_url)
    ledger = Ledger(running.settings.ledger_url)
    with Studio(*running.settings.label_studio()) as studio:
        way = Walk(
            open_label_studio(browser, running, viewport=WIDE),
            open_dashboard(browser, running),
            studio,
            ledger,
            ledger.projects.of_studio(url, running.project()["project"]),
        )
        before = newest_round(way)
        label_ten(way)
        watch(way, before, "round")
        check_labels(way)
        before = newest_round(way)
        roll_back(way)
        watch(way, before, "rollback-round")
    ledger.close()
    for what, seconds in way.took.items():
        print(
            f"{what}: {statistics.median(seconds):.2f} s (median of {len(seconds)}), "
            f"at most {max(seconds):.2f} s",
            flush=True,
        )


# ---- labelling ---------------------------------------------------------------------------------


def label_ten(way: Walk) -> None:
    serving = way.ledger.publications.serving(way.row.id)
    assert serving is not None
    whys = {place.task_id: place.why for place in way.ledger.publications.ranking(serving.id)}
    way.annotator.open_project(way.row.studio_id)
    way.picture(way.annotator.page, "queue")
    task = way.timed("opening a task", way.annotator.label_all)
    for number in range(1, IMAGES + 1):
        if number == 1:
            way.picture(way.annotator.page, "first-task")
            way.annotator.answer_clicks()
        truth, classes = truth_of(way, task)
        [shown] = [
            each for each in way.studio.predictions(task) if each["model_version"] == serving.name
        ]
        predicted = predicted_mask(shown["result"], classes)
        if way.planted is None and number > 2 and whys[task] != "audit":
            if plant(way, predicted, classes):
                way.planted = task
        else:
            correct(way, truth, predicted, classes)
        way.picture(way.annotator.page, f"label-{number}-{whys[task]}")
        task = way.timed("submitting, and opening the next task", way.annotator.submit)


def truth_of(way: Walk, task_id: int) -> tuple[Mask, tuple[str, ...]]:
    """A drawn field's exact mask [H, W], and the names of its classes by index."""
    from training.datasets.urine_sediment import CLASSES

    [task] = way.studio.tasks(way.row.studio_id, ids=[task_id])
    number = re.search(r"field-(\d+)-laboratory", str(task.data["image"]))
    assert number is not None
    packed = np.frombuffer(draw(int(number[1])).mask_png, np.uint8)
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE), np.uint8), CLASSES


def predicted_mask(result: list[dict[str, Any]], classes: tuple[str, ...]) -> Mask:
    mask = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    for region in result:
        if region["from_name"] not in RESERVED:
            value = region["value"]
            drawn = brush.decode(value["rle"], region["original_height"], region["original_width"])
            mask[drawn > 127] = classes.index(value["brushlabels"][0])
    return mask


def correct(way: Walk, truth: Mask, predicted: Mask, classes: tuple[str, ...]) -> None:
    """Clicks at the largest particles that are missing, and a stroke through the next one."""
    size = truth.shape
    missing = missing_particles(truth, predicted)
    for place, (index, particle) in enumerate(missing[: CLICKS + 1]):
        at, path = middle_and_axis(particle)
        label = classes[index]
        if place < CLICKS:
            act = partial(way.annotator.smart_point, label, at, size)
            way.timed("a click, until it is saved", partial(way.annotator.save, act))
        else:
            act = partial(way.annotator.paint, label, path, size)
            way.timed("a stroke, until it is saved", partial(way.annotator.save, act))


def missing_particles(truth: Mask, predicted: Mask) -> list[tuple[int, Mask]]:
    """Class and mask of those that are mostly predicted as something else, the largest first."""
    found = []
    for index in range(1, int(truth.max()) + 1):
        count, numbers = cv2.connectedComponents((truth == index).astype(np.uint8))
        for number in range(1, count):
            particle = (numbers == number).astype(np.uint8)
            if particle.sum() >= FEWEST_PX and (predicted[particle > 0] == index).mean() < 0.5:
                found.append((index, particle))
    return sorted(found, key=lambda each: -int(each[1].sum()))


def middle_and_axis(particle: Mask) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """Where a particle is thickest, and the ends of its longest line, a third of the way in."""
    padded = np.pad(particle, 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = (int(each) for each in np.unravel_index(depth.argmax(), depth.shape))
    points = np.argwhere(particle > 0)
    middle = points.mean(axis=0)
    axis = np.linalg.svd(points - middle, full_matrices=False)[2][0]
    along = (points - middle) @ axis
    ends = [middle + axis * along.min() / 1.5, middle + axis * along.max() / 1.5]
    return (row, column), [(round(end[0]), round(end[1])) for end in ends]


def plant(way: Walk, predicted: Mask, classes: tuple[str, ...]) -> bool:
    """Give the largest region another label; False where too little is predicted to matter."""
    sizes = np.bincount(predicted.ravel(), minlength=len(classes))[1:]
    index = int(sizes.argmax()) + 1
    if sizes[index - 1] < 20 * FEWEST_PX:
        return False
    other = classes[1 + index % (len(classes) - 1)]
    way.annotator.relabel(classes[index], other)
    print(f"planted: {classes[index]} labelled as {other}", flush=True)
    return True


# ---- watching ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What the dashboard said at a moment; ``left_s`` None where it gave no estimate."""

    at: float
    stage: str
    progress: float
    left_s: float | None


def newest_round(way: Walk) -> int:
    newest = way.ledger.rounds.last(way.row.id)
    return 0 if newest is None else newest.id


def watch(way: Walk, before: int, name: str) -> None:
    """Read the page as it renews itself until a round after ``before`` has ended; print how right
    it was."""
    page, readings, seen = way.dashboard, list[Reading](), set[str]()
    page.goto("./")
    way.picture(page, f"{name}-begins")

    def ended() -> float | None:
        reading = read_page(page)
        if reading is not None:
            readings.append(reading)
            if reading.stage not in seen:
                seen.add(reading.stage)
                way.picture(page, f"{name}-{reading.stage}")
        newest = way.ledger.rounds.last(way.row.id)
        return newest.ended_at if newest is not None and newest.id > before else None

    ended_at = wait_until(ended, ROUND_LIMIT_S, "the round to end", every_s=FAST_S)
    assert ended_at is not None  # wait_until gives what is truthy
    page.reload()
    way.picture(page, f"{name}-ended")
    report_estimates(name, readings, ended_at)


SHOWN = """() => {
    const now = document.querySelector("#progress li.now");
    const left = document.querySelector("#progress p strong");
    return now && [now.innerText, now.querySelector("progress").value, left ? left.innerText : ""];
}"""
"""At one moment: the page renews itself."""


def read_page(page: Page) -> Reading | None:
    """None where the page shows no round under way."""
    shown = page.evaluate(SHOWN)
    if shown is None:
        return None
    words, progress, text = shown
    stage = next(stage for stage, said in STAGE_WORDS.items() if words.startswith(said))
    found = re.fullmatch(r"(?:(\d+) h ?)?(?:(\d+) min ?)?(?:(\d+) s)?", text) if text else None
    if found is None:
        return Reading(time.time(), stage, progress, None)
    hours, minutes, seconds = (int(each or 0) for each in found.groups())
    return Reading(time.time(), stage, progress, 3600 * hours + 60 * minutes + seconds)


def report_estimates(name: str, readings: list[Reading], ended_at: float) -> None:
    """Print the median of |told - true| / true, for each stage too; keep all readings."""
    rows = [{**asdict(each), "true": ended_at - each.at} for each in readings]
    (PICTURES / f"{name}-estimates.json").write_text(json.dumps(rows, indent=1))
    errors: dict[str, list[float]] = defaultdict(list)
    for each in readings:
        true = ended_at - each.at
        if each.left_s is not None and true > 0:
            errors[each.stage].append(abs(each.left_s - true) / true)
    every = [error for each in errors.values() for error in each]
    print(f"{name}: {len(rows)} readings, {len(every)} with an estimate", flush=True)
    for stage, found in {"all": every, **errors}.items():
        if found:
            print(f"  {stage}: median error {statistics.median(found):.0%} of {len(found)}")


# ---- looking back ------------------------------------------------------------------------------


def check_labels(way: Walk) -> None:
    page = way.dashboard
    for path in ("learning", "classes", "measures"):
        page.goto(path)
        way.picture(page, path)
    page.goto("labels")
    page.wait_for_function(ALL_DRAWN)
    way.picture(page, "check-labels")
    listed = page.locator("ol.pairs > li").all_inner_texts()
    places = [n for n, text in enumerate(listed, 1) if f"Task {way.planted}:" in text]
    print(f"the planted label, task {way.planted}, stands at {places} of {len(listed)}", flush=True)
    if places:
        row = page.locator("ol.pairs > li").nth(places[0] - 1)
        row.scroll_into_view_if_needed()
        page.wait_for_function(ALL_DRAWN)
        way.picture(page, "planted-label")
        link = row.get_by_role("link", name=f"Task {way.planted}", exact=True)
        address = str(link.get_attribute("href"))
        # In a window of its own: that of the labelling may ask whether to leave it.
        opened = LabelPage(way.annotator.page.context.new_page(), address)
        opened.page.goto(address)
        opened.regions.first.wait_for()
        way.picture(opened.page, "planted-label-in-label-studio")


def roll_back(way: Walk) -> None:
    page = way.dashboard
    page.goto("versions")
    way.picture(page, "versions")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_function(ALL_DRAWN)
    way.picture(page, "compare")
    page.goto("versions")
    page.get_by_role("link", name="Go back to this version").first.click()
    way.picture(page, "roll-back-asked")
    page.get_by_role("button", name="Yes").click()
    page.locator("#done").wait_for()
    way.picture(page, "rolled-back")
