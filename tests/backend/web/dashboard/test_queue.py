"""The queue: who is next and why, pictures of their images, and what everybody skips."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from backend.errors import Busy, StudioUnreachable
from backend.insight import task_picture
from backend.insight.task_picture import UNCERTAIN_COLOUR
from backend.label_studio.bulk import Stamp, Task
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.regions import to_regions
from backend.web.dashboard import background
from backend.web.dashboard.pictures import AT_ONCE, KEPT, WAITING, Pictures
from tests.backend.web.dashboard.conftest import VIEWER, Page
from tests.backend.web.dashboard.filled import CLASSES, NUMBER, fill
from tests.backend.workplaces import brush_config
from tests.limits import wait_until
from training.colours import class_colour, rgb

QUEUE = f"/projects/{NUMBER}/queue"
HEIGHT, WIDTH = 60, 120
GREY = 100


def grey_png() -> bytes:
    done, data = cv2.imencode(".png", np.full((HEIGHT, WIDTH, 3), GREY, np.uint8))
    assert done
    return bytes(data.tobytes())


def left_half() -> list[dict[str, Any]]:
    """Regions of a prediction: the left half is of the second class."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, : WIDTH // 2] = 2
    config = parse_label_config(brush_config(*CLASSES[1:]))
    sure = np.ones(mask.shape, np.float32)
    return to_regions(mask, sure, config, CLASSES, per="class", min_particle_px=1)


class FakeStudio:
    """As much of Label Studio as the queue asks: 60 tasks, the first of which is labelled."""

    def __init__(self) -> None:
        self.labelled, self.skipped, self.down = {1}, {2}, False

    def __enter__(self) -> FakeStudio:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def whoami(self) -> dict[str, int]:
        return {"id": 1}

    def tasks(self, _project: int, ids: Iterable[int]) -> list[Task]:
        if self.down:
            raise StudioUnreachable("Label Studio did not answer.")
        data = {"image": "/data/upload/1/x.png"}
        return [
            Task(n, data, int(n in self.labelled), int(n in self.skipped)) for n in ids if n <= 60
        ]

    def stamps(self, _project: int) -> dict[int, tuple[Stamp, ...]]:
        again = (Stamp(1, "", True), Stamp(2, "", False))
        return {1: (Stamp(3, "", False),), 2: (Stamp(4, "", True),), 5: again}

    def predictions(self, _task: int) -> list[dict[str, Any]]:
        return [
            {"model_version": "committee-v7.1", "result": []},
            {"model_version": "committee-v8.1", "result": left_half()},
        ]


@pytest.fixture
def fake(pages: Page, monkeypatch: pytest.MonkeyPatch) -> FakeStudio:
    studio = FakeStudio()
    monkeypatch.setattr(background.StudioWatch, "_quick", lambda _self: studio)
    work: Any = pages.work
    work.studio = studio
    work.images = SimpleNamespace(fetch=lambda _url: grey_png())
    fill(pages.work)
    return studio


def decoded(data: bytes) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image[..., ::-1], np.uint8)


def test_the_next_tasks_are_those_that_nobody_has_labelled_or_skipped(
    pages: Page, fake: FakeStudio
) -> None:
    text = pages.text(QUEUE)
    assert "label next, 50 of 60 in this queue" in text
    assert f'href="{QUEUE}/3"' in text
    for gone in (1, 2, 53):
        assert f'href="{QUEUE}/{gone}"' not in text
    assert "rare class" in text
    assert "did not answer" not in text


def test_without_an_answer_of_label_studio_the_queue_is_shown_all_the_same(
    pages: Page, fake: FakeStudio
) -> None:
    fake.down = True
    text = pages.text(QUEUE)
    assert "Label Studio did not answer in time" in text
    assert f'href="{QUEUE}/1"' in text


def test_what_everybody_skips_is_listed_when_asked(pages: Page, fake: FakeStudio) -> None:
    assert "List the tasks" in pages.text(QUEUE)
    text = pages.text(f"{QUEUE}?skipped")
    assert "1 task. Look whether" in text
    assert "/data?task=2" in text


def test_uncertainty_stands_beside_the_masks_when_asked(pages: Page, fake: FakeStudio) -> None:
    assert "uncertainty-240" not in pages.text(QUEUE)
    text = pages.text(f"{QUEUE}?unsure")
    assert text.count("uncertainty-240.webp") == text.count("mask-240.webp") == 50


def test_without_a_queue_the_page_says_so(pages: Page) -> None:
    fill(pages.work, rounds=0)
    assert "No queue serves yet" in pages.text(QUEUE)
    assert "is not in the queue" in pages.text(f"{QUEUE}/3", status=400)


def test_a_task_says_why_it_stands_where_it_does(pages: Page, fake: FakeStudio) -> None:
    text = pages.text(f"{QUEUE}/4", VIEWER)
    assert "Place 4 of 60. It is one of the audit set" in text
    assert "Where the committee is unsure" in text
    assert class_colour(3) in text


def test_a_picture_shows_the_stored_pre_annotation_over_the_image(
    pages: Page, fake: FakeStudio
) -> None:
    answer = pages.client.get(f"{QUEUE}/3/mask-240.webp", auth=VIEWER)
    assert (answer.status_code, answer.mimetype) == (200, "image/webp")
    shown = decoded(answer.data).astype(int)
    assert shown.shape == (HEIGHT, WIDTH, 3)
    half = WIDTH // 2
    painted = np.array(rgb(class_colour(2))) * 0.45 + GREY * 0.55
    np.testing.assert_allclose(shown[:, : half - 8].mean(axis=(0, 1)), painted, atol=6)
    np.testing.assert_allclose(shown[:, half + 8 :].mean(axis=(0, 1)), GREY, atol=6)


def test_a_picture_shows_where_the_committee_is_unsure(
    pages: Page, fake: FakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsure = np.zeros((30, 60), np.float32)
    unsure[:15] = 0.4
    image = np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)
    predicted = SimpleNamespace(maps={"mutual_information": unsure})
    monkeypatch.setattr(task_picture, "predict_image", lambda *_: (image, predicted))
    shown = decoded(pages.client.get(f"{QUEUE}/3/uncertainty-720.webp", auth=VIEWER).data)
    strong = np.array(UNCERTAIN_COLOUR) * 0.85 + GREY * 0.15
    np.testing.assert_allclose(shown[:24].mean(axis=(0, 1)), strong, atol=8)
    np.testing.assert_allclose(shown[36:].mean(axis=(0, 1)), GREY, atol=8)


@pytest.mark.parametrize("path", ["3/mask-4000.webp", "3/secret-240.webp", "99/mask-240.webp"])
def test_no_other_picture_is_drawn(pages: Page, fake: FakeStudio, path: str) -> None:
    status = 400 if path.startswith("99") else 404
    assert pages.client.get(f"{QUEUE}/{path}", auth=VIEWER).status_code == status


def test_a_picture_is_drawn_once_and_the_oldest_is_forgotten() -> None:
    pictures, drawn = Pictures(), []

    def draw(number: int) -> bytes:
        drawn.append(number)
        return bytes([number % 256])

    for number in (*range(KEPT), 0, KEPT, 0, 1):
        assert pictures.get(number, partial(draw, number)) == bytes([number % 256])
    assert drawn == [*range(KEPT + 1), 1]


def test_more_pictures_than_threads_can_be_spared_are_refused_at_once() -> None:
    pictures, go = Pictures(), threading.Event()
    entered = threading.Semaphore(0)

    def draw() -> bytes:
        entered.release()
        assert go.wait(20)
        return b"x"

    threads = [
        threading.Thread(target=pictures.get, args=(number, draw))
        for number in range(AT_ONCE + WAITING)
    ]
    for thread in threads:
        thread.start()
    for _ in range(AT_ONCE):
        assert entered.acquire(timeout=20)
    wait_until(lambda: not pictures._places._value, 20, "the others to wait")
    with pytest.raises(Busy):
        pictures.get("one more", draw)
    go.set()
    for thread in threads:
        thread.join(20)
    assert pictures.get("one more", draw) == b"x"
