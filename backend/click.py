"""The answer to a smart click or box: the particle there, as Label Studio's regions.

A region whose id is on the page already is replaced there, so where the class has a mask the
answer is that mask, changed. No network runs but for the first click on an image (docs/CLICK.md).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from itertools import count
from typing import Any, TypeGuard

import numpy as np

from backend.click_cache import ClickCache, LastAnswers, Mask
from backend.data_dir import clicks_folder
from backend.errors import BackendError, BadRegion
from backend.fallback import load_whole
from backend.label_studio import bitmask
from backend.label_studio.geometry import Patch
from backend.label_studio.images import resolved
from backend.label_studio.label_config import LabelConfig, Tag
from backend.label_studio.regions import Region, drawn_regions
from backend.label_studio.reserved_controls import SMART
from backend.label_studio.shapes import patch_of
from backend.ledger import NO_VERSION, Project, Publication
from backend.options import ProjectOptions
from backend.predict import image_url, label_config_of, predict_image, regions_per
from backend.workplace import Workplace
from training.errors import TrainingError
from training.particles.clicked import Click, Predicted, boxed_particles, clicked_particle
from training.particles.instances import connected, instances

log = logging.getLogger(__name__)

MOST_PROMPTS = 100
"""Clicks that are answered together, the newest; each may take some milliseconds."""


@dataclass(frozen=True)
class Prompt:
    """A click or a box of a reserved control.

    Attributes:
        x, y, width, height: in percent of the image; a click has no width.
        newer: it came in the dialect whose answer is read from ``imageDataURL``.
    """

    id: str
    label: str
    adds: bool
    x: float
    y: float
    width: float = 0.0
    height: float = 0.0
    newer: bool = False


def answer_click(
    work: Workplace,
    project: Project,
    publication: Publication,
    task: Mapping[str, Any],
    context: object,
) -> list[Region]:
    """The regions that a smart tool's question is answered with; [] where nothing can be claimed.

    Args:
        task: with ``id``, ``data``, and as far as they are there ``drafts``, ``annotations`` and
            ``predictions``.
        context: as Label Studio sends it; anything.
    """
    prompts = read_prompts(context)
    if not prompts or publication.version == NO_VERSION:
        return []
    try:
        options = work.options(project)
        config = label_config_of(project.label_config, options)
        tag = config.tag_for(prompts[-1].label)
        if tag is None:
            return []
        url = resolved(image_url(task["data"], config), task["id"])
        predicted = _predicted(work, project, publication, url, options)
    except (BackendError, TrainingError) as error:
        log.warning("no answer to a click in task %s: %s", task["id"], error)
        return []
    canvas = _canvas(task, {prompt.id for prompt in prompts}, publication.name)
    label = prompts[-1].label
    saved = dict(_regions_of(canvas, tag, label, predicted.size))
    answers = LastAnswers(clicks_folder(work.settings.data_dir), project.slug, task["id"])
    whole_class = regions_per(config, options) == "class" and tag.shape != "polygon"
    added, removed = _changes(predicted, prompts)
    there = answers.shown(saved, label)
    changed = _changed(there, added, removed, whole_class, prompts[0].id)
    answers.keep(saved, changed, label)
    return [
        part for name, mask in changed.items() for part in _written(name, mask, config, prompts[-1])
    ]


# ---- what is asked -----------------------------------------------------------------------------


def read_prompts(context: object) -> list[Prompt]:
    """The clicks, or the boxes, that are asked with: those of the newest one's label and kind.

    A click that does not say whether it adds or takes away was left in a draft, and is stale.
    """
    results = context.get("result") if isinstance(context, Mapping) else None
    found = [
        prompt
        for result in (results if isinstance(results, list) else [])[-MOST_PROMPTS:]
        if isinstance(result, Mapping) and (prompt := _read_prompt(result)) is not None
    ]
    return [
        prompt
        for prompt in found
        if (prompt.label, prompt.width > 0) == (found[-1].label, found[-1].width > 0)
    ]


def _read_prompt(result: Mapping[str, Any]) -> Prompt | None:
    value, kind = result.get("value"), result.get("type")
    if result.get("from_name") not in SMART or not isinstance(value, Mapping):
        return None
    labels = value.get(kind) if isinstance(kind, str) else None
    if not isinstance(labels, list) or not labels:
        labels = value.get("labels")
    if not isinstance(labels, list) or not labels or not isinstance(labels[0], str):
        return None
    newer = isinstance(value.get("positive"), bool)
    adds = value["positive"] if newer else result.get("is_positive")
    is_box = kind == "rectanglelabels"
    if is_box:
        adds = adds is not False
    numbers: list[Any] = [
        value.get(side) for side in ("x", "y", *(("width", "height") if is_box else ()))
    ]
    if not isinstance(adds, bool) or not all(map(_is_number, numbers)):
        return None
    x, y, width, height = [*map(float, numbers), 0.0, 0.0][:4]
    if min(width, height) <= 0 if is_box else not (0 <= x <= 100 and 0 <= y <= 100):
        return None
    return Prompt(str(result.get("id", "")), labels[0], adds, x, y, width, height, newer)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ---- what is there -----------------------------------------------------------------------------


def _predicted(
    work: Workplace, project: Project, publication: Publication, url: str, options: ProjectOptions
) -> Predicted:
    """What the serving version, or its fallback, predicts in an image; cached."""
    cache = ClickCache(clicks_folder(work.settings.data_dir))
    key = (project.slug, publication.version, url, options.channels, options.min_particle_px)
    found = cache.read(*key)
    if found is None:
        image, prediction = predict_image(work, project, publication, url)
        committee = load_whole(work, project, publication.version)
        classes = committee.config.classes
        diameters = committee.diameters(classes[1:], prediction)
        numbers = instances(
            prediction.mask(),
            options.min_particle_px,
            confidence=prediction.confidence(),
            split=diameters,  # a click means one particle, whatever pre-annotations show
        ).numbers
        found = Predicted(
            image,
            np.round((1 - prediction.probs[0]) * 255).astype(np.uint8),
            numbers,
            {classes[index]: px for index, px in diameters.items()},
        )
        cache.write(found, *key)
    return found


def _canvas(task: Mapping[str, Any], prompts: set[str], publication: str) -> Sequence[object]:
    """The results that the page most likely shows, as Label Studio last saved them.

    Label Studio sends the drafts of who asks, and of nobody else: the one with one of the prompts,
    or the newest, is the page. It does not say who asks: without a draft the only annotation is
    taken for theirs, and before anything was drawn it is the pre-annotation.
    """

    def listed(name: str) -> list[Mapping[str, Any]]:
        rows = task.get(name)
        return [
            row
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, Mapping) and isinstance(row.get("result"), list)
        ]

    drafts = sorted(listed("drafts"), key=lambda row: str(row.get("updated_at") or ""))
    asking = [
        row
        for row in drafts
        if any(
            isinstance(part, Mapping) and str(part.get("id")) in prompts for part in row["result"]
        )
    ]
    if asking or drafts:
        return list((asking or drafts)[-1]["result"])
    annotations = listed("annotations")
    if annotations:
        return list(annotations[0]["result"]) if len(annotations) == 1 else []
    serving = [row for row in listed("predictions") if row.get("model_version") == publication]
    return list(serving[-1]["result"]) if serving else []


def _regions_of(
    results: Sequence[object], tag: Tag, label: str, size: tuple[int, int]
) -> Iterator[tuple[str, Mask]]:
    """Id and mask [H, W] of each region that carries the label and that the tag draws."""
    parts = [part for part in results if isinstance(part, Mapping)]
    named = {
        str(part.get("id"))
        for part in parts
        if part.get("from_name") == tag.from_name
        and isinstance(part.get("value"), Mapping)
        and part["value"].get(tag.kind) == [label]
    }
    drawn_with = tag.drawn_by or (tag.from_name, tag.kind)
    for part in parts:
        name = str(part.get("id"))
        if name in named and (part.get("from_name"), part.get("type")) == drawn_with:
            try:
                patch = patch_of(part, size)
            except BadRegion:  # it stays on the page as it is
                continue
            mask = np.zeros(size, np.uint8)
            patch.paint(mask, 1)
            yield name, mask.view(np.bool_)


# ---- what changes ------------------------------------------------------------------------------


def _changes(predicted: Predicted, prompts: Sequence[Prompt]) -> tuple[Mask, Mask]:
    """What the prompts add and what they take away, each [H, W]."""
    height, width = predicted.size
    added, removed = np.zeros((2, height, width), np.bool_)
    label = prompts[-1].label
    if prompts[-1].width:
        for box in prompts:
            rows = _span(box.y, box.height, height)
            columns = _span(box.x, box.width, width)
            if rows.start < rows.stop and columns.start < columns.stop:
                target = added if box.adds else removed
                target |= boxed_particles(predicted, rows, columns)
        return added, removed
    clicks = [
        Click(
            min(height - 1, int(prompt.y * height / 100)),
            min(width - 1, int(prompt.x * width / 100)),
            prompt.adds,
        )
        for prompt in prompts
    ]
    adding = [click for click in clicks if click.adds]
    if not adding:  # what is taken away is what a click there would add
        adding = [Click(click.row, click.column) for click in clicks]
        return added, clicked_particle(predicted, adding, label)
    added = clicked_particle(predicted, clicks, label)
    if len(adding) < len(clicks):
        removed = clicked_particle(predicted, adding, label) & ~added
    return added, removed


def _span(start: float, length: float, side: int) -> slice:
    low, high = (min(max(each, 0.0), 100.0) * side / 100 for each in (start, start + length))
    return slice(math.floor(low), math.ceil(high))


def _changed(
    there: Mapping[str, Mask], added: Mask, removed: Mask, whole_class: bool, prompt: str
) -> dict[str, Mask]:
    """Id to mask of the regions to answer with; one that would be empty stays as it is.

    Args:
        there: the regions of the class on the page.
        whole_class: what is new becomes a part of one of them, else only what touches it.
        prompt: id of the first click, by which new regions are named: the same while further
            clicks change them.
    """
    sizes = {name: int(np.count_nonzero(mask)) for name, mask in there.items()}
    largest = max(sizes, key=sizes.__getitem__, default=None) if whole_class else None
    changed = {name: mask & ~removed for name, mask in there.items() if (mask & removed).any()}
    numbers = added.astype(np.int32) if whole_class else connected(added)
    for number in range(1, int(numbers.max(initial=0)) + 1):
        piece = numbers == number
        covered = {n: int(np.count_nonzero(mask & piece)) for n, mask in there.items()}
        name = max(covered, key=covered.__getitem__, default=None)
        if name is None or not covered[name]:
            name = largest
        if name is None:  # not one that an earlier click gave to another particle
            names = (_name(prompt, each) for each in count(number))
            name = next(each for each in names if each not in there and each not in changed)
        before = changed.get(name, there.get(name))
        changed[name] = piece if before is None else before | piece
    return {name: mask for name, mask in changed.items() if mask.any()}


def _name(prompt: str, number: int) -> str:
    return blake2s(f"click/{prompt}/{number}".encode(), digest_size=8).hexdigest()


def _written(name: str, mask: Mask, config: LabelConfig, prompt: Prompt) -> list[Region]:
    height, width = mask.shape
    parts = drawn_regions([(prompt.label, Patch(0, 0, mask))], config, (height, width))
    for part in parts:
        part["id"] = name
        if prompt.newer:
            part["value"]["imageDataURL"] = bitmask.encode(mask)
    return parts
