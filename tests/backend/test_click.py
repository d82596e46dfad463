"""What a smart click is answered: what is asked, what is there, what changes. No network runs."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend import click, click_cache
from backend.click import answer_click, read_prompts
from backend.click_cache import MOST_IMAGES, ClickCache
from backend.label_studio.label_config import (
    add_smart_controls,
    build_label_config,
    parse_label_config,
)
from backend.label_studio.regions import read_annotation, to_regions
from backend.label_studio.reserved_controls import BOX, CLICK
from backend.workplace import Workplace
from tests.backend.rows import publication
from training.committee.store.store import StoreUnavailable
from training.particles.clicked import Predicted

XML = build_label_config([("Cell", "#ff0000"), ("Cast", "#00ff00")])
CONFIG = parse_label_config(XML)
CLASSES = ("background", "Cell", "Cast")
SIZE = (40, 60)
PUBLICATION = "committee-v1.1"


def square(top: int, left: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros(SIZE, np.bool_)
    mask[top : top + 10, left : left + 10] = True
    return mask


ONE, OTHER = square(5, 5), square(20, 40)
PREDICTED = Predicted(
    np.full((*SIZE, 3), 128, np.uint8),
    (255 * (ONE | OTHER)).astype(np.uint8),
    ONE.astype(np.int32) + 2 * OTHER,
    {"Cell": 11.0},
)


def prompt(x: float, y: float, **more: Any) -> dict[str, Any]:
    """A click on (x, y), in pixels."""
    value = {"x": 100 * x / SIZE[1], "y": 100 * y / SIZE[0], "width": 0.3}
    labels = {"labels": ["Cell"], "keypointlabels": ["Cell"]}
    return {
        "id": "p1",
        "type": "keypointlabels",
        "from_name": CLICK,
        "to_name": "image",
        "is_positive": True,
        "value": {**value, **labels},
        **more,
    }


def context(*prompts: Any) -> dict[str, Any]:
    return {"result": list(prompts)}


@pytest.fixture
def ask(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(click, "_predicted", lambda *_: PREDICTED)

    def answer(
        asked: object, options: dict[str, Any] | None = None, **lists: Any
    ) -> list[dict[str, Any]]:
        row = work.ledger.projects.ensure(
            work.server, 3, 1_700_000_000, label_config=XML, extra_params=options or {}
        )
        task = {"id": 1, "data": {"image": "http://nowhere.invalid/1.png"}, **lists}
        return answer_click(work, row, publication(1), task, asked)

    return answer


def pixels(region: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    read = read_annotation([region], CONFIG, CLASSES, SIZE, unlabelled=0, unknown_label=None)
    mask: np.ndarray[Any, np.dtype[np.bool_]] = read.mask == 1
    return mask


def drawn(mask: np.ndarray[Any, np.dtype[np.bool_]], per: Any = "class") -> list[dict[str, Any]]:
    confidence = np.ones(SIZE, np.float32)
    return to_regions(
        mask.astype(np.uint8), confidence, CONFIG, CLASSES, per=per, min_particle_px=1
    )


def test_a_click_gives_the_particle_with_the_class_clicked_with(ask: Any) -> None:
    [region] = ask(context(prompt(8, 8)))
    assert np.array_equal(pixels(region), ONE)
    [again] = ask(context(prompt(8, 8), prompt(44, 24, id="p2")))
    assert again["id"] == region["id"]  # so that the page changes it in place
    assert np.array_equal(pixels(again), ONE | OTHER)


def test_where_the_class_has_a_mask_that_one_is_changed(ask: Any) -> None:
    [there] = drawn(OTHER)
    predictions = [{"model_version": PUBLICATION, "result": [there]}]
    [added] = ask(context(prompt(8, 8)), predictions=predictions)
    assert added["id"] == there["id"]
    assert np.array_equal(pixels(added), ONE | OTHER)
    [both] = drawn(ONE | OTHER)
    drafts = [{"updated_at": "2026-01-01", "result": [both]}]
    [cut] = ask(context(prompt(8, 8, is_positive=False)), predictions=predictions, drafts=drafts)
    assert cut["id"] == both["id"]
    assert np.array_equal(pixels(cut), OTHER)


def test_a_quick_second_click_keeps_the_first(ask: Any) -> None:
    corner = square(28, 2)
    [there] = drawn(corner)
    predictions = [{"model_version": PUBLICATION, "result": [there]}]
    [first] = ask(context(prompt(8, 8)), predictions=predictions)
    # No draft holds the first answer yet.
    [second] = ask(context(prompt(44, 24, id="p2")), predictions=predictions)
    assert second["id"] == first["id"] == there["id"]
    assert np.array_equal(pixels(second), corner | ONE | OTHER)
    # The draft that comes then is that of the first.
    drafts = [{"updated_at": "2026-01-01", "result": [first]}]
    [third] = ask(context(prompt(8, 8, id="p3", is_positive=False)), drafts=drafts)
    assert np.array_equal(pixels(third), corner | OTHER)


def test_what_somebody_changed_after_an_answer_is_the_page(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    corner = square(28, 2)
    [there] = drawn(corner)
    predictions = [{"model_version": PUBLICATION, "result": [there]}]
    [first] = ask(context(prompt(8, 8)), predictions=predictions)
    [brushed] = drawn(corner | ONE | square(0, 30))
    drafts = [{"updated_at": "2026-01-01", "result": [{**brushed, "id": first["id"]}]}]
    [second] = ask(context(prompt(44, 24, id="p2")), drafts=drafts)
    assert np.array_equal(pixels(second), corner | ONE | square(0, 30) | OTHER)
    monkeypatch.setattr(click_cache, "UNSAVED_S", 0.0)
    [later] = ask(context(prompt(44, 24, id="p4")), predictions=predictions)
    assert np.array_equal(pixels(later), corner | OTHER)


def test_of_particles_that_are_regions_only_the_one_there_is_changed(ask: Any) -> None:
    there = drawn(ONE | OTHER, per="particle")
    predictions = [{"model_version": PUBLICATION, "result": there}]
    [region] = ask(
        context(prompt(44, 24)), options={"regions": "particle"}, predictions=predictions
    )
    assert region["id"] in {each["id"] for each in there}
    assert np.array_equal(pixels(region), OTHER)


def test_particles_of_clicks_that_go_together_stay_apart(ask: Any) -> None:
    options = {"regions": "particle"}
    lower, upper = prompt(44, 24), prompt(8, 8, id="p2")
    [first] = ask(context(lower), options=options)
    # Auto-accept off: the page sends both, and no draft holds the first answer.
    both = {each["id"]: pixels(each) for each in ask(context(lower, upper), options=options)}
    assert len(both) == 2
    assert np.array_equal(both.pop(first["id"]), OTHER)
    assert np.array_equal(both.popitem()[1], ONE)


def test_a_box_gives_what_is_in_it(ask: Any) -> None:
    value = {"x": 60, "y": 40, "width": 30, "height": 50, "rectanglelabels": ["Cell"]}
    box = prompt(0, 0, type="rectanglelabels", from_name=BOX, value=value)
    [region] = ask(context(box))
    assert np.array_equal(pixels(region), OTHER)


def test_the_annotation_of_somebody_else_is_not_taken_for_the_page(ask: Any) -> None:
    [there] = drawn(OTHER)
    [region] = ask(context(prompt(8, 8)), annotations=[{"result": [there]}, {"result": [there]}])
    assert region["id"] != there["id"]
    assert np.array_equal(pixels(region), ONE)


def test_the_newer_dialect_gets_its_mask_where_it_reads_it(ask: Any) -> None:
    asked = prompt(8, 8)
    del asked["is_positive"]
    asked["value"]["positive"] = True
    [region] = ask(context(asked))
    assert region["value"]["imageDataURL"].startswith("data:image/png;base64,")


def test_nonsense_around_a_prompt_keeps_nothing_from_being_answered(ask: Any) -> None:
    odd = [None, 7, {"id": [1]}, {"id": {}, "from_name": "tag", "type": "brushlabels"}]
    [there] = drawn(OTHER)
    broken = {**there, "value": {**there["value"], "rle": "no list"}}
    for result in (odd, [broken], [{**there, "id": None}]):
        lists = {"drafts": [7, {"result": 3}, {"result": result}], "annotations": "text"}
        [region] = ask(context(prompt(8, 8)), **lists)
        assert pixels(region)[8, 8]


def test_a_full_disk_keeps_no_click_from_being_answered(
    ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(click_cache, "write_atomically", full)
    [region] = ask(context(prompt(8, 8)))
    assert np.array_equal(pixels(region), ONE)
    ClickCache(tmp_path).write(PREDICTED, "project", 1)
    assert ClickCache(tmp_path).read("project", 1) is None


def test_a_version_that_cannot_be_read_is_answered_with_nothing(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("the object store does not answer")

    monkeypatch.setattr(click, "_predicted", away)
    assert ask(context(prompt(8, 8))) == []


STALE = {key: value for key, value in prompt(8, 8).items() if key != "is_positive"}


@pytest.mark.parametrize(
    "asked",
    [
        *(None, 7, "text", [], {}, {"result": None}, {"result": [None, 3, {}]}),
        {"event": "capabilities"},
        context(STALE),
        context(prompt(8, 8, from_name="tag")),
        context(prompt(8, 8, value=None)),
        context(prompt(8, 8, value={"x": 10, "y": 10, "keypointlabels": ["Gone"]})),
        context(prompt(8, 8, value={"x": 10, "y": 10, "keypointlabels": [None]})),
        context(prompt(float("nan"), 8)),
        context(prompt(-900, 8)),
        context(prompt(8, 8, value={"x": "1", "y": True, "labels": ["Cell"]})),
    ],
)
def test_what_is_no_prompt_is_answered_with_nothing(ask: Any, asked: object) -> None:
    assert ask(asked) == []


def test_stale_clicks_are_left_out_and_those_of_another_label_too() -> None:
    other = prompt(1, 1, value={"x": 1, "y": 1, "keypointlabels": ["Cast"]})
    found = read_prompts(context(other, STALE, prompt(8, 8)))
    assert [(each.label, each.adds) for each in found] == [("Cell", True)]


def test_prompts_that_are_left_behind_are_not_read() -> None:
    config = parse_label_config(add_smart_controls(XML, CONFIG))
    assert config.inputs == CONFIG.inputs
    value = {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": ["Cell"]}
    box = {"type": "rectanglelabels", "from_name": BOX, "to_name": "image", "value": value}
    read = read_annotation(
        [box, prompt(8, 8)], config, CLASSES, SIZE, unlabelled=0, unknown_label=None
    )
    assert not read.mask.any()
    assert (read.problems, sum(read.counts.values())) == ([], 0)


def test_the_cache_is_bounded_and_gives_back_what_it_got(tmp_path: Path) -> None:
    cache = ClickCache(tmp_path)
    for number in range(MOST_IMAGES + 2):
        cache.write(PREDICTED, "project", number)
        for path in tmp_path.glob("*/*.npz"):  # as if each had come a while after the one before
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    assert len(list(tmp_path.glob("*/*.npz"))) == MOST_IMAGES
    assert cache.read("project", 0) is None
    found = cache.read("project", MOST_IMAGES + 1)
    assert found is not None
    assert np.array_equal(found.numbers, PREDICTED.numbers)
    assert found.diameters_px == PREDICTED.diameters_px
    whole = next(tmp_path.glob("*/*.npz")).read_bytes()
    array = io.BytesIO()
    np.save(array, ONE)
    for damaged in (whole[:100], b"", array.getvalue()):
        for path in tmp_path.glob("*/*.npz"):
            path.write_bytes(damaged)
        assert cache.read("project", MOST_IMAGES + 1) is None
