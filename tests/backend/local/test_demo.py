"""The demo project's images and annotations, without a server."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from backend.label_studio.label_config import parse_label_config
from backend.label_studio.regions import read_annotation
from backend.local.demo.drawn import (
    ANNOTATED,
    FIELDS,
    DrawnField,
    choose,
    draw,
    label_config,
    regions_of,
)
from backend.local.demo.folder import image_files, skipped_files, unique_name
from backend.local.demo.record import DemoRecord, recorded, remember_demo
from backend.local.errors import NoImages
from training.colours import CLASS_COLOURS
from training.datasets.urine_sediment import CLASSES


def field(name: str, *classes: str) -> DrawnField:
    return DrawnField(name, b"", b"", frozenset(classes))


def test_the_project_has_the_five_labels_in_colours_of_their_own() -> None:
    config = parse_label_config(label_config())
    assert config.labels == CLASSES[1:]
    assert len(set(CLASS_COLOURS[: len(CLASSES) - 1])) == len(CLASSES) - 1


def test_the_choice_holds_every_class_however_rare() -> None:
    fields = [field(str(n), "Red cell") for n in range(30)]
    fields[17] = field("17", "Cast")
    fields[23] = field("23", "Crystal", "White cell")
    chosen = {one.name for one in choose(fields, 4)}
    assert {"17", "23"} < chosen
    assert len(chosen) == 4


def test_the_choice_of_few_is_all_of_them() -> None:
    assert len(choose([field("a"), field("b")], 12)) == 2


def test_the_annotated_dozen_of_the_demo_holds_every_class_and_both_laboratories() -> None:
    from concurrent.futures import ThreadPoolExecutor

    # An eighth of them is enough: more fields only give the choice more.
    with ThreadPoolExecutor(2) as pool:
        fields = list(pool.map(draw, range(FIELDS // 8)))
    chosen = choose(fields, ANNOTATED)
    assert set().union(*(one.classes for one in chosen)) == set(CLASSES[1:])
    assert {one.name[-5] for one in chosen} == {"a", "b"}


def test_an_annotation_of_the_demo_is_the_exact_mask() -> None:
    drawn = draw(3)
    truth = cv2.imdecode(np.frombuffer(drawn.mask_png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert truth is not None
    regions = regions_of(drawn)
    found = read_annotation(
        regions,
        parse_label_config(label_config()),
        CLASSES,
        truth.shape,
        unlabelled=0,
        unknown_label=None,
    )
    assert found.problems == []
    np.testing.assert_array_equal(found.mask, truth)
    assert all("score" not in region and region["origin"] == "manual" for region in regions)


def test_the_same_number_draws_the_same_field() -> None:
    assert draw(5) == draw(5)


def test_a_folder_is_searched_in_depth_for_images_only(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("b.TIF", "a.png", "below/c.jpeg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert [path.name for path in image_files(tmp_path)] == ["a.png", "b.TIF", "c.jpeg"]


def test_what_is_skipped_in_a_folder_is_counted_by_kind(tmp_path: Path) -> None:
    for name in ("a.png", "b.CZI", "c.czi", "notes.txt", "README", "._a.png", ".DS_Store"):
        (tmp_path / name).touch()
    said = skipped_files(tmp_path)
    assert said.startswith(f"5 files in '{tmp_path}' were skipped")
    assert said.endswith("as OME-TIFF.")
    assert "2 .czi, " in said
    for kind in ("1 .txt", "1 without an extension", "1 hidden"):
        assert kind in said
    assert ".DS_Store" not in said


def test_a_folder_of_images_alone_has_nothing_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jfif").touch()
    assert skipped_files(tmp_path) == ""


def test_a_folder_of_other_formats_is_refused_and_says_which(tmp_path: Path) -> None:
    (tmp_path / "a.nd2").touch()
    with pytest.raises(NoImages, match=r"holds none. 1 files .* 1 \.nd2"):
        image_files(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoImages, match="holds none"):
        image_files(tmp_path)


def test_files_of_one_name_in_two_folders_stay_two() -> None:
    names = {
        unique_name(Path(name)) for name in ("a/x.png", "a-x.png", "a/x.tif", "é.png", "\udce9.png")
    }
    assert len(names) == 5
    assert all(name.replace("-", "").isalnum() and name.isascii() for name in names)


def test_each_source_has_its_own_record(tmp_path: Path) -> None:
    remember_demo(tmp_path, "drawn", project=1, key="1.5")
    remember_demo(tmp_path, "/images", project=2)
    remember_demo(tmp_path, "drawn", done=True)
    assert recorded(tmp_path, "drawn") == DemoRecord(project=1, key="1.5", done=True)
    assert recorded(tmp_path, "/images").project == 2
    assert recorded(tmp_path, "/others") == DemoRecord()
