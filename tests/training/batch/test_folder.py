"""`python -m training predict`: a folder of images in, masks and tables out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from tests.command_page import json_keys
from tests.training.batch.thresholds import BRIGHT, DARK, GROUND, OWN, write_thresholds
from training.__main__ import cli
from training.batch import folder as batch_folder
from training.committee.committee import Committee
from training.datasets.seen_images import HEAD
from training.images import encode_png
from training.particles.coco import decode_runs
from training.pixels import Image8

MASK = np.zeros((40, 60), np.uint8)
MASK[2:8, 3:13] = 1
MASK[20:24, 20:25] = 2
MASK[30:40, 50:60] = 2  # at the border
MASK[15, 40] = 1  # one pixel


def image_of(mask: Image8) -> Image8:
    return np.repeat(np.array([GROUND, DARK, BRIGHT], np.uint8)[mask][..., None], 3, axis=2)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_thresholds(tmp_path_factory.mktemp("versions") / "4")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "day 2").mkdir(parents=True)
    (folder / "a.png").write_bytes(encode_png(image_of(MASK)))
    (folder / "day 2/b.png").write_bytes(encode_png(image_of(MASK[::-1])))
    return folder


def predict(images: Path, version: Path, output: Path, *more: str) -> tuple[int, str]:
    arguments = ["predict", str(images), "--version", str(version), "--output", str(output)]
    ended = CliRunner().invoke(cli, [*arguments, "--network", OWN, "--threads", "1", *more])
    return ended.exit_code, ended.output


def pixels(path: Path) -> NDArray[Any]:
    with Image.open(path) as opened:
        return np.asarray(opened)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_json_says_what_was_done_and_the_status_stays(
    images: Path, version: Path, tmp_path: Path
) -> None:
    (images / "broken.png").write_bytes(b"no image")
    code, said = predict(images, version, tmp_path / "out", "--json")
    found = json.loads(said)
    assert code == 1
    assert json_keys()["training predict"] == found.keys()
    assert (found["done"], list(found["refused"])) == (2, ["broken.png"])


def test_masks_and_tables_hold_the_particles(images: Path, version: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    code, said = predict(images, version, output, "--pixel-size", "0.5")
    assert code == 0, said
    expected = np.where(MASK == 1, 1, MASK)
    expected[15, 40] = 0  # fewer pixels than 12
    np.testing.assert_array_equal(pixels(output / "masks/a.png"), expected)
    np.testing.assert_array_equal(pixels(output / "masks/day 2/b.png"), expected[::-1])
    table = rows(output / "images.csv")
    assert tuple(table[0])[: len(HEAD)] == HEAD
    assert [row["file"] for row in table] == ["a.png", "day 2/b.png"]
    assert (table[0]["count_dark"], table[0]["area_dark"]) == ("1", "60")
    assert (table[0]["count_bright"], table[0]["area_bright"]) == ("2", "120")
    assert (table[0]["area_um2_bright"], table[0]["pixel_width_um"]) == ("30", "0.5")
    particles = [row for row in rows(output / "particles.csv") if row["file"] == "a.png"]
    dark, inner, corner = particles
    assert [p["class"] for p in particles] == ["dark", "bright", "bright"]
    assert [dark[f"bbox-{i}"] for i in range(4)] == ["2", "3", "8", "13"]
    assert (dark["centroid-0"], dark["centroid-1"]) == ("4.5", "7.5")
    assert float(dark["equivalent_diameter_area"]) == pytest.approx(np.sqrt(4 * 60 / np.pi))
    assert float(dark["equivalent_diameter_area_um"]) == pytest.approx(np.sqrt(60 / np.pi))
    assert (dark["solidity"], dark["intensity_mean-2"]) == ("1", str(DARK))
    assert [p["touches_border"] for p in (dark, inner, corner)] == ["False", "False", "True"]
    assert 0.9 < float(dark["probability"]) <= 1
    assert 0 <= float(dark["uncertainty"]) < 0.1


def test_the_mask_is_that_of_the_prediction(version: Path, tmp_path: Path) -> None:
    """Of an image larger than a tile and than the network's resolution, grains of all sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    other = write_thresholds(tmp_path / "5", 5, max_side_px=1100)
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (30, 80), np.uint8), np.ones((8, 16), np.uint8))
    image = np.repeat(image[..., None], 3, axis=2)
    (folder / "large.png").write_bytes(encode_png(image))
    output = tmp_path / "out"
    code, said = predict(folder, other, output, "--min-particle-px", "1", "--uncertainty")
    assert code == 0, said
    prediction = Committee.load(other, own_network=OWN).predict(image)
    np.testing.assert_array_equal(pixels(output / "masks/large.png"), prediction.mask())
    uncertainty = tifffile.imread(output / "uncertainty/large.tif")
    assert uncertainty.shape == image.shape[:2]
    assert uncertainty.dtype == np.float32
    np.testing.assert_allclose(
        uncertainty.mean(), prediction.maps["predictive_entropy"].mean(), rtol=0.02
    )


def test_touching_particles_are_told_apart_by_option(version: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    y, x = np.mgrid[:40, :60]
    pair = (y - 20) ** 2 + (abs(x - 30) - 9) ** 2 < 100
    image = np.where(pair, np.uint8(BRIGHT), np.uint8(GROUND))[..., None].repeat(3, axis=2)
    (folder / "pair.png").write_bytes(encode_png(image))
    merged, apart = tmp_path / "merged", tmp_path / "apart"
    assert predict(folder, version, merged)[0] == 0
    code, said = predict(folder, version, apart, "--split-touching", "bright", "--instances")
    assert code == 0, said
    assert [rows(each / "images.csv")[0]["count_bright"] for each in (merged, apart)] == ["1", "2"]
    assert pixels(apart / "instances/pair.png").max() == 2
    np.testing.assert_array_equal(
        pixels(merged / "masks/pair.png"), pixels(apart / "masks/pair.png")
    )
    code, said = predict(folder, version, tmp_path / "other", "--split-touching", "cell")
    assert code == 1
    assert "knows no class 'cell' whose particles could be split: its classes are dark" in said


def test_each_output_asked_for_is_written(images: Path, version: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    code, said = predict(images, version, output, "--instances", "--overlays", "--coco")
    assert code == 0, said
    numbers = pixels(output / "instances/a.png")
    assert numbers.dtype == np.uint16
    assert (numbers[4, 5], numbers[21, 21], numbers[35, 55], numbers.max()) == (1, 2, 3, 3)
    assert pixels(output / "overlays/day 2/b.png").shape == (40, 60, 3)
    coco = json.loads((output / "coco.json").read_text())
    assert [each["file_name"] for each in coco["images"]] == ["a.png", "day 2/b.png"]
    assert coco["categories"] == [{"id": 1, "name": "dark"}, {"id": 2, "name": "bright"}]
    assert len({each["id"] for each in coco["annotations"]}) == 6
    painted = np.zeros((2, 40, 60), np.uint8)
    for each in coco["annotations"]:
        counts, size = each["segmentation"]["counts"], each["segmentation"]["size"]
        first, columns = decode_runs(counts, size)
        inside = np.zeros(size, bool)
        inside[:, first : first + columns.shape[1]] = columns
        assert inside.sum() == each["area"]
        left, top, width, height = each["bbox"]
        assert inside[top : top + height, left : left + width].sum() == each["area"]
        painted[each["image_id"] - 1][inside] = each["category_id"]
    np.testing.assert_array_equal(painted[0], pixels(output / "masks/a.png"))


def test_a_second_run_does_what_is_missing(
    images: Path, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    read = batch_folder.read_apart
    seen: list[int] = []

    def one_then_ctrl_c(data: bytes, channels: object) -> object:
        seen.append(len(data))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return read(data, None)

    def ctrl_c(_folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(batch_folder, "read_apart", one_then_ctrl_c)
    with monkeypatch.context() as patched:
        patched.setattr(batch_folder, "read_version", ctrl_c)
        assert predict(images, version, output)[0] == 130  # before the first image
    code, said = predict(images, version, output)
    assert code == 130, said
    assert "the same command goes on" in said
    assert [row["file"] for row in rows(output / "images.csv")] == ["a.png"]
    # What a process that was killed leaves: half a line.
    with (output / ".images.jsonl").open("ab") as file:
        file.write(b'{"file": "day 2/b.p')
    code, said = predict(images, version, output)
    assert (code, len(seen)) == (0, 3), said
    assert "2 images have results, 1 of them new" in said
    # A file of another stem-mate, a lost mask and a changed image are missing too.
    (images / "a.jpg").write_bytes(encode_png(image_of(MASK)))
    (output / "masks/day 2/b.png").unlink()
    (images / "a.png").write_bytes(encode_png(image_of(np.zeros_like(MASK))))
    code, said = predict(images, version, output)
    assert (code, len(seen)) == (0, 6), said
    table = {row["file"]: row for row in rows(output / "images.csv")}
    assert table["a.jpg"]["png"] == "masks/a.jpg.png"
    assert (table["a.png"]["png"], table["a.png"]["count_dark"]) == ("masks/a.png", "0")
    assert (output / "masks/day 2/b.png").exists()
    (images / "a.jpg").unlink()
    code, said = predict(images, version, output)
    assert "1 masks are of images that are no longer in the folder" in said
    assert len(rows(output / "images.csv")) == 2
    (images / "a.png").write_bytes(b"")
    code, said = predict(images, version, output)
    assert code == 1
    assert "2 masks are of images that are no longer in the folder or cannot be read now" in said


def test_another_version_or_option_is_not_mixed(
    images: Path, version: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert predict(images, version, output)[0] == 0
    before = (output / "masks/a.png").read_bytes()
    code, said = predict(images, version, output, "--min-particle-px", "1")
    assert code == 1
    assert "min-particle-px was 12 and is now 1" in said
    code, said = predict(images, write_thresholds(tmp_path / "7", 7), output)
    assert code == 1
    assert 'version was "4, SHA-256' in said
    assert (output / "masks/a.png").read_bytes() == before


def test_a_folder_of_something_else_is_left_as_it_is(
    images: Path, version: Path, tmp_path: Path
) -> None:
    output = tmp_path / "labelled"
    (output / "masks").mkdir(parents=True)
    (output / "masks/a.png").write_bytes(b"drawn by a person")
    code, said = predict(images, version, output)
    assert code == 1
    assert "holds what is no result of this command, such as masks" in said
    assert (output / "masks/a.png").read_bytes() == b"drawn by a person"


@pytest.mark.parametrize("text", ["[]", "{"])
def test_a_damaged_note_of_what_was_asked_for_is_said(
    text: str, images: Path, version: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "predict.json").write_text(text)
    code, said = predict(images, version, output)
    assert code == 1
    assert "predict.json is damaged: choose another --output" in said


def test_folders_that_are_called_as_masks_are_kept(
    images: Path, version: Path, tmp_path: Path
) -> None:
    """Sorted by path, one image comes before the folder of its PNG's name, the other after."""
    data = (images / "a.png").read_bytes()
    for name in ("b.png/x.png", "b.jpg", "c.png/x.png", "c.tif"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_bytes(data)
    code, said = predict(images, version, tmp_path / "out")
    assert code == 0, said
    pngs = {row["file"]: row["png"] for row in rows(tmp_path / "out/images.csv")}
    assert (pngs["b.jpg"], pngs["c.tif"]) == ("masks/b.jpg.png", "masks/c.tif.png")
    assert pngs["b.png/x.png"] == "masks/b.png/x.png"
    seen = CliRunner().invoke(cli, ["images", str(images), "--output", str(tmp_path / "seen")])
    assert seen.exit_code == 0, seen.output
    assert (tmp_path / "seen/b.jpg.png").is_file()


def test_a_file_beyond_all_memory_is_refused(images: Path, version: Path, tmp_path: Path) -> None:
    with (images / "stack.tif").open("wb") as file:
        file.truncate(60 * 10**9)
    code, said = predict(images, version, tmp_path / "out")
    assert code == 1
    assert "stack.tif: it has 60.0 GB, and at most 2.1 GB are read" in said
    assert "2 images have results" in said


def test_what_cannot_be_read_is_listed_and_the_rest_done(
    images: Path, version: Path, tmp_path: Path
) -> None:
    (images / "damaged.tif").write_bytes(b"II*\0nothing")
    (images / "notes.txt").write_text("day 1")
    (images / "loop").symlink_to(images)
    (images / "gone.png").symlink_to(tmp_path / "nowhere.png")
    output = images / "results"  # within the images' own folder
    code, said = predict(images, version, output)
    assert code == 1
    assert "2 images have results, 2 of them new; 3 could not be read" in said
    assert "1 other files are no images" in said
    table = {row["file"]: row["refusal"] for row in rows(output / "images.csv")}
    assert list(table) == ["a.png", "damaged.tif", "day 2/b.png", "gone.png", "loop", "notes.txt"]
    assert "damaged" in table["damaged.tif"]
    assert "link" in table["loop"]
    assert "link" in table["gone.png"]
    # Results of an earlier run are no images.
    code, said = predict(images, version, images / "others", "--min-particle-px", "1")
    assert "2 images have results, 2 of them new" in said
    assert "results: it is a folder of results" in said


@pytest.mark.parametrize("name", ["=1+1.png", "a,b\n.png", "[red]é漢.png", "ä" * 125 + ".png"])
def test_strange_names_survive(name: str, version: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / name).write_bytes(encode_png(image_of(MASK)))
    code, said = predict(folder, version, tmp_path / "out")
    assert code == 0, said
    assert (tmp_path / "out/masks" / name).exists()
    expected = f"'{name}" if name[0] == "=" else name
    assert {row["file"] for row in rows(tmp_path / "out/particles.csv")} == {expected}


def test_an_image_without_particles_has_a_row(version: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "empty.png").write_bytes(encode_png(image_of(np.zeros((1, 1), np.uint8))))
    code, said = predict(folder, version, tmp_path / "out", "--instances", "--coco")
    assert code == 0, said
    assert rows(tmp_path / "out/images.csv")[0]["count_bright"] == "0"
    assert rows(tmp_path / "out/particles.csv") == []
    assert json.loads((tmp_path / "out/coco.json").read_text())["annotations"] == []


def test_own_columns_are_joined_and_summed_up(images: Path, version: Path, tmp_path: Path) -> None:
    (images / "c.png").write_bytes(encode_png(image_of(MASK)))
    (images / "notes.txt").write_text("day 1")
    columns = tmp_path / "info.csv"
    columns.write_text("image;patient;age\na.png;=P1;-5\nday 2\\b.png;P2;7\nd.png;P2;7\n")
    code, said = predict(
        *(images, version, tmp_path / "out", "--columns", str(columns), "--group-by", "patient")
    )
    assert code == 0, said
    assert "1 rows of" in said
    assert "name no image of the folder: d.png" in said
    assert "1 images have no row" in said
    table = {row["file"]: row for row in rows(tmp_path / "out/images.csv")}
    assert (table["a.png"]["patient"], table["a.png"]["age"]) == ("'=P1", "-5")
    assert table["c.png"]["patient"] == ""
    particles = rows(tmp_path / "out/particles.csv")
    assert {row["patient"] for row in particles if row["file"] == "day 2/b.png"} == {"P2"}
    groups = rows(tmp_path / "out/groups.csv")
    assert [(g["patient"], g["class"], g["images"], g["count"]) for g in groups[2:4]] == [
        ("'=P1", "dark", "1", "1"),
        ("'=P1", "bright", "1", "2"),
    ]
    assert (groups[3]["area"], groups[3]["area_um2"]) == ("120", "")
    assert predict(images, version, tmp_path / "out")[0] == 0
    assert not (tmp_path / "out/groups.csv").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image,area\na.png,1\n", "the column 'area', which the tables have already"),
        ("image,slide\na.png,1\na.png,2\n", "line 3: a.png has a row already"),
        ("image,slide,\na.png,1,\n", "a column without a name, number 3"),
        ("image,slide\na.png\n", "line 2: has 1 cells, the head 2"),
        ("", "must have a head"),
    ],
)
def test_columns_that_cannot_be_joined_are_refused_at_once(
    text: str, says: str, images: Path, version: Path, tmp_path: Path
) -> None:
    columns = tmp_path / "info.csv"
    columns.write_text(text)
    code, said = predict(images, version, tmp_path / "out", "--columns", str(columns))
    assert code == 1
    assert says in said
    assert not (tmp_path / "out").exists()


def test_what_can_not_begin_says_why(images: Path, version: Path, tmp_path: Path) -> None:
    code, said = predict(images, version, images)
    assert code == 1
    assert "must be another folder" in said
    code, said = predict(images, tmp_path / "none", tmp_path / "out")
    assert code == 1
    assert "there is no version" in said
    code, said = predict(images, version, tmp_path / "out", "--group-by", "patient")
    assert code == 1
    assert "no column 'patient' to group by" in said
    (tmp_path / "empty").mkdir()
    code, said = predict(tmp_path / "empty", version, tmp_path / "out")
    assert code == 1
    assert "holds no files" in said
    code, said = predict(images, version, tmp_path / "out", "--pixel-size", "nan")
    assert code == 2
    assert "it must be a number of micrometres" in said
    (tmp_path / "file").write_text("")
    code, said = predict(images, version, tmp_path / "file/out")
    assert code == 1
    assert "Not a directory" in said


def test_a_full_disk_ends_the_run_and_nothing_is_half_there(
    images: Path, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("training.batch.outputs.write_atomically", full)
        code, said = predict(images, version, tmp_path / "out")
    assert code == 1
    assert "No space left" in said
    assert not (tmp_path / "out/images.csv").exists()
    assert predict(images, version, tmp_path / "out")[0] == 0


def test_more_particles_than_16_bits_number_are_refused_in_words(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Path
) -> None:
    monkeypatch.setattr("training.batch.outputs.MOST_NUMBERED", 2)
    code, said = predict(images, version, tmp_path / "out", "--instances")
    assert code == 1
    assert "a.png: it holds 3 particles, and a 16-bit mask numbers at most 2" in said


def test_channels_and_pixel_sizes_are_read_as_images_reads_them(
    version: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    grey = image_of(MASK)[..., 0].astype(np.uint16) * 100
    tifffile.imwrite(
        folder / "stack.tif",
        np.stack([np.full_like(grey, 7), grey]),
        imagej=True,
        resolution=(4, 4),
        metadata={"axes": "CYX", "unit": "um"},
    )
    shared = ("--channels", "2")
    assert predict(folder, version, tmp_path / "out", *shared)[0] == 0
    seen = CliRunner().invoke(
        cli, ["images", str(folder), "--output", str(tmp_path / "seen"), *shared]
    )
    assert seen.exit_code == 0
    (by_images,), (ours,) = rows(tmp_path / "seen/images.csv"), rows(tmp_path / "out/images.csv")
    assert {name: ours[name] for name in HEAD if name != "png"} == {
        name: by_images[name] for name in HEAD if name != "png"
    }
    assert (ours["pixel_width_um"], ours["channels"]) == ("0.25", "channel 2 of 2")
    assert (ours["area_dark"], ours["area_um2_dark"]) == ("60", "3.75")
    assert (tmp_path / "out/images.csv").stat().st_mode & 0o077 == 0
