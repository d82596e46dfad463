"""TIFFs that claim much, or make no sense, cost little and are refused in words."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.decoding import decode_apart
from tests.training.tiff.files import GREY8, RGB8, RISING, STACK, H, W, pages, patched, read, tif
from training.images import decode_image
from training.pixels import UnreadableImage

SHORT, LONG = 3, 4

Entries = dict[int, tuple[int, int, int]]


def chained(directories: list[Entries], tail: bytes = b"", loop: bool = False) -> bytes:
    """A file of these directories; an offset of -1 stands for where ``tail`` begins."""
    starts = [8]
    for entries in directories:
        starts.append(starts[-1] + 2 + 12 * len(entries) + 4)
    packed = [b"II*\0" + struct.pack("<I", 8)]
    for number, entries in enumerate(directories):
        packed.append(struct.pack("<H", len(entries)))
        for tag, (kind, count, value) in sorted(entries.items()):
            at = starts[-1] if value == -1 else value
            packed.append(struct.pack("<HHII", tag, kind, count, at))
        last = number == len(directories) - 1
        packed.append(struct.pack("<I", (8 if loop else 0) if last else starts[number + 1]))
    return b"".join(packed) + tail


def tiled(compression: int, data: bytes, side: int = 64, count: int = 1, **more: int) -> bytes:
    """One grey tile that is compressed so; of the image's own size unless said otherwise."""
    entries: Entries = {
        256: (LONG, 1, more.get("width", 64)),
        257: (LONG, 1, more.get("height", 64)),
        258: (SHORT, 1, 8),
        259: (SHORT, 1, compression),
        262: (SHORT, 1, 1),
        277: (SHORT, 1, more.get("samples", 1)),
        322: (LONG, 1, side),
        323: (LONG, 1, side),
        324: (LONG, 1, -1),
        325: (LONG, 1, len(data)),
    }
    if count == 1:
        return chained([entries], data)
    entries[325] = (LONG, count, -1)
    entries[324] = (LONG, count, -1)
    return chained([entries], struct.pack("<I", len(data)) * count + data)


def declaring(data: bytes, was: bytes, now: bytes) -> bytes:
    assert data.count(was) >= 1
    return data.replace(was, now, 1)


ZEROS = bytes(40_000_000)
BLACK = np.zeros((64, 64), np.uint8)
JPEG = imagecodecs.jpeg_encode(BLACK)
J2K = imagecodecs.jpeg2k_encode(BLACK, codecformat="j2k")
STRIP: Entries = {
    256: (LONG, 1, 4),
    257: (LONG, 1, 4),
    258: (SHORT, 1, 8),
    259: (SHORT, 1, 1),
    262: (SHORT, 1, 1),
    273: (LONG, 1, 8),
    277: (SHORT, 1, 1),
    278: (LONG, 1, 4),
    279: (LONG, 1, 16),
}

HOSTILE: dict[str, tuple[bytes, str]] = {
    "deflate": (tiled(8, zlib.compress(ZEROS)), "the image is damaged"),
    "Zstandard": (tiled(50000, imagecodecs.zstd_encode(ZEROS)), "the image is damaged"),
    "PackBits": (tiled(32773, b"\x81\0" * 300_000), "the image is damaged"),
    "JPEG": (
        tiled(7, declaring(JPEG, struct.pack(">HH", 64, 64), struct.pack(">HH", 65500, 65500))),
        "of 64 x 64 declares 65500 x 65500",
    ),
    "JPEG 2000": (
        tiled(34712, declaring(J2K, struct.pack(">II", 64, 64), struct.pack(">II", 60000, 60000))),
        "no image, or too large",
    ),
    "WebP": (
        tiled(50001, imagecodecs.webp_encode(np.zeros((900, 900, 3), np.uint8), level=0)),
        "of 64 x 64 declares 900 x 900",
    ),
    "all of the tiles": (
        tiled(8, zlib.compress(BLACK.tobytes()), side=4096, width=65_535, height=4),
        "parts of 4096 x 4096",
    ),
    "samples": (tiled(1, bytes(64), width=4096, height=4096, samples=4000), "at most 512 MiB"),
    "more samples": (tiled(1, bytes(64), samples=60_000), "its pixels have 60000 samples"),
    "pages": (chained([STRIP] * 100_001), "at most 100000 pages"),
    "a tag of millions": (
        chained([{**STRIP, 273: (LONG, 2_000_000, -1)}], bytes(8_000_000)),
        "its tag 273 has 2000000 values",
    ),
    "tags that overlap": (
        chained([{**STRIP, **dict.fromkeys(range(60000, 61000), (7, 8000000, -1))}], ZEROS),
        "its tags overlap",
    ),
    "MetaMorph's tags": (
        chained([{**STRIP, 33628: (LONG, 90_000, -1), 33629: (LONG, 9, -1)}], bytes(720_000)),
        "its tag 33628 has 90000 values",
    ),
    "no pages": (b"II*\0" + bytes(12), "it has no pages"),
    "a directory behind the end": (b"II*\0" + struct.pack("<I", 10**9), "ends after the file"),
    "a directory without tags": (chained([{}]), "a page has 0 tags"),
    "no tile": (tiled(1, bytes(64), side=0), "its strips or tiles are 64 x 0"),
    "no pixels": (tiled(8, b""), "holds none of its pixels"),
    "data behind the end": (chained([{**STRIP, 273: (LONG, 1, 10**9)}]), "the file ends after"),
    "a palette of no colours": (chained([{**STRIP, 262: (SHORT, 1, 3)}]), "palette"),
}
"""What is refused, and what the sentence says."""

HARMLESS = {
    "LZW": tiled(5, imagecodecs.lzw_encode(ZEROS)),
    "a stack of millions of pixels": tif(
        BLACK[:1, :1], description="ImageJ=1.53\nimages=40000000\n", metadata=None
    )
    + ZEROS,
    "millions of channels": tif(
        BLACK[:1, :1],
        description="ImageJ=1.53\nimages=40000000\nchannels=20000000\nslices=2",
        metadata=None,
    )
    + ZEROS,
    "a loop": chained([STRIP], loop=True),
    "OME-XML that counts to millions": pages(
        (
            RISING,
            {
                "metadata": None,
                "description": '<?xml version="1.0"?><OME><Image><Pixels DimensionOrder="XYCZT" '
                'SizeC="9999999" SizeZ="9999999" SizeT="9999999">'
                + '<TiffData PlaneCount="9999999"/>' * 1000
                + "</Pixels></Image></OME>",
            },
        )
    ),
    "OME-XML that names each of many pages many times": chained(
        [{**STRIP, 270: (2, 700_100, -1)}, *[STRIP] * 20_000],
        b'<?xml version="1.0"?><OME><Image><Pixels DimensionOrder="XYCZT" SizeT="20001">'
        + b"<TiffData/>" * 63_000
        + b"</Pixels></Image></OME>"
        + bytes(8000),
    ),
    "OME-XML of entities": pages(
        (
            RISING,
            {
                "metadata": None,
                "description": '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "'
                + "a" * 1000
                + '">'
                + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(12))
                + "]><OME>&m;</OME>",
            },
        )
    ),
}
"""What is read, and costs no more than it should."""

# Loading a codec is no file's cost.
CODECS = """
import tifffile, imagecodecs
imagecodecs.jpeg2k_decode, imagecodecs.jpeg_decode, imagecodecs.zstd_decode
"""


def test_what_claims_much_costs_little_and_says_why(tmp_path: Path) -> None:
    files = {**{name: data for name, (data, _) in HOSTILE.items()}, **HARMLESS}
    told = dict(zip(files, decode_apart(tmp_path, files.values(), CODECS), strict=True))
    costly = {name: found for name, found in told.items() if found.rise_mib > 64}
    assert costly == {}
    for name in HARMLESS:
        assert told[name].said.startswith("("), (name, told[name])


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_makes_no_sense_is_refused(kind: str) -> None:
    data, says = HOSTILE[kind]
    with pytest.raises(UnreadableImage, match=says):
        decode_image(data)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits", "jpeg"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_cut_file_is_refused_wherever_it_is_cut(
    compression: str | None, tile: tuple[int, int] | None
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    data = tif(noise, photometric="rgb", compression=compression, tile=tile)
    for end in np.linspace(10, len(data) - 20, 12).astype(int):
        with pytest.raises(UnreadableImage, match=r"the image is damaged|expected a"):
            read(data[:end])


@pytest.mark.parametrize("kind", ["deep", "planar", "tiled", "palette", "stack", "ome"])
def test_altered_bytes_give_an_image_or_a_sentence(kind: str) -> None:
    """Nothing else is raised, whatever is written over a file's tags."""
    data = {
        "deep": tif(RISING),
        "planar": tif(RGB8.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        "tiled": tif(RGB8, photometric="rgb", tile=(16, 16), compression="zlib", predictor=True),
        "palette": tif(GREY8, photometric="palette", colormap=np.zeros((3, 256), np.uint16)),
        "stack": tif(STACK, imagej=True, metadata={"axes": "CYX"}),
        "ome": tif(STACK, ome=True, metadata={"axes": "CYX"}, photometric="minisblack"),
    }[kind]
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        first = opened.pages.first
        at, end = first.offset, first.offset + 2 + 12 * len(first.tags) + 4
    rng = np.random.default_rng(0)
    said: list[str] = []
    for _ in range(150):
        altered = bytearray(data)
        for place in rng.integers(at, end, 3):
            altered[place] = rng.choice([0, 1, 255, rng.integers(256)])
        try:
            assert read(bytes(altered), max_pixels=10**6).image.dtype == np.uint8
        except UnreadableImage as error:
            said.append(str(error))
    assert all(sentence.isprintable() for sentence in said)


def test_a_last_strip_that_was_filled_up_is_no_damage() -> None:
    data = tif(GREY8, compression="zlib", rowsperstrip=20)  # of 48 rows: 20, 20 and 8
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        tags = opened.pages.first.tags
        places = (tags[273].valueoffset + 8, tags[279].valueoffset)
        counts = tags[279].dtype
    full = zlib.compress(GREY8[40:].tobytes() + bytes(12 * W))
    changed = bytearray(data)
    changed[places[0] : places[0] + 4] = struct.pack("<I", len(data))
    size = {3: 2, 4: 4}[int(counts)]
    changed[places[1] + 2 * size : places[1] + 3 * size] = len(full).to_bytes(size, "little")
    np.testing.assert_array_equal(read(bytes(changed) + full).image[..., 0], GREY8)


def test_a_single_strip_may_be_said_to_be_of_any_length() -> None:
    for count in (0, 1, 2**31):
        image = read(patched(tif(GREY8), 279, count)).image
        np.testing.assert_array_equal(image[..., 0], GREY8)
