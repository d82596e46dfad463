"""Smart clicks through a real Label Studio: it hands them on, and shows what is answered."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import requests

from backend.actions.connect import connect_project, disconnect_project
from backend.label_studio import brush
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.reserved_controls import (
    BOX,
    CLICK,
    LAYER,
    has_layer_control,
    without_controls,
)
from backend.rounds.stages.layers import ASKED
from tests.live.harness.rows import backends_of
from tests.live.harness.stack import CLASSES, Mask, Stack, TinyProject, make_project

pytestmark = pytest.mark.live

KIND = "keypointlabels"


def click_at(row: int, column: int, side: int, **more: Any) -> dict[str, Any]:
    """As the page sends it."""
    value = {"x": 100 * (column + 0.5) / side, "y": 100 * (row + 0.5) / side, "width": 0.5}
    return {
        "id": f"click-{row}-{column}",
        "type": KIND,
        "from_name": CLICK,
        "to_name": "image",
        "original_width": side,
        "original_height": side,
        "image_rotation": 0,
        "origin": "manual",
        "is_positive": True,
        "value": {**value, "labels": [CLASSES[1]], KIND: [CLASSES[1]]},
        **more,
    }


def middle_of_a_particle(mask: Mask) -> tuple[int, int]:
    padded = np.pad((mask == 1).astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), mask.shape)
    return int(row), int(column)


def ask(stack: Stack, project: TinyProject, task_id: int, context: object) -> Any:
    """What Label Studio's own page gets for a click."""
    [backend] = backends_of(stack.work.studio, project.id)
    answer = requests.post(
        f"{stack.label_studio.url}/api/ml/{backend.id}/interactive-annotating",
        json={"task": task_id, "context": context},
        headers={"Authorization": f"Token {stack.label_studio.api_key}"},
        timeout=100,
    )
    return answer.json()["data"]["result"]


def pixels(region: dict[str, Any]) -> Any:
    size = region["original_height"], region["original_width"]
    return brush.decode(region["value"]["rle"], *size) > 127


def test_a_click_in_label_studio_gives_the_particle_and_changes_it_in_place(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    project, studio = make_project(stack, "clicks", 10), stack.work.studio
    before = studio.project(project.id).label_config
    labelled = project.few(4)
    project.label(*labelled)
    connect_project(stack.work, project.id, click=True, layer=True)
    stack.work.ledger.events.add(project.row_id, "RETRAIN")
    assert stack.await_round(project).state == "succeeded"
    stack.wait(project.serving, "a publication to serve")
    [backend] = backends_of(studio, project.id)
    assert backend.is_interactive
    config = studio.project(project.id).label_config
    assert (CLICK in config, BOX in config, has_layer_control(config)) == (True, True, True)
    assert parse_label_config(config) == parse_label_config(before)

    task_id = next(each for each in project.tasks if each not in labelled)
    truth = project.masks[task_id]
    side, (row, column) = truth.shape[0], middle_of_a_particle(truth)
    click = click_at(row, column, side)
    [region] = ask(stack, project, task_id, {"result": [click]})
    assert region["value"]["brushlabels"] == [CLASSES[1]]
    assert pixels(region)[row, column]
    # What the page shows then comes back as its draft, and is changed in place.
    draft = [region, click]
    studio.send("POST", f"/api/tasks/{task_id}/drafts", {"result": draft, "lead_time": 1.0})
    away = click_at(row, column, side, is_positive=False, id="away")
    answered = ask(stack, project, task_id, {"result": [away]})
    assert all(not pixels(each)[row, column] for each in answered)
    assert {each["id"] for each in answered} <= {region["id"]}
    stale = {name: value for name, value in click.items() if name != "is_positive"}
    for nothing in ({}, {"event": "capabilities"}, {"result": [stale]}):
        assert ask(stack, project, task_id, nothing) == []

    # Label Studio stored the layers of those that are asked, and takes one with an annotation.
    asked = [each for each in project.tasks if each not in labelled]
    stored = [part for each in asked for row in studio.predictions(each) for part in row["result"]]
    layers = [part for part in stored if part["from_name"] == LAYER]
    serving = project.serving()
    assert serving is not None
    places = stack.work.ledger.publications.ranking(serving.id)
    assert len(layers) == sum(place.why in ASKED for place in places) > 0
    assert all(layer["readonly"] and "hesitates" in layer["meta"]["text"][0] for layer in layers)
    # A prompt or a layer that is left behind keeps Label Studio from giving its control back.
    studio.annotate(task_id, [*draft, layers[0]])
    disconnect_project(stack.work, project.id)
    assert "stay in the labeling configuration" in caplog.text
    bare = without_controls(studio.project(project.id).label_config)
    assert bare == before
