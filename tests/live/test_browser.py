"""The loop as an annotator meets it: a real Chromium in front of a real Label Studio.

Its screenshots stay in test-artifacts/ (git-ignored), to be looked at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from backend.actions.connect import connect_project
from backend.label_studio import brush
from backend.label_studio.bulk import Studio
from backend.label_studio.reserved_controls import LAYER, RESERVED
from backend.rounds.schedule import is_audit
from backend.rounds.stages.layers import ASKED
from tests.limits import wait_until
from tests.live.harness.label_page import LIMIT_MS, LabelPage
from tests.live.harness.servers import ROOT, LabelStudio
from tests.live.harness.stack import (
    CLASSES,
    SIDE_PX,
    TINY,
    Mask,
    Stack,
    TinyProject,
    make_project,
)

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.timeout(600)]

INITIAL = 6
AUDITS = 3
HAZE = 3  # of 255
EDGE_PX = 3  # of the screen
PICTURES = ROOT / "test-artifacts"


@pytest.fixture(scope="module")
def trained(stack: Stack) -> TinyProject:
    """A project whose first publication serves."""
    project = make_project(stack, "browser", 16, retrain_every=INITIAL)
    project.label(*project.few(INITIAL))
    row = stack.await_round(project)
    assert (row.state, row.error) == ("succeeded", None)
    return project


@pytest.fixture(scope="module")
def layered(stack: Stack) -> TinyProject:
    """A project with layers and smart clicks, whose queue holds audits, whose queue serves."""
    project = make_project(stack, "browser layers", 20, audit_fraction=0.01)
    slug = stack.work.ledger.projects.get(project.row_id).slug
    fractions = (percent / 100 for percent in range(1, 51))
    chosen = next(f for f in fractions if len(audits_of(project, slug, f)) == AUDITS)
    options = {**TINY, "audit_fraction": chosen}
    connect_project(stack.work, project.id, options, click=True, layer=True)
    audits = audits_of(project, slug, chosen)
    teaching = replace(project, tasks=tuple(t for t in project.tasks if t not in audits))
    project.label(*teaching.few(INITIAL))
    stack.work.ledger.events.add(project.row_id, "RETRAIN")
    row = stack.await_round(project)
    assert (row.state, row.error) == ("succeeded", None)
    stack.wait(project.serving, "a publication to serve")
    return project


def audits_of(project: TinyProject, slug: str, fraction: float) -> set[int]:
    return {task for task in project.tasks if is_audit(slug, task, fraction)}


@pytest.fixture(scope="module")
def annotator(page: Page, label_studio: LabelStudio) -> LabelPage:
    PICTURES.mkdir(exist_ok=True)
    found = LabelPage(page, label_studio.url)
    found.log_in(label_studio.user, label_studio.password)
    return found


def test_an_annotator_labels_the_queue_in_its_order(
    annotator: LabelPage, trained: TinyProject, studio: Studio
) -> None:
    first, second = trained.ranking()[:2]
    annotator.open_project(trained.id)
    picture(annotator, "queue")

    assert annotator.label_all() == first
    shown = prediction_of(studio, trained, first)
    sees_the_masks(annotator, shown)
    picture(annotator, "first-task")

    assert annotator.submit() == second
    sees_the_masks(annotator, prediction_of(studio, trained, second))
    picture(annotator, "second-task")

    [annotation] = studio.annotations(first)
    assert annotation["parent_prediction"] == shown["id"]
    assert {region["origin"] for region in annotation["result"]} == {"prediction"}
    assert masks(annotation["result"]).keys() == masks(shown["result"]).keys()
    events = trained.stack.work.ledger.events.pending(trained.row_id)
    assert [e.ids for e in events if e.action == "ANNOTATION_CREATED"] == [[annotation["id"]]]


def test_the_colours_that_were_seen_are_the_masks(
    annotator: LabelPage, trained: TinyProject
) -> None:
    """What the check above stands on: with the regions hidden, nothing of the field has colour."""
    annotator.page.get_by_label("Hide all regions").click()
    wait_until(lambda: not annotator.coloured().any(), 30, "the masks to vanish")


def test_layers_are_seen_and_never_read_and_clicks_give_particles(
    annotator: LabelPage, layered: TinyProject, stack: Stack, studio: Studio
) -> None:
    serving = layered.serving()
    assert serving is not None
    places = stack.work.ledger.publications.ranking(serving.id)
    assert {"audit", "chance"} <= {place.why for place in places}
    for place in places:
        assert len(layers_of(prediction_of(studio, layered, place.task_id))) == (place.why in ASKED)

    # Without a change, one that is asked and one that is not.
    annotator.open_project(layered.id)
    opened = annotator.label_all()
    left_alone: dict[bool, int] = {}
    for place in places:
        assert opened == place.task_id
        asked = place.why in ASKED
        expect(annotator.layers).to_have_count(int(asked), timeout=LIMIT_MS)
        if asked and not left_alone.get(True):
            shows_where_it_is_unsure(annotator, prediction_of(studio, layered, opened))
        left_alone.setdefault(asked, opened)
        opened = annotator.submit()
        if len(left_alone) == 2:
            break

    clicked, at, label = opened, *middle_of_a_particle(layered.masks[opened])
    annotator.answer_clicks()
    if any(place.task_id == clicked and place.why in ASKED for place in places):
        annotator.toggle_layer()  # its haze would be taken for a label
    answers_a_click(annotator, at, label)
    annotator.submit()
    [annotation] = studio.annotations(clicked)
    assert masks(annotation["result"])[label][at]

    stack.work.ledger.events.add(layered.row_id, "RETRAIN")
    row = stack.await_round(layered, 2)
    assert (row.state, row.error, row.problems) == ("succeeded", None, [])
    digests = {entry["task"]: entry["digest"] for entry in row.manifest}
    slug = stack.work.ledger.projects.get(layered.row_id).slug
    for task_id in (*left_alone.values(), clicked):
        [annotation] = studio.annotations(task_id)
        learnt = stack.work.registry.get_example(slug, digests[task_id]).mask
        for label, mask in masks(annotation["result"]).items():
            assert ((learnt == CLASSES.index(label)) == mask).mean() > 0.99
    [annotation] = studio.annotations(left_alone[True])
    assert len(layers_of(annotation)) == 1
    evidence = {each.task_id: each for each in stack.work.ledger.evidence.all(layered.row_id)}
    # Nobody changed it, and it is judged by the version that had predicted it.
    assert evidence[left_alone[True]].error < 0.01
    kinds = [
        kind
        for each in stack.work.ledger.parts.results(row.id, "collect")
        for kind, _, _ in each["regions"]
    ]
    assert set(kinds) == {"read"}


def shows_where_it_is_unsure(annotator: LabelPage, prediction: dict[str, Any]) -> None:
    """The layer has one entry, whose eye hides it, and a text to be read."""
    [layer] = layers_of(prediction)
    annotator.toggle_layer()
    sees_the_masks(annotator, prediction)
    without = annotator.pixels().astype(int)
    annotator.toggle_layer()
    alpha = brush.decode(layer["value"]["rle"], layer["original_height"], layer["original_width"])

    def appears() -> bool:
        # Magenta takes green away.
        hazy = (annotator.pixels() - without)[..., 1] < -HAZE
        return agreement(hazy, alpha > 0) > 0.9

    wait_until(appears, 30, "the layer to appear")
    picture(annotator, "layer")
    annotator.layers.click()
    expect(annotator.page.get_by_text(layer["meta"]["text"][0])).to_be_visible(timeout=LIMIT_MS)
    picture(annotator, "layer-text")
    annotator.page.keyboard.press("Escape")


def answers_a_click(annotator: LabelPage, at: tuple[int, int], label: str) -> None:
    """A click, a click with Alt and a third one change what is seen there."""
    size, row, column = (SIDE_PX, SIDE_PX), *at
    shown = annotator.image.bounding_box()
    assert shown is not None
    on_screen = [int((each + 0.5) * shown["height"] / SIDE_PX) for each in (row, column)]

    def labelled() -> bool:
        return bool(annotator.coloured()[*on_screen])

    for number, away in enumerate((False, True, False), start=1):
        annotator.save(lambda away=away: annotator.smart_point(label, at, size, away=away))
        picture(annotator, f"click-{number}")
        wait_until(lambda away=away: labelled() != away, 30, "the particle to change")


def middle_of_a_particle(mask: Mask) -> tuple[tuple[int, int], str]:
    """Row and column, and the class, of the particle that is thickest."""
    depths = {
        index: cv2.distanceTransform(np.pad((mask == index).astype(np.uint8), 1), cv2.DIST_L2, 5)
        for index in (1, 2)
    }
    index = max(depths, key=lambda each: float(depths[each].max()))
    row, column = np.unravel_index(depths[index].argmax(), depths[index].shape)
    return (int(row) - 1, int(column) - 1), CLASSES[index]


def picture(annotator: LabelPage, name: str) -> None:
    annotator.page.screenshot(path=PICTURES / f"{name}.png")


def prediction_of(studio: Studio, project: TinyProject, task_id: int) -> dict[str, Any]:
    serving = project.serving()
    assert serving is not None
    [found] = [p for p in studio.predictions(task_id) if p["model_version"] == serving.name]
    return found


def layers_of(holder: dict[str, Any]) -> list[dict[str, Any]]:
    return [region for region in holder["result"] if region["from_name"] == LAYER]


def sees_the_masks(annotator: LabelPage, prediction: dict[str, Any]) -> None:
    """Wait until each region is listed with its label and the masks are on the canvas."""
    labels = [region["value"]["brushlabels"][0] for region in prediction["result"]]
    assert labels, "a task without predicted cells shows nothing to look at"
    expect(annotator.regions).to_have_text(labels, timeout=LIMIT_MS)
    predicted = np.any(list(masks(prediction["result"]).values()), axis=0)

    def seen() -> bool:
        return agreement(annotator.coloured(), predicted) > 0.98

    wait_until(seen, 60, "the masks on the canvas")


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
        if region["from_name"] not in RESERVED
    }
