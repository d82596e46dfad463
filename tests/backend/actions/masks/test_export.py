"""A project's labels as a folder."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.actions.masks.export import Export, Format, export_masks, nnunet_dataset, safe_stem
from backend.errors import BadRequest, UnknownProject
from backend.label_studio.image_paths import image_path
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.regions import to_regions
from backend.rounds.stages.collect import mask_of
from backend.workplace import Workplace
from tests.backend.actions.masks.lab import LABELS, SIZE, Lab, Mask
from tests.backend.workplaces import brush_config
from training.datasets.labelled import check_masks, read_labelled_folder

CONFIG = parse_label_config(brush_config(*LABELS))
NAMES = ("background", *LABELS)
URLS = ("/data/upload/7/0a1b2c3d-one.png", "/data/local-files/?d=b%2Ftwo.png", "/x/three.png")


def drawn(*squares: tuple[int, int]) -> list[dict[str, Any]]:
    """Regions of squares of 6 px: (column, class index)."""
    mask = np.zeros(SIZE, np.uint8)
    for column, index in squares:
        mask[4:10, column : column + 6] = index
    return to_regions(mask, np.ones(SIZE), CONFIG, NAMES, per="class", min_particle_px=1)


def export(work: Workplace, folder: Path, format_: Format = "png") -> Export:
    return export_masks(work, 7, folder, format_, lambda done, of: None)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "tasks.csv").open() as file:
        return list(csv.DictReader(file))


def mask_in(folder: Path, name: str) -> Mask:
    return np.asarray(Image.open(folder / name))


def test_the_folder_is_read_as_a_labelled_one_and_holds_what_training_reads(
    work: Workplace, tmp_path: Path
) -> None:
    lab = Lab(work, *URLS)
    lab.draw(1, drawn((2, 1), (12, 2), (22, 3)), lead_time=2.5)
    lab.draw(1, drawn((2, 2), (12, 2)), lead_time=1.25)
    lab.draw(2, drawn((2, 1)))
    lab.draw(3, [], was_cancelled=True)
    done = export(work, tmp_path / "out")
    assert (done.masks, done.written, done.problems, done.absent) == (2, 2, [], [])
    folder = read_labelled_folder(tmp_path / "out")
    check_masks(folder)
    assert folder.classes == ("background", "Cell", "Cast")
    assert [item.name for item in folder.items] == ["one.png", "two.png"]
    options = work.options(lab.row)
    image = np.zeros((*SIZE, 3), np.uint8)
    read = mask_of(lab.rows[1], image, CONFIG, options, folder.classes).mask
    np.testing.assert_array_equal(folder.read_mask(folder.items[0]), read)
    assert set(np.unique(read)) == {0, 2, 255}
    assert (tmp_path / "out/images/one.png").read_bytes() == lab.files[URLS[0]]
    first, second, third = table(tmp_path / "out")
    assert (first["annotators"], first["lead_time_s"]) == ("ada@lab.test", "3.75")
    assert first["unknown_px"] == str((read == 255).sum())
    assert first["created"] < first["updated"]
    assert (second["image"], second["source"], second["lead_time_s"]) == (
        "two.png",
        "b/two.png",
        "",
    )
    assert (third["image"], third["skipped"]) == ("", "1")


def test_a_second_run_fetches_what_changed_and_drops_what_is_gone(
    work: Workplace, tmp_path: Path
) -> None:
    lab = Lab(work, *URLS)
    for task_id in (1, 2, 3):
        lab.draw(task_id, drawn((2, 1)))
    export(work, tmp_path / "out")
    lab.fetched.clear()
    lab.edit(2, drawn((12, 2)))
    del lab.rows[3]
    done = export(work, tmp_path / "out")
    assert (done.written, done.kept, done.removed) == (1, 1, 1)
    assert lab.fetched == [URLS[1]]
    assert mask_in(tmp_path / "out", "masks/two.png")[5, 13] == 2
    assert sorted(path.stem for path in (tmp_path / "out/images").iterdir()) == ["one", "two"]
    assert sorted(path.stem for path in (tmp_path / "out/masks").iterdir()) == ["one", "two"]
    assert len(table(tmp_path / "out")) == 2
    # A file that somebody deleted comes back; an annotation that turned into a skip goes.
    (tmp_path / "out/masks/one.png").unlink()
    lab.rows[2][0]["was_cancelled"] = True
    done = export(work, tmp_path / "out")
    assert (done.masks, done.written) == (1, 1)
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["one.png"]


def test_an_interrupted_export_goes_on_where_it_was(work: Workplace, tmp_path: Path) -> None:
    lab = Lab(work, *URLS)
    for task_id in (1, 2, 3):
        lab.draw(task_id, drawn((2, 1)))

    def stop(done: int, of: int) -> None:
        assert of == 3
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_masks(work, 7, tmp_path / "out", "png", stop)
    done = export(work, tmp_path / "out")
    assert (done.written, done.kept) == (1, 2)


def test_images_of_one_name_and_unsafe_names_get_names_of_their_own(
    work: Workplace, tmp_path: Path
) -> None:
    urls = (
        *("/data/local-files/?d=a/field.png", "/data/local-files/?d=b/Field.tif"),
        *("/data/local-files/?d=../../etc/.passwd.png", "/x/%3D1%2B1.png", "/data/upload/7/..."),
        "data:image/png;base64,AAAA",
    )
    lab = Lab(work, *urls)
    for task_id in lab.tasks_:
        lab.draw(task_id, drawn((2, 1)))
    done = export(work, tmp_path / "out")
    assert done.problems == []
    names = sorted(path.name for path in (tmp_path / "out/images").iterdir())
    assert names == [
        "1_1.png",
        "Field-2.tif",
        "field.png",
        "passwd.png",
        "task-5.png",
        "task-6.png",
    ]
    before = {row["task"]: row["image"] for row in table(tmp_path / "out")}
    del lab.rows[1]
    export(work, tmp_path / "out")
    after = {row["task"]: row["image"] for row in table(tmp_path / "out")}
    assert after == {task: name for task, name in before.items() if task != "1"}


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/data/upload/12/0a1b2c3d-my-field.png", "my-field.png"),
        ("https://host/ls/data/upload/12/0a1b2c3d-x.png", "x.png"),
        ("/storage-data/uploaded/?filepath=upload/3/0a1b2c3d-x.tif", "x.tif"),
        ("/data/local-files/?d=a%20b/c.png", "a b/c.png"),
        (
            "/tasks/3/resolve/?fileuri=" + base64.urlsafe_b64encode(b"s3://b/k/a.png").decode(),
            "k/a.png",
        ),
        ("/tasks/3/resolve/?fileuri=*", ""),
        ("http://h/a/../..//b\\..\\c.png", "a/b/c.png"),
        ("data:image/png;base64,AAAA", ""),
        ("http://[", ""),
    ],
)
def test_the_path_of_an_image_is_found_in_its_address(url: str, path: str) -> None:
    assert image_path(url) == path


def test_a_safe_stem_keeps_letters_of_any_script() -> None:
    assert safe_stem("a/Präparat 3 – Höhe.ome.tif") == "Präparat_3_Höhe.ome"
    assert safe_stem("\x00\n/=;.png") == ""
    assert safe_stem("\u4e00" * 999) == "\u4e00" * 50


def test_what_cannot_be_read_is_listed_and_tried_again(work: Workplace, tmp_path: Path) -> None:
    lab = Lab(work, *URLS)
    for task_id in (1, 2, 3):
        lab.draw(task_id, drawn((2, 1)))
    lab.files[URLS[0]] = b"=no image"
    lab.tasks_[2] = {"other": 1}
    done = export(work, tmp_path / "out")
    assert done.masks == 1
    assert [problem[:7] for problem in done.problems] == ["Task 1:", "Task 2:"]
    assert "expected a PNG" in table(tmp_path / "out")[0]["problems"]
    lab.files[URLS[0]] = lab.files[URLS[2]]
    assert export(work, tmp_path / "out").masks == 2


def test_audits_are_flagged_and_a_class_that_nothing_shows_is_named(
    work: Workplace, tmp_path: Path
) -> None:
    lab = Lab(work, *URLS, audit_fraction=0.5)
    for task_id in (1, 2, 3):
        lab.draw(task_id, drawn((2, 1)))
    done = export(work, tmp_path / "out")
    assert done.absent == ["Cast"]
    flags = [row["audit"] for row in table(tmp_path / "out")]
    assert done.audits == flags.count("1")


def test_nnunet_gets_its_names_and_the_ignore_label_last(work: Workplace, tmp_path: Path) -> None:
    lab = Lab(work, *URLS[:2])
    lab.draw(1, drawn((2, 1), (12, 3)))
    lab.draw(2, drawn((2, 2)))
    export(work, tmp_path / "out", "nnunet")
    dataset = json.loads((tmp_path / "out/dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, "Cell": 1, "Cast": 2, "ignore": 3}
    assert (dataset["file_ending"], dataset["numTraining"]) == (".png", 2)
    images = sorted(path.name for path in (tmp_path / "out/imagesTr").iterdir())
    assert images == ["one_0000.png", "two_0000.png"]
    assert set(np.unique(mask_in(tmp_path / "out", "labelsTr/one.png"))) == {0, 1, 3}
    assert "ignore" not in nnunet_dataset(("background", "a"), 3, ignore=False)["labels"]


def test_coco_has_an_image_for_each_mask(work: Workplace, tmp_path: Path) -> None:
    lab = Lab(work, *URLS[:2])
    lab.draw(1, drawn((2, 1), (12, 2)))
    lab.draw(2, [])
    done = export(work, tmp_path / "out", "coco")
    found = json.loads((tmp_path / "out/instances.json").read_text())
    assert {image["file_name"] for image in found["images"]} == {"one.png", "two.png"}
    assert [entry["area"] for entry in found["annotations"]] == [36, 36]
    assert done.absent == []


def test_another_folder_or_export_is_never_written_over(work: Workplace, tmp_path: Path) -> None:
    Lab(work, *URLS)
    with pytest.raises(UnknownProject):
        export_masks(work, 8, tmp_path / "out", "png", lambda done, of: None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(BadRequest, match="files that no export wrote"):
        export(work, tmp_path / "mine")
    export(work, tmp_path / "out")
    with pytest.raises(BadRequest, match=r"as png, not of .* as coco"):
        export(work, tmp_path / "out", "coco")
    (tmp_path / "out/export.json").write_text("[]")
    with pytest.raises(BadRequest, match=r"export\.json is damaged"):
        export(work, tmp_path / "out")


def test_a_label_named_ignore_stops_nnunet(work: Workplace, tmp_path: Path) -> None:
    Lab(work, *URLS, config=brush_config("ignore", "Unknown"))
    with pytest.raises(BadRequest, match="keeps the name 'ignore'"):
        export(work, tmp_path / "out", "nnunet")
