"""Masks become labels of the tasks that they belong to, once."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from backend.actions.masks.export import export_masks
from backend.actions.masks.importing import Import, import_id, import_masks, is_imported
from backend.cli import cli
from backend.errors import BadRequest
from backend.label_studio.regions import MOST_BRUSHES
from backend.workplace import Workplace
from tests.backend.actions.masks.lab import LABELS, SIZE, Lab, write_masks

URLS = tuple(f"/data/upload/7/0a1b2c3d-{name}.png" for name in ("one", "two", "three"))
LIST = "background\nCell\nCast\n"


def config_of(control: str, *labels: str) -> str:
    listed = "".join(f'<Label value="{label}"/>' for label in labels or LABELS)
    return (
        '<View><Image name="image" value="$image"/>'
        f'<{control} name="tag" toName="image">{listed}</{control}></View>'
    )


def connected(work: Workplace, *urls: str, control: str = "BrushLabels", **options: Any) -> Lab:
    labels = options.pop("labels", LABELS)
    lab = Lab(work, *(urls or URLS), config=config_of(control, *labels), **options)
    work.ledger.projects.update(lab.row.id, connected=True)
    return lab


def mask(*squares: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    drawn = np.zeros(SIZE, np.uint8)
    for column, index in squares:
        drawn[4:10, column : column + 6] = index
    return drawn


def run(work: Workplace, folder: Path, **options: Any) -> Import:
    return import_masks(work, 7, folder, lambda done, of: None, **options)


def folder_of(tmp_path: Path, **masks: Any) -> Path:
    folder = write_masks(tmp_path / "given", {f"{name}.png": m for name, m in masks.items()})
    (folder / "classes.txt").write_text(LIST)
    return folder


@pytest.mark.parametrize("control", ["BrushLabels", "BitmaskLabels", "PolygonLabels"])
def test_what_is_imported_is_exported_again(work: Workplace, tmp_path: Path, control: str) -> None:
    lab = connected(work, control=control)
    given = {"one": mask((2, 1), (8, 2), (20, 255)), "two": mask(), "three": mask((5, 2))}
    folder = folder_of(tmp_path, **given)
    done = run(work, folder)
    assert (done.form, done.counts) == ("class indices", {"added": 3})
    assert lab.rows[2][0]["result"] == []
    assert {region["type"] for region in lab.rows[1][0]["result"]} == {control.lower()}
    assert all("score" not in region for region in lab.rows[1][0]["result"])
    export_masks(work, 7, tmp_path / "out", "png", lambda done, of: None)
    for name, expected in given.items():
        back = np.asarray(Image.open(tmp_path / f"out/masks/{name}.png"))
        assert np.count_nonzero(back != expected) == 0, name
    lab.sent.clear()
    assert run(work, tmp_path / "out").counts == {"unchanged": 3}
    assert lab.sent == []


def test_a_changed_mask_updates_what_was_imported_unless_somebody_edited_it(
    work: Workplace, tmp_path: Path
) -> None:
    lab = connected(work)
    folder = folder_of(tmp_path, one=mask((2, 1)), two=mask((2, 1)), three=mask((2, 1)))
    run(work, folder)
    edited = [{**lab.rows[2][0]["result"][0], "origin": "manual"}]
    lab.edit(2, edited)
    folder_of(tmp_path, one=mask((2, 2)), two=mask((2, 2)), three=mask((2, 1)))
    lab.sent.clear()
    assert run(work, folder, dry_run=True).counts == run(work, folder).counts
    assert lab.sent == [("update", lab.rows[1][0]["id"])]
    assert len(lab.rows[1]) == 1
    assert lab.rows[1][0]["result"][0]["value"]["brushlabels"] == ["Cast"]
    assert lab.rows[2][0]["result"] == edited
    done = run(work, folder)
    assert done.counts == {"unchanged": 2, "left alone": 1}
    [reason] = [item.reason for item in done.items if item.reason]
    assert reason.startswith(f"somebody edited annotation {lab.rows[2][0]['id']} of task 2")


def test_a_task_that_people_labelled_is_left_alone_and_a_skipped_one_is_not(
    work: Workplace, tmp_path: Path
) -> None:
    lab = connected(work)
    lab.draw(1, [])
    lab.draw(2, [], was_cancelled=True)
    lab.draw(3, [], import_id=4711)  # what Label Studio's own import writes
    done = run(work, folder_of(tmp_path, one=mask((2, 1)), two=mask((2, 1)), three=mask((2, 1))))
    assert done.counts == {"added": 1, "left alone": 2}
    assert len(lab.rows[2]) == 2


def test_what_does_not_belong_is_listed_with_the_reason(work: Workplace, tmp_path: Path) -> None:
    lab = connected(work)
    lab.files[URLS[2]] = b"no image"
    folder = folder_of(tmp_path, one=mask((2, 1))[:-1], two=mask((2, 7)), three=mask(), four=mask())
    done = run(work, folder)
    assert done.counts == {"refused": 4}
    assert lab.sent == []
    reasons = {Path(item.source).stem: item.reason for item in done.items}
    assert "32 x 23 pixels, the image of task 1 32 x 24" in reasons["one"]
    assert "which label 7 is" in reasons["two"]
    assert "expected a PNG" in reasons["three"]
    assert reasons["four"] == "no task's image is called four."


@pytest.mark.parametrize(
    ("control", "options", "regions"),
    [
        *(("PolygonLabels", {}, 4), ("BrushLabels", {"regions": "particle"}, 3)),
        *(("BrushLabels", {}, 1), ("BitmaskLabels", {"regions": "particle"}, 3)),
    ],
)
def test_touching_particles_are_regions_of_their_own(
    work: Workplace, tmp_path: Path, control: str, options: Any, regions: int
) -> None:
    lab = connected(work, control=control, **options)
    cells = np.zeros(SIZE, np.uint16)
    cells[4:10, 2:8], cells[4:10, 8:14], cells[12:20, 2:8], cells[12:20, 20:26] = 1, 2, 9, 9
    write_masks(tmp_path / "cells", {"one.png": cells})
    done = run(work, tmp_path / "cells", label="Cell")
    [item] = done.items
    assert (item.regions, item.differing_px) == (regions, 0)
    assert len({region["id"] for region in lab.rows[1][0]["result"]}) == regions


def test_polygons_say_how_far_they_are_off(work: Workplace, tmp_path: Path) -> None:
    connected(work, control="PolygonLabels")
    ring = mask((2, 1), (8, 1))
    ring[6:8, 6:10] = 0
    done = run(work, folder_of(tmp_path, one=ring), dry_run=True)
    assert done.items[0].differing_px == 8
    assert "not exactly their masks, by 8 pixels at most (task 1)" in done.notes[0]


def test_unknown_and_background_are_said_as_the_project_can(
    work: Workplace, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, one=mask((2, 1), (20, 255)))
    connected(work, unknown_label=None)
    reason = run(work, folder, dry_run=True).items[0].reason
    assert "no label for them: is 'Unknown' one? Name it by the option unknown_label" in reason
    assert run(work, folder, dry_run=True, chosen={"255": "background"}).counts == {"added": 1}

    lab = connected(work, unlabelled="unknown", labels=("Cell", "Cast"), unknown_label=None)
    done = run(work, folder, dry_run=True)
    assert "background of the masks is not imported" in done.notes[-1]
    lab.config = config_of("BrushLabels", "Cell", "Cast", "Background")
    done = run(work, folder)
    assert (done.items[0].regions, done.items[0].differing_px, done.notes) == (2, 0, [])


def test_many_brush_regions_are_warned_of(work: Workplace, tmp_path: Path) -> None:
    connected(work, regions="particle")
    cells = np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE)
    write_masks(tmp_path / "cells", {"one.png": cells % (MOST_BRUSHES + 2)})
    [note] = run(work, tmp_path / "cells", label="Cell", dry_run=True).notes
    assert "1 labels have more than 100 brush regions" in note


def test_predictions_are_imported_once_and_brought_up_to_date(
    work: Workplace, tmp_path: Path
) -> None:
    lab = connected(work)
    lab.draw(1, [])  # a label does not keep a prediction away
    folder = folder_of(tmp_path, one=mask((2, 1)), two=mask((2, 1)), three=mask((2, 9)))
    assert run(work, folder, as_="predictions", dry_run=True).counts == {"added": 2, "refused": 1}
    assert lab.predicted == {}
    assert run(work, folder, as_="predictions").counts == {"added": 2, "refused": 1}
    folder_of(tmp_path, one=mask((2, 2)), two=mask((2, 1)))
    counts = run(work, folder, as_="predictions").counts
    assert counts == {"updated": 1, "unchanged": 1, "refused": 1}
    [stored] = lab.predicted[1]
    assert stored["model_version"] == "imported-masks"
    assert stored["result"][0]["value"]["brushlabels"] == ["Cast"]
    assert len(lab.rows[1]) == 1


def test_predictions_that_label_studio_drops_are_no_success(
    work: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = connected(work)
    monkeypatch.setattr(lab, "import_predictions", lambda _id, rows: len(list(rows)) - 1)
    with pytest.raises(BadRequest, match="stored 0 of 1 predictions"):
        run(work, folder_of(tmp_path, one=mask((2, 1))), as_="predictions")


def test_a_dry_run_draws_a_sheet_of_some(work: Workplace, tmp_path: Path) -> None:
    urls = tuple(f"/x/{number}.png" for number in range(13))
    connected(work, *urls)
    masks = {f"{number}": mask((2, 1)) for number in range(13)}
    done = run(work, folder_of(tmp_path, **masks), dry_run=True)
    assert done.counts == {"added": 13}
    assert done.sheet is not None
    with Image.open(io.BytesIO(done.sheet)) as sheet:
        assert sheet.width == 3 * 328 + 8
        assert 7 * 240 < sheet.height < 8 * 300
    assert run(work, folder_of(tmp_path)).sheet is None


def test_an_import_id_knows_its_regions_however_they_are_stored() -> None:
    result = [{"id": "a", "value": {"points": [[50.0, 1.25]], "closed": True}}]
    number = import_id(result)
    assert is_imported(number)
    assert number < 2**53
    assert import_id([{"value": {"closed": True, "points": [[50, 1.25]]}, "id": "a"}]) == number
    assert import_id([{**result[0], "origin": "manual"}]) != number
    assert not any(is_imported(other) for other in (None, 1, 2**40, number + 2**41))


def test_the_command_lists_what_it_did(
    work: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = connected(work)
    monkeypatch.setattr("backend.commands.shared.load_settings", lambda: work.settings)
    monkeypatch.setattr("backend.commands.shared.Workplace", lambda settings: work)
    folder = str(folder_of(tmp_path, one=mask((2, 3)), four=mask()))
    sheet = tmp_path / "sheet.png"
    arguments = ["import-masks", folder, "--project", "7", "--map", "3=cast"]
    shown = CliRunner().invoke(cli, [*arguments, "--dry-run", "--sheet", str(sheet)])
    assert shown.exit_code == 0, shown.output
    assert "Nothing was written. Would be: 1 added, 1 refused (masks: class" in shown.output
    assert "four.png: no task's image is called four." in shown.output
    assert sheet.exists()
    assert lab.sent == []
    shown = CliRunner().invoke(cli, [*arguments, "--json"])
    told = json.loads(shown.stdout)
    assert told["counts"] == {"added": 1, "refused": 1}
    assert [item["done"] for item in told["items"]] == ["refused", "added"]
    assert CliRunner().invoke(cli, [*arguments, "--map", "3"]).exit_code == 2
    shown = CliRunner().invoke(
        cli, ["export-masks", "--project", "7", "--output", str(tmp_path / "o")]
    )
    assert "1 masks, 0 of them audits" in shown.output
    assert "No mask shows Cell" in shown.output


def test_what_people_did_beside_an_import_is_left_alone(work: Workplace, tmp_path: Path) -> None:
    lab = connected(work)
    run(work, folder_of(tmp_path, one=mask((2, 1)), two=mask((2, 1))))
    lab.rows[1][0]["was_cancelled"] = True
    lab.draw(2, lab.rows[2][0]["result"])
    sent = len(lab.sent)
    changed = folder_of(tmp_path, one=mask((2, 2)), two=mask((2, 2)))
    items = run(work, changed).items
    assert [item.done for item in items] == ["left alone", "left alone"]
    assert "somebody skipped annotation" in items[0].reason
    assert "is labelled already" in items[1].reason
    assert len(lab.sent) == sent
