"""The labels to look at again, and what the pages show of labelled images."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from backend.commands import check_labels as command
from backend.insight.label_list import label_list
from backend.insight.label_text import describe_labels
from tests.backend.web.dashboard.conftest import VIEWER, Page
from tests.backend.web.dashboard.filled import CLASSES, NUMBER, fill
from tests.backend.web.dashboard.kept import SIZE, keep_predictions
from training.colours import class_colour, rgb
from training.figures.overlay import VEIL

HOME = f"/projects/{NUMBER}"


def shown(data: bytes) -> NDArray[np.float64]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image[..., ::-1], np.float64)


def test_the_most_contradicted_labels_stand_first_with_both_masks_and_their_task(
    pages: Page,
) -> None:
    fill(pages.work)
    text = pages.text(f"{HOME}/labels", VIEWER)
    assert "Of 80 labels, version 8 contradicts these most:" in text
    assert text.count("/label-240.webp") == text.count("/predicted-240.webp") == 20
    assert f'src="{HOME}/versions/8/1000/label-240.webp"' in text
    assert text.index("data?task=1000") < text.index("data?task=1001")
    assert "3.0% of the image is contradicted" in text


def test_annotators_who_disagree_and_images_of_no_use_are_listed(pages: Page) -> None:
    fill(pages.work)
    text = pages.text(f"{HOME}/labels")
    assert "User 1 and user 4" in text
    assert "task 1004</a> (0.500)" in text
    assert "1 image of the queue is far less sharp" in text
    assert 'data?task=60">Task 60</a> <span class="tag">blurred</span>' in text


def test_before_a_version_and_with_one_of_an_earlier_release_the_page_says_why_it_is_empty(
    pages: Page,
) -> None:
    row = fill(pages.work, rounds=0)
    text = pages.text(f"{HOME}/labels")
    assert "no version yet, so no label has been judged" in text
    assert "No task that was read has labels of two people" in text
    row = fill(pages.work)
    version = pages.work.ledger.versions.promoted(row.id)
    assert version is not None
    with pages.work.ledger.database.write() as db:
        version.metrics = {"scores": {}}
        db.merge(version)
    assert "Version 8 keeps no judgement of the labels" in pages.text(f"{HOME}/labels")


@pytest.mark.parametrize("layer", ["label", "predicted"])
def test_a_picture_shows_the_label_or_what_was_predicted_of_it_unseen(
    pages: Page, layer: str
) -> None:
    row = fill(pages.work)
    keep_predictions(pages.work, row, 8)
    path = f"{HOME}/versions/8/1003/{layer}-240.webp"
    answer = pages.client.get(path, auth=VIEWER)
    assert (answer.status_code, answer.mimetype) == (200, "image/webp")
    image = shown(answer.data)
    height, width = SIZE
    painted = np.array(rgb(class_colour(1))) * VEIL + 100 * (1 - VEIL)
    upper, lower = image[10 : height // 2 - 8], image[height // 2 + 8 : -10]
    left = slice(10, width // 2 - 10)
    np.testing.assert_allclose(upper[:, left].mean(axis=(0, 1)), painted, atol=8)
    below = painted if layer == "label" else (100, 100, 100)
    np.testing.assert_allclose(lower[:, left].mean(axis=(0, 1)), below, atol=8)
    np.testing.assert_allclose(lower[:, width // 2 + 8 :].mean(axis=(0, 1)), 100, atol=8)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("8/1003/label-4000.webp", 404),
        ("8/1003/secret-240.webp", 404),
        ("8/77/label-240.webp", 400),
        ("7/1003/predicted-240.webp", 400),
        ("99/1003/label-240.webp", 400),
    ],
)
def test_what_is_not_kept_is_a_refusal(pages: Page, path: str, status: int) -> None:
    keep_predictions(pages.work, fill(pages.work), 8)
    pages.text(f"{HOME}/versions/{path}", VIEWER, status)


def test_a_label_that_was_pruned_is_shown_as_a_newer_round_read_it(pages: Page) -> None:
    row = fill(pages.work)
    keep_predictions(pages.work, row, 7, 8)
    pages.work.registry.prune_examples(row.slug, {"e1004"})
    pages.text(f"{HOME}/versions/7/1003/label-240.webp", VIEWER, 400)
    path = f"{HOME}/versions/7/1004/label-240.webp"
    assert pages.client.get(path, auth=VIEWER).status_code == 200


def test_two_versions_are_shown_on_the_images_where_they_differ_most(pages: Page) -> None:
    row = fill(pages.work)
    path = f"{HOME}/versions/compare?left=7&right=8"
    assert "The same images by both" not in pages.text(path)  # neither keeps its predictions
    keep_predictions(pages.work, row, 7, 8)
    text = pages.text(path)
    assert text.count(f"{HOME}/versions/7/") - text.count("/sheet.png") >= 12
    assert text.count("predicted-240.webp") == 12
    assert text.count("label-240.webp") == 6


def test_classes_show_what_is_taken_for_what_and_their_worst_images(pages: Page) -> None:
    fill(pages.work)
    text = pages.text(f"{HOME}/classes")
    assert "<td>background</td><td>4.32%</td><td>4,321</td>" in text
    assert f"{HOME}/versions/8/1001/predicted-240.webp" in text
    assert f"{CLASSES[2]}: worst" not in text


def test_learning_says_what_pre_annotations_save(pages: Page) -> None:
    fill(pages.work)
    text = pages.text(f"{HOME}/learning")
    assert (
        "A label that begins with a pre-annotation takes 43 s, one from nothing 1 min 33 s" in text
    )
    assert "over the 50 labels that did" in text
    assert "Seconds of a label over the labels made so far" in text


def test_the_command_prints_what_the_page_shows(
    pages: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = fill(pages.work)
    found = label_list(pages.work.ledger, row)
    monkeypatch.setattr(command, "open_workplace", lambda: Opened(pages.work))
    told = CliRunner().invoke(command.check_labels, ["--project", str(NUMBER)]).output
    assert told == f"{describe_labels(found)}\n"
    assert "task 1000: labelled" in told
    assert "and 60 more" in told
    assert "Users 1 and 4 overlap by 0.700 (Dice) on 3 tasks, least on 1004 (0.50)." in told
    printed = CliRunner().invoke(command.check_labels, ["--project", str(NUMBER), "--json"])
    kept: dict[str, Any] = json.loads(printed.output)
    assert kept["rows"][0]["task"] == 1000
    assert kept["unusable"] == [{"task": 60, "why": "blurred"}]


class Opened:
    """A workplace that stays open after the command."""

    def __init__(self, work: object) -> None:
        self._work = work

    def __enter__(self) -> object:
        return self._work

    def __exit__(self, *_: object) -> None:
        pass
