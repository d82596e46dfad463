"""Masks of every form, and what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.actions.masks import mask_folder
from backend.actions.masks.class_names import ClassNames
from backend.actions.masks.given import BadMask, Given
from backend.actions.masks.mask_folder import find_masks, particles
from backend.actions.masks.matching import match
from backend.errors import BadRequest
from tests.backend.actions.masks.lab import write_masks
from training.particles.coco import CocoImage, coco_particles, write_coco

CLASSES = ("background", "red cell", "Cast")
INDEX = np.array([[0, 1, 1], [2, 2, 255]], np.uint8)
CELLS = np.array([[0, 1, 2], [7, 7, 2]], np.uint16)


def names(**chosen: str) -> ClassNames:
    return ClassNames(CLASSES, {"Zylinder": "Cast"}, {k.strip("_"): v for k, v in chosen.items()})


def only(folder: Path, of: ClassNames | None = None, label: str | None = None) -> Any:
    _, [mask] = find_masks(folder, of or names(), label)
    return mask.read()


def test_names_are_told_by_spelling_alias_and_choice() -> None:
    of = names(_3="Cast", RBC="red cell", _4="unknown", _5="background")
    assert [of.named(n) for n in ("red cell", "Red_Cell", "Zylinder", "RBC", "ignore")] == [
        *(1, 1, 2, 1, 255)
    ]
    assert of.named("yeast") is None
    assert [of.valued(v, {}) for v in (0, 1, 3, 4, 5, 255)] == [0, None, 2, 255, 0, 255]
    assert of.valued(1, {1: "cast"}) == 2
    with pytest.raises(BadRequest, match="no label 'yeast': it has red cell, Cast, background"):
        names(_1="yeast")


def test_class_indices_are_read_by_the_folders_own_list(tmp_path: Path) -> None:
    write_masks(tmp_path, {"masks/a.png": INDEX, "images/a.png": INDEX})
    with pytest.raises(BadMask, match="nothing says which label 1, 2 is: add --map 1=LABEL"):
        only(tmp_path)
    (tmp_path / "classes.txt").write_text("background\nCast\nRed cell\n")
    np.testing.assert_array_equal(only(tmp_path).mask, [[0, 2, 2], [1, 1, 255]])
    np.testing.assert_array_equal(
        only(tmp_path, names(_1="unknown")).mask, [[0, 255, 255], [1, 1, 255]]
    )


def test_a_data_set_of_nnunet_is_read(tmp_path: Path) -> None:
    write_masks(tmp_path, {"labelsTr/a.png": np.where(INDEX == 255, np.uint8(3), INDEX)})
    labels = {"background": 0, "Cast": 1, "red cell": 2, "ignore": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    np.testing.assert_array_equal(only(tmp_path).mask, [[0, 2, 2], [1, 1, 255]])
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"a": [1, 2]}}))
    with pytest.raises(BadRequest, match="must have nnU-Net's labels"):
        find_masks(tmp_path, names(), None)


def test_one_file_per_class_is_read_from_folders_and_from_endings(tmp_path: Path) -> None:
    red, cast = (INDEX == 1) * np.uint8(255), INDEX == 2
    expected = [[0, 1, 1], [2, 2, 0]]
    for files in (
        {"red_cell/x/a.png": red, "cast/x/a.tif": cast},
        {"x/a_red-cell.png": red, "x/a_Zylinder.png": cast},
    ):
        folder = write_masks(tmp_path / str(len(files) + hash(str(files)) % 1000), files)
        form, [mask] = find_masks(folder, names(), None)
        assert (form, mask.name) == ("one file per class", "x/a")
        np.testing.assert_array_equal(mask.read().mask, expected)
    folder = write_masks(tmp_path / "sizes", {"a_cast.png": cast, "a_red cell.png": red[:1]})
    with pytest.raises(BadMask, match="different sizes"):
        only(folder)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(("a.png", CELLS), ("a.tif", CELLS), ("a.tif", CELLS.astype(np.int32))),
        *(("a.tif", CELLS.astype(np.float32)), ("a.png", CELLS.astype(np.uint8))),
        ("a.tif", CELLS.astype(">u2")),
    ],
)
def test_particles_that_touch_stay_apart(tmp_path: Path, name: str, values: Any) -> None:
    labels = only(write_masks(tmp_path, {name: values}), label="red cell")
    np.testing.assert_array_equal(labels.mask, (CELLS > 0).astype(np.uint8))
    np.testing.assert_array_equal(labels.found.numbers, [[0, 1, 2], [3, 3, 2]])
    assert labels.found.classes.tolist() == [1, 1, 1]


def test_a_binary_mask_has_no_numbers() -> None:
    assert particles(np.array([[0, 255]]), 1).found is None
    # Without a background each value is a particle.
    found = particles(np.array([[1, 2]]), 2).found
    assert found is not None
    assert found.numbers.tolist() == [[1, 2]]


def test_cellpose_needs_the_class(tmp_path: Path) -> None:
    np.save(tmp_path / "a_seg.npy", {"masks": CELLS}, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="add --class LABEL"):
        find_masks(tmp_path, names(), None)
    form, [mask] = find_masks(tmp_path, names(), "cast")
    assert (form, mask.name) == ("Cellpose", "a")
    assert mask.read().mask.max() == 2


def test_what_is_no_mask_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRequest, match="holds no masks"):
        find_masks(tmp_path, names(), None)
    colours = np.zeros((2, 3, 3), np.uint8)
    files = {"a.png": colours, "b.tif": np.full((2, 3), 0.5, np.float32), "c.png": INDEX % 254}
    write_masks(tmp_path, {**files, "d.tif": -CELLS.astype(np.int32), "e.png": CELLS})
    (tmp_path / "f.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (tmp_path / "g.tif").write_bytes((tmp_path / "e.png").read_bytes()[:40])
    pages = [Image.fromarray(CELLS)] * 2
    pages[0].save(tmp_path / "h.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "._i.png").write_bytes(b"of another system")
    reasons = []
    for mask in find_masks(tmp_path, names(), "Cast")[1]:
        try:
            mask.read()
            reasons.append("")
        except BadMask as error:
            reasons.append(str(error).split(":")[0].split("(")[0].strip())
    assert reasons == [
        *("it is in colour", "its values are no whole numbers", ""),
        *("particles are numbered from 1, it holds -7.", "", "it cannot be read as PNG or TIFF"),
        *("it cannot be read as PNG or TIFF", "it has several pages"),
    ]
    monkeypatch.setattr(mask_folder, "MAX_PIXELS", 5)
    monkeypatch.setattr(mask_folder, "MOST_RESULTS", 2)
    with pytest.raises(BadMask, match="3 x 2 pixels, and at most 5"):
        find_masks(tmp_path, names(), "Cast")[1][2].read()
    monkeypatch.setattr(mask_folder, "MAX_PIXELS", 6)
    with pytest.raises(BadMask, match="3 values, more than 2 particles"):
        find_masks(tmp_path, names(), "Cast")[1][4].read()


def test_a_binary_mask_without_a_class_says_what_to_add(tmp_path: Path) -> None:
    write_masks(tmp_path, {"a.png": (INDEX == 1) * np.uint8(255)})
    with pytest.raises(BadMask, match=r"0 and 255 only.*--map 255=LABEL"):
        only(tmp_path)
    assert only(tmp_path, names(_255="cast")).mask.max() == 2


# COCO


def coco(path: Path, **parts: Any) -> Path:
    image = {"id": 5, "file_name": "x/a.jpg", "height": 4, "width": 6}
    path.write_text(
        json.dumps(
            {
                "images": [image],
                "categories": [{"id": 9, "name": "Cast"}, {"id": 4, "name": "RBC"}],
                "annotations": [],
                **parts,
            }
        )
    )
    return path


def entry(segmentation: Any, **fields: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 5, "category_id": 9, "segmentation": segmentation, **fields}


def test_polygons_and_both_codes_are_read_and_the_smaller_lie_on_top(tmp_path: Path) -> None:
    square = [1, 1, 4, 1, 4, 3, 1, 3]
    path = coco(
        tmp_path / "c.json",
        annotations=[
            entry({"size": [4, 6], "counts": [9, 1, 14]}, category_id=4, area=1),
            entry([square], area=6),
            entry({"size": [4, 6], "counts": "g01"}, category_id=4, area=4, iscrowd=1),
        ],
    )
    form, [mask] = find_masks(tmp_path, names(RBC="red cell"), None)
    assert (form, mask.name) == ("COCO", "x/a")
    labels = mask.read()
    assert labels.mask.tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 2, 1, 2, 0, 0],
        [0, 2, 2, 2, 0, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert labels.found is not None
    assert sorted(labels.found.classes.tolist()) == [1, 1, 2]
    assert find_masks(path, names(RBC="red cell"), None)[1][0].name == "x/a"


def test_our_own_coco_comes_back(tmp_path: Path) -> None:
    mask = np.where(INDEX == 255, np.uint8(0), INDEX)
    image = CocoImage(1, "a.png", mask.shape, coco_particles(mask))
    write_coco(tmp_path / "instances.json", [image], CLASSES)
    np.testing.assert_array_equal(only(tmp_path).mask, mask)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (entry([]), "a box is no mask"),
        (entry(None), "a box is no mask"),
        (entry([[1, 2, 3]]), "a list of x and y in turn"),
        (entry([[1, 2, 3, "4", 5, 6]]), "a list of x and y in turn"),
        (entry([[1, 2, 3, 4, 5, 1e300]]), "far outside"),
        (entry({"size": [4, 5], "counts": [20]}), "of the image's size"),
        (entry({"size": [4, 6], "counts": [25]}), "add up to"),
        (entry([[1, 1, 4, 1, 4, 3]], category_id=4), "which label the category 'RBC' is"),
        (entry([[1, 1, 4, 1, 4, 3]], category_id=None), "the category None is"),
    ],
)
def test_annotations_that_are_no_masks_leave_the_image_out(
    tmp_path: Path, annotation: Any, reason: str
) -> None:
    coco(tmp_path / "c.json", annotations=[annotation])
    with pytest.raises(BadMask, match=reason):
        only(tmp_path)


def test_other_json_is_no_coco(tmp_path: Path) -> None:
    coco(tmp_path / "c.json")
    with pytest.raises(BadMask, match="has no annotations"):
        only(tmp_path)
    coco(tmp_path / "d.json")
    with pytest.raises(BadRequest, match="holds 2 COCO files"):
        only(tmp_path)
    (tmp_path / "c.json").write_text("[" * 10_000)
    (tmp_path / "d.json").write_text("{}")
    with pytest.raises(BadRequest, match="holds no masks"):
        only(tmp_path)
    for damaged in ("[]", "{", '{"images": 1, "annotations": [], "categories": []}'):
        (tmp_path / "d.json").write_text(damaged)
        with pytest.raises(BadRequest, match=r"d\.json"):
            find_masks(tmp_path / "d.json", names(), None)
    coco(tmp_path / "d.json", images=[{"id": [], "file_name": None, "height": 2**40, "width": 1}])
    with pytest.raises(BadMask, match="at most"):
        find_masks(tmp_path / "d.json", names(), None)[1][0].read()


# Matching


def given(name: str) -> Given:
    return Given(name, f"{name}.png", lambda: particles(CELLS, 1))


def test_masks_find_their_tasks_by_name_and_by_folder() -> None:
    images = [(1, "a/one.png"), (2, "b/one.tif"), (3, "my_field_3.png"), (4, ""), (5, "twice.png")]
    masks = ["b/one", "one", "my field (3)", "three", "masks/a/one_cp_masks", "twice", "twice_mask"]
    found, left = match(map(given, masks), images)
    assert {task: mask.name for task, mask in found.items()} == {
        1: "masks/a/one_cp_masks",
        2: "b/one",
        3: "my field (3)",
    }
    reasons = {mask.name: reason for mask, reason in left}
    assert "2 tasks have images called one (1, 2)" in reasons["one"]
    assert reasons["three"] == "no task's image is called three."
    assert reasons["twice"] == reasons["twice_mask"]
    assert reasons["twice"] == "several masks are task 5's: twice.png, twice_mask.png."


def test_a_list_of_classes_goes_before_the_names_of_images(tmp_path: Path) -> None:
    write_masks(tmp_path, {"masks/x_cast.png": INDEX, "masks/y_cast.png": INDEX})
    (tmp_path / "classes.txt").write_text("background\nred cell\nCast\n")
    form, masks = find_masks(tmp_path, names(), None)
    assert (form, [each.name for each in masks]) == ("class indices", ["x_cast", "y_cast"])
    np.testing.assert_array_equal(masks[0].read().mask, INDEX)


def test_particles_are_numbered_up_to_32_bits_without_a_sign(tmp_path: Path) -> None:
    numbers = np.array([[0, 70_000], [2**32 - 1, 1]], np.uint32)
    path = tmp_path / "a.tif"
    Image.fromarray(numbers.view(np.int32)).save(path)
    with pytest.raises(BadMask, match="holds -1"):
        only(tmp_path, label="Cast")
    # Pillow writes whole numbers with a sign alone: SampleFormat 2, and 1 is without.
    signed, unsigned = (np.array([339, 3, 1, 0, n, 0], "<u2").tobytes() for n in (2, 1))
    data = path.read_bytes()
    assert data.count(signed) == 1
    path.write_bytes(data.replace(signed, unsigned))
    found = only(tmp_path, label="Cast").found
    np.testing.assert_array_equal(found.numbers, [[0, 2], [3, 1]])
