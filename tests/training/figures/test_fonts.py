"""Letters of any script, with the fonts that this machine has and without."""

import io
import logging

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from tests.training.discs import disc_example
from training.figures import fonts
from training.figures.contact_sheet import LINE_PX, OutOfFold, contact_sheet
from training.figures.fonts import Fonts

CELL = "细胞"
"""Chinese for cell."""


@pytest.fixture
def installed(monkeypatch):
    """Sets which fonts this machine has, beside matplotlib's own."""

    def have(*files):
        monkeypatch.setattr(fonts, "_installed", lambda: list(files))
        fonts._fonts_of.cache_clear()

    yield have
    fonts._fonts_of.cache_clear()


@pytest.fixture
def chinese(tmp_path):
    """A font that has two letters, each a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 700), (900, 700), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", "cell1", "cell2"]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(
        {ord(letter): name for letter, name in zip(CELL, names[1:], strict=True)}
    )
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Two Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path / "squares.ttf"
    builder.save(path)
    return path


def sheet(classes, caption="worst: a"):
    example = disc_example("a", 0)
    entropy = np.zeros(example.mask.shape, np.float32)
    task = OutOfFold(example, example.mask, entropy, caption)
    return Image.open(io.BytesIO(contact_sheet([task], classes, "title")))


def test_cyrillic_and_greek_need_no_other_font(installed):
    installed()
    found = Fonts.of(["Клетка", "κύτταρο", "Zelle ü"])
    assert not found.missing
    assert len(found.files) == 1
    assert found.class_names(["background", "Клетка"]) == ["background", "Клетка"]
    assert found.note(["background", "Клетка"]) == ""


def test_a_font_with_the_letters_is_found_and_draws_them_and_no_others(installed, chinese):
    installed(chinese)
    found = Fonts.of([f"a {CELL} b"])
    assert not found.missing
    assert [(text, file == chinese) for text, file in found.runs(f"a {CELL} b")] == [
        ("a ", False),
        (f"{CELL} ", True),
        ("b", False),
    ]
    assert found.families == ["DejaVu Sans", "Two Squares"]


def test_what_no_font_has_is_named_by_its_index_and_said_once(installed, caplog):
    installed()
    classes = ("background", "Zelle", CELL)
    with caplog.at_level(logging.WARNING):
        found = Fonts.of(classes)
        assert Fonts.of(classes) is found
    (record,) = caplog.records
    assert all(letter in record.getMessage() for letter in CELL)
    assert found.class_names(classes) == ["background", "Zelle", "class 2"]
    assert found.note(classes).startswith("No font here has the letters of class 2: install one")
    assert found.readable(f"field {CELL[0]}.png") == "field [U+7EC6].png"
    assert "stand as [U+...]" in found.note(("background", "Zelle"))


def test_a_contact_sheet_draws_the_letters_or_says_that_it_cannot(installed, chinese):
    installed(chinese)
    drawn = sheet(("background", CELL, "b"))
    installed()
    named = sheet(("background", CELL, "b"))
    assert named.height == drawn.height + LINE_PX
    plain = sheet(("background", "class 1", "b"))
    legend = (0, plain.height - 2 * LINE_PX - 8, 200, plain.height - LINE_PX - 8)
    below = (0, plain.height - LINE_PX - 8, plain.width, plain.height)
    assert np.asarray(named.crop(below)).min() == 0  # the sentence
    assert np.asarray(drawn.crop(legend)).tobytes() != np.asarray(named.crop(legend)).tobytes()


def test_plain_ascii_asks_for_no_fonts(monkeypatch):
    monkeypatch.setattr(Fonts, "of", None)
    assert sheet(("background", "a", "b")).height > LINE_PX
