"""Labels out of one project and into another, through a real Label Studio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.actions.connect import connect_project
from backend.actions.masks.export import Export, export_masks
from backend.actions.masks.importing import As, Import, import_masks
from backend.commands.replay.strokes import label_config
from backend.label_studio.bulk import Studio
from backend.label_studio.control import control_of
from tests.live.harness.stack import (
    CLASSES,
    TINY,
    UNKNOWN,
    Mask,
    Stack,
    TinyProject,
    draw_field,
    make_project,
)

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

FIELDS = 3


def export(stack: Stack, project: int, folder: Path) -> Export:
    return export_masks(stack.work, project, folder, "png", lambda done, of: None)


def bring_in(stack: Stack, project: int, folder: Path, as_: As = "annotations") -> Import:
    return import_masks(stack.work, project, folder, lambda done, of: None, as_=as_)


def mask_of(folder: Path, number: int) -> Mask:
    return np.asarray(Image.open(folder / "masks" / f"field-{number}.png"))


def second_project(stack: Stack, control: str) -> TinyProject:
    config = label_config(CLASSES, UNKNOWN).replace("BrushLabels", control)
    created = control_of(stack.work.studio).projects.create(
        title=f"second {control}", label_config=config
    )
    files = [(f"field-{seed}.png", draw_field(seed)[0]) for seed in range(FIELDS)]
    tasks = tuple(stack.work.studio.upload(created.id, files))
    connected = connect_project(stack.work, created.id, TINY)
    project = TinyProject(stack, created.id, connected.project.id, tasks, {})
    stack.projects.append(project)
    return project


def test_labels_go_from_project_to_project_once(
    stack: Stack, studio: Studio, tmp_path: Path
) -> None:
    first = make_project(stack, "labels to get out", FIELDS)
    for mask in first.masks.values():
        mask[:9, :9] = 255
    first.label(*first.tasks)
    assert export(stack, first.id, tmp_path / "first").problems == []
    for number, task_id in enumerate(first.tasks):
        np.testing.assert_array_equal(mask_of(tmp_path / "first", number), first.masks[task_id])

    for control in ("BrushLabels", "PolygonLabels"):
        second = second_project(stack, control)
        assert bring_in(stack, second.id, tmp_path / "first").counts == {"added": FIELDS}
        stamps = studio.stamps(second.id)
        assert bring_in(stack, second.id, tmp_path / "first").counts == {"unchanged": FIELDS}
        assert studio.stamps(second.id) == stamps
        export(stack, second.id, tmp_path / control)
        for number, mask in enumerate(first.masks.values()):
            differing = np.count_nonzero(mask_of(tmp_path / control, number) != mask)
            assert differing <= (0 if control == "BrushLabels" else 0.01 * mask.size)

    # A person draws in one of them, as the editor saves it; two masks change.
    edited, changed, _ = second.tasks
    [annotation] = studio.annotations(edited)
    studio.update_annotation(annotation["id"], result=annotation["result"][:1], lead_time=3.5)
    for number in (0, 1):
        mask = mask_of(tmp_path / "first", number)
        Image.fromarray(np.fliplr(mask)).save(tmp_path / f"first/masks/field-{number}.png")
    done = bring_in(stack, second.id, tmp_path / "first")
    assert {item.task: item.done for item in done.items} == dict(
        zip(second.tasks, ("left alone", "updated", "unchanged"), strict=True)
    )
    assert len(studio.annotations(edited)[0]["result"]) == 1
    assert len(studio.annotations(changed)) == 1
    shown = export(stack, second.id, tmp_path / control)
    assert (shown.written, shown.kept) == (2, 1)
    flipped = np.fliplr(first.masks[first.tasks[1]])
    differing = np.count_nonzero(mask_of(tmp_path / control, 1) != flipped)
    assert differing <= 0.01 * flipped.size

    counts = [bring_in(stack, second.id, tmp_path / "first", "predictions").counts]
    Image.fromarray(flipped).save(tmp_path / "first/masks/field-0.png")
    counts.append(bring_in(stack, second.id, tmp_path / "first", "predictions").counts)
    assert counts == [{"added": FIELDS}, {"updated": 1, "unchanged": FIELDS - 1}]
