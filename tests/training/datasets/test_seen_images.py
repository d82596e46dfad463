"""How each image of a folder will be seen."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from tests.command_page import json_keys
from training.__main__ import cli

GREY = np.arange(200, dtype=np.uint8).reshape(10, 20)

CHANNELS = np.stack([GREY.astype(np.uint16) * 9, GREY[::-1].astype(np.uint16) * 5])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "microscope"
    (folder / "day 2").mkdir(parents=True)
    Image.fromarray(GREY).save(folder / "a.png")
    tifffile.imwrite(folder / "a.tif", CHANNELS, imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(folder / "day 2/stack.TIF", np.stack([GREY] * 3), photometric="minisblack")
    (folder / "b.tif").write_bytes(b"II*\0nothing")
    (folder / "c.czi").write_bytes(b"ZISRAWFILE")
    (folder / "._a.tif").write_bytes(b"a copy of macOS's")
    return folder


def run(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(cli, ["images", *arguments])
    return ended.exit_code, ended.output


def test_json_has_the_rows_of_the_table(folder: Path, tmp_path: Path) -> None:
    code, said = run(str(folder), "--output", str(tmp_path / "seen"), "--json")
    found = json.loads(said)
    assert code == 0
    assert json_keys()["training images"] == found.keys()
    assert (found["read"], found["refused"], len(found["files"])) == (3, 2, 5)


def test_each_file_is_read_or_refused_and_the_table_says_how(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "seen"
    code, said = run(str(folder), "--output", str(output))
    assert code == 0, said
    assert said.endswith(f"3 files read, 2 refused; {output / 'images.csv'} has a row for each.\n")
    with (output / "images.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["a.png", "a.tif", "b.tif", "c.czi", "day 2/stack.TIF"]
    plain = rows["a.png"]
    assert (plain["png"], plain["size"]) == ("a.png", "20 x 10")
    assert (plain["bits"], plain["channels"], plain["page"], plain["stretch"]) == (
        *("8", "grey"),
        *("", ""),
    )
    two = rows["a.tif"]
    assert two["png"] == "a.tif.png"
    assert (two["bits"], two["channels"]) == ("16", "channels 1, 2 of 2")
    assert two["stretch"].count(" to ") == 2
    assert rows["day 2/stack.TIF"]["page"] == "page 1 of 3"
    assert rows["b.tif"]["refusal"].startswith("the image is damaged")
    assert "OME-TIFF" in rows["c.czi"]["refusal"]
    assert rows["c.czi"]["png"] == ""
    for row in rows.values():
        if row["png"]:
            with Image.open(output / row["png"]) as seen:
                assert seen.size == (20, 10)
    np.testing.assert_array_equal(np.asarray(Image.open(output / "day 2/stack.png"))[..., 0], GREY)


def test_chosen_channels_are_shown(folder: Path, tmp_path: Path) -> None:
    code, said = run(str(folder), "--output", str(tmp_path / "seen"), "--channels", "2")
    assert code == 0
    assert "a.png: the option channels names channel 2, and this image has 1" in said
    assert "a.tif: channel 2 of 2, 16 bits" in said
    seen = np.asarray(Image.open(tmp_path / "seen/a.tif.png")).astype(int)
    np.testing.assert_allclose(seen[..., 0], GREY[::-1].astype(int) * 255 / 199, atol=2)


def test_a_second_run_beside_the_images_takes_its_own_for_none(folder: Path) -> None:
    for _ in range(2):
        code, said = run(str(folder), "--output", str(folder / "seen"))
        assert code == 0
        assert "3 files read, 2 refused" in said


@pytest.mark.parametrize("channels", ["0", "a", "1,2,3,4", ""])
def test_channels_that_are_none_are_refused(channels: str, folder: Path, tmp_path: Path) -> None:
    code, said = run(str(folder), "--output", str(tmp_path / "seen"), "--channels", channels)
    assert code == 2
    assert "expected one to three numbers from 1" in said


def test_the_images_themselves_are_never_overwritten(folder: Path) -> None:
    before = (folder / "a.png").read_bytes()
    code, said = run(str(folder), "--output", str(folder))
    assert code == 1
    assert "must be another folder" in said
    assert (folder / "a.png").read_bytes() == before


def test_a_folder_around_the_images_is_no_output(folder: Path) -> None:
    code, said = run(str(folder / "day 2"), "--output", str(folder))
    assert code == 1
    assert "none around it" in said
    assert not (folder / "images.csv").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="macOS takes no such names")
def test_a_name_that_is_no_text_here_is_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "from windows"
    folder.mkdir()
    Image.fromarray(GREY).save(folder / os.fsdecode(b"z\xe4hlung.png"))
    code, said = run(str(folder), "--output", str(tmp_path / "seen"))
    assert code == 0, said
    assert "z\\udce4hlung.png: grey, 8 bits" in said
    table = (tmp_path / "seen/images.csv").read_text(encoding="utf-8")
    assert "z\\udce4hlung.png,z\\udce4hlung.png,20 x 10" in table


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, said = run(str(tmp_path / "empty"), "--output", str(tmp_path / "seen"))
    assert code == 1
    assert "holds no files" in said
