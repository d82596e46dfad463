"""A labelled folder: what is read, how it is split, and what is refused in which words."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.backend.odd_images import chunk, png
from training.datasets.labelled import (
    BadFolder,
    Labelled,
    by_hash,
    check_masks,
    indices_beyond,
    read_classes,
    read_image,
    read_labelled_folder,
)
from training.pixels import MAX_PIXELS, ORIENTATION_TAG, UnreadableImage

CLASSES = "0 background\n1 red cell\n2 crystal\n255 ignore\n"


def make_folder(root: Path, count: int = 10, classes: str = CLASSES) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    (root / "classes.txt").write_text(classes)
    rng = np.random.default_rng(4)
    for i in range(count):
        pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"field-{i}.png")
        mask = np.full((5, 7), i % 3, dtype=np.uint8)
        mask[0, 0] = 255
        Image.fromarray(mask).save(root / "masks" / f"field-{i}.png")
    return root


class TestClasses:
    def read(self, tmp_path: Path, text: str) -> tuple[str, ...]:
        path = tmp_path / "classes.txt"
        path.write_text(text)
        return read_classes(path)

    def test_numbered_lines_lose_their_numbers_and_the_ignore_line(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, CLASSES) == ("background", "red cell", "crystal")

    def test_plain_lines_are_numbered_by_their_order(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, "Background\nyeast\n\n") == ("background", "yeast")

    def test_the_mark_that_windows_begins_a_file_by_is_no_letter(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, "\ufeffbackground\r\nyeast\r\n") == ("background", "yeast")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "got nothing"),
            ("cell\nbackground\n", "background first"),
            ("background\n", "a class after it"),
            ("0 background\n2 cell\n", "0, 1, 2 and so on in order"),
            ("background\ncell\ncell\n", "names 'cell' twice"),
        ],
    )
    def test_anything_else_is_refused(self, tmp_path: Path, text: str, says: str) -> None:
        with pytest.raises(BadFolder, match=says):
            self.read(tmp_path, text)

    def test_a_missing_file_is_a_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(BadFolder, match="one class per line"):
            read_classes(tmp_path / "classes.txt")


class TestSplit:
    def test_a_fifth_is_held_back_and_no_image_is_in_both_parts(self, tmp_path: Path) -> None:
        training, held_back = read_labelled_folder(make_folder(tmp_path / "f", 11)).split()
        assert (len(training), len(held_back)) == (9, 2)
        assert not {i.name for i in training} & {i.name for i in held_back}

    def test_it_depends_on_the_names_alone(self, tmp_path: Path) -> None:
        first = read_labelled_folder(make_folder(tmp_path / "a")).split()
        second = read_labelled_folder(make_folder(tmp_path / "b")).split()
        assert [[i.name for i in part] for part in first] == [
            [i.name for i in part] for part in second
        ]

    def test_names_that_are_no_text_here_are_split_too(self) -> None:
        items = [Labelled(Path(name), Path(name)) for name in ("\udce9.png", "a.png")]
        assert set(by_hash(items)) == set(items)

    def test_training_images_come_in_no_order_of_their_names(self, tmp_path: Path) -> None:
        training, _ = read_labelled_folder(make_folder(tmp_path / "f", 10)).split()
        names = [item.name for item in training]
        assert names != sorted(names)


class TestSizes:
    def test_a_whole_slide_beyond_what_pillow_opens_is_a_sentence(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "f")
        huge = png(20_000, 20_000, chunk(b"IDAT", zlib.compress(b"")), bits=1)
        for folder in ("images", "masks"):
            (root / folder / "field-3.png").write_bytes(huge)
        with pytest.raises(BadFolder, match=r"images/field-3\.png cannot be read .*400000000 pix"):
            read_labelled_folder(root)

    def test_a_webp_is_not_turned_as_no_browser_turns_it(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "f")
        turned = Image.Exif()
        turned[ORIENTATION_TAG] = 6
        with Image.open(root / "images/field-0.png") as image:
            image.save(root / "images/field-0.webp", exif=turned)
        (root / "images/field-0.png").unlink()
        folder = read_labelled_folder(root)
        assert read_image(folder.items[0].image).shape == (5, 7, 3)


class TestMasks:
    def test_a_mask_is_its_class_indices(self, tmp_path: Path) -> None:
        folder = read_labelled_folder(make_folder(tmp_path / "f"))
        mask = folder.read_mask(folder.items[2])
        assert mask.shape == (5, 7)
        assert mask.dtype == np.uint8
        assert (mask[0, 0], mask[1, 1]) == (255, 2)

    def test_an_index_without_a_name_is_refused(self, tmp_path: Path) -> None:
        folder = read_labelled_folder(make_folder(tmp_path / "f", classes="background\ncell\n"))
        with pytest.raises(BadFolder, match=r"class index 2, but classes\.txt names 2 classes"):
            folder.read_mask(folder.items[2])

    def test_what_is_neither_a_class_nor_unknown_lies_beyond(self) -> None:
        mask = np.array([[0, 1, 255], [7, 2, 7]], np.uint8)
        assert indices_beyond(mask, 2) == [2, 7]
        assert indices_beyond(mask, 8) == []

    @pytest.mark.parametrize("bits", [2, 4])
    def test_a_grey_mask_of_fewer_bits_holds_its_indices(self, tmp_path: Path, bits: int) -> None:
        root = make_folder(tmp_path / "f", classes="background\na\nb\nc\n")
        mask = np.zeros((5, 7), np.uint8)
        mask[1, :4] = 0, 1, 2, 3
        places = np.pad(mask, ((0, 0), (0, 1))).reshape(5, -1, 8 // bits).astype(int)
        packed = sum(places[..., i] << (8 - bits * (i + 1)) for i in range(8 // bits))
        lines = np.pad(packed, ((0, 0), (1, 0))).astype(np.uint8)  # each begins with its filter
        pixels = chunk(b"IDAT", zlib.compress(lines.tobytes()))
        (root / "masks" / "field-0.png").write_bytes(png(7, 5, pixels, bits=bits))
        folder = read_labelled_folder(root)
        np.testing.assert_array_equal(folder.read_mask(folder.items[0]), mask)

    def test_a_mask_in_colours_is_refused(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "f")
        Image.new("RGB", (7, 5)).save(root / "masks" / "field-0.png")
        folder = read_labelled_folder(root)
        with pytest.raises(BadFolder, match="8-bit PNG of class indices, got one of mode RGB"):
            folder.read_mask(folder.items[0])


class TestMeaning:
    """Masks that cannot mean what classes.txt says."""

    def folder(self, root: Path, masks: list[list[int]], classes: str) -> Path:
        make_folder(root, len(masks), classes)
        for i, values in enumerate(masks):
            mask = np.zeros((5, 7), np.uint8)
            mask[1, : len(values)] = values
            Image.fromarray(mask).save(root / "masks" / f"field-{i}.png")
        return root

    @pytest.mark.parametrize(
        ("masks", "classes", "says"),
        [
            ([[255], [255]], "background\ncell\n", r"binary masks of 0 and 255.*unknown here"),
            ([[7], [7]], "background\ncell\n", r"masks hold 7.*binary masks of 0 and 7"),
            ([[1, 2, 3], [1, 2]], "background\ncell\n", r"hold 2, 3, which.*instance ids"),
            ([[1], [1]], "background\ncell\ndebris\n", r"no mask holds 2 \(debris\).*Take a class"),
            ([[1], [3]], "background\ncell\n", r"3 in 1 \(field-1\.png for one\)"),
        ],
    )
    def test_it_is_refused_with_the_values_files_and_how_to_convert_them(
        self, tmp_path: Path, masks: list[list[int]], classes: str, says: str
    ) -> None:
        folder = read_labelled_folder(self.folder(tmp_path / "f", masks, classes))
        with pytest.raises(BadFolder, match=says):
            check_masks(folder)

    @pytest.mark.parametrize(
        ("mode", "says"),
        [("RGB", "Colours say nothing"), ("I;16", "instance ids"), ("1", "one bit")],
    )
    def test_colours_and_depths_are_refused_with_how_to_convert_them(
        self, tmp_path: Path, mode: str, says: str
    ) -> None:
        root = make_folder(tmp_path / "f")
        Image.new(mode, (7, 5)).save(root / "masks" / "field-0.png")
        with pytest.raises(BadFolder, match=says):
            check_masks(read_labelled_folder(root))

    def test_a_sound_folder_passes(self, tmp_path: Path) -> None:
        check_masks(read_labelled_folder(make_folder(tmp_path / "f")))


class TestWhatIsWrong:
    @pytest.mark.parametrize("missing", ["images", "masks"])
    def test_a_missing_folder_is_named(self, tmp_path: Path, missing: str) -> None:
        root = make_folder(tmp_path / "f")
        (root / missing).rename(tmp_path / "elsewhere")
        with pytest.raises(BadFolder, match=f"has no {missing}/"):
            read_labelled_folder(root)

    def test_every_missing_mask_is_a_line(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "f")
        for i in (3, 5):
            (root / "masks" / f"field-{i}.png").unlink()
        with pytest.raises(BadFolder) as caught:
            read_labelled_folder(root)
        lines = str(caught.value).splitlines()
        assert len(lines) == 2
        assert "field-3.png is missing" in lines[0]

    def test_a_mask_of_another_size_is_refused_with_both_sizes(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "f")
        Image.new("L", (5, 7)).save(root / "masks" / "field-1.png")
        with pytest.raises(BadFolder, match="is 5 x 7 px, its image 7 x 5 px"):
            read_labelled_folder(root)

    def test_a_photograph_that_exif_turns_needs_a_mask_as_it_is_shown(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "f")
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (5, 7)).save(root / "images" / "turned.jpg", exif=exif)
        Image.new("L", (7, 5)).save(root / "masks" / "turned.png")
        assert len(read_labelled_folder(root).items) == 11

    def test_a_tiff_has_the_size_at_which_it_is_read(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "f")
        thumbnail, whole = np.zeros((3, 4, 3), np.uint8), np.zeros((7, 5, 3), np.float32)
        with tifffile.TiffWriter(root / "images" / "turned.tif") as writer:
            writer.write(thumbnail, photometric="rgb", subfiletype=1)
            writer.write(whole, photometric="rgb", extratags=[(0x0112, "H", 1, 6, True)])
        Image.new("L", (7, 5)).save(root / "masks" / "turned.png")
        folder = read_labelled_folder(root)
        assert len(folder.items) == 11
        (turned,) = [item for item in folder.items if item.name == "turned.tif"]
        assert read_image(turned.image).shape == (5, 7, 3)

    def test_a_file_that_is_no_image_is_refused(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "f")
        (root / "images" / "field-1.png").write_text("hello")
        with pytest.raises(BadFolder, match=r"field-1\.png cannot be read as an image"):
            read_labelled_folder(root)

    def test_two_images_of_one_stem_are_refused(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "f")
        Image.new("RGB", (7, 5)).save(root / "images" / "field-1.jpg")
        with pytest.raises(BadFolder, match="shares its stem"):
            read_labelled_folder(root)

    def test_one_image_is_too_few(self, tmp_path: Path) -> None:
        with pytest.raises(BadFolder, match=r"one to test with .*got 1"):
            read_labelled_folder(make_folder(tmp_path / "f", 1))


class TestExamples:
    def test_image_and_mask_come_at_the_networks_resolution_by_the_key(
        self, tmp_path: Path
    ) -> None:
        folder = read_labelled_folder(make_folder(tmp_path / "f"))
        item = folder.items[2]
        whole = folder.read_example(item, "two", 7)
        np.testing.assert_array_equal(whole.image, np.asarray(Image.open(item.image)))
        np.testing.assert_array_equal(whole.mask, folder.read_mask(item))
        assert whole.key == "two"
        assert folder.read_example(item, "two", 4).image.shape == (3, 4, 3)

    def test_a_damaged_image_is_named(self, tmp_path: Path) -> None:
        folder = read_labelled_folder(make_folder(tmp_path / "f"))
        path = folder.items[4].image
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(UnreadableImage, match=r"field-4\.png: "):
            folder.read_example(folder.items[4], "four", 7)

    def test_an_image_of_too_many_pixels_is_refused_by_its_header(self, tmp_path: Path) -> None:
        path = tmp_path / "large.png"
        Image.new("1", (MAX_PIXELS // 4096 + 1, 4096)).save(path)
        with pytest.raises(UnreadableImage, match=r"large\.png: .* at most 33554432 pixels"):
            read_image(path)
