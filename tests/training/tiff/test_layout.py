"""Which page, slice, time and channels of a stack are the image, and what is said of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.training.tiff.files import (
    DOWN,
    FALLING,
    FLAT,
    GREY8,
    RGB8,
    RISING,
    STACK,
    H,
    W,
    X,
    pages,
    read,
    tif,
)
from training.images import read_image
from training.pixels import UnreadableImage

DOWN8 = (DOWN >> 8).astype(int)
FALLING8 = (FALLING >> 8).astype(int)


def shows(image: Any, *channels: Any) -> None:
    """One channel as grey, two as red and green, three as red, green and blue."""
    wanted = list(channels) * 3 if len(channels) == 1 else [*channels, 0 * X][:3]
    np.testing.assert_allclose(image.astype(int), np.dstack(wanted), atol=2)


def test_pages_of_several_axes_without_a_name_can_be_chosen() -> None:
    values = np.stack([RISING, DOWN, FALLING, DOWN]).reshape(2, 2, H, W)
    data = tif(values, photometric="minisblack")
    assert read(data).page == "page 1 of 4"
    shows(read_image(io.BytesIO(data), channels=(3,)).image, FALLING8)


@pytest.mark.parametrize(
    ("axes", "shape", "position"),
    [
        ("ZYX", (4,), "z 1 of 4"),
        ("TYX", (4,), "time 1 of 4"),
        ("TZYX", (2, 3), "time 1 of 2, z 1 of 3"),
    ],
)
@pytest.mark.parametrize("kind", ["imagej", "ome", "shaped"])
def test_the_first_slice_and_time_are_shown(
    kind: str, axes: str, shape: tuple[int, ...], position: str
) -> None:
    values = np.broadcast_to(FALLING, (*shape, H, W)).copy()
    values[(0,) * len(shape)] = RISING
    options: dict[str, Any] = {"imagej": {"imagej": True}, "ome": {"ome": True}, "shaped": {}}[kind]
    seen = read(tif(values, metadata={"axes": axes}, photometric="minisblack", **options))
    shows(seen.image, GREY8)
    assert sorted(seen.page.split(", ")) == sorted(position.split(", "))
    assert seen.channels == "grey"


@pytest.mark.parametrize(
    "how",
    [
        {"imagej": True},
        {"imagej": True, "truncate": True},  # one directory for all planes
        {"ome": True},
        {"ome": True, "compression": "zlib"},
        {},
        {"compression": "zlib"},
        {"truncate": True},
    ],
)
def test_the_channels_of_the_first_slice_are_shown(how: dict[str, Any]) -> None:
    values = np.broadcast_to(FLAT, (2, 3, 3, H, W)).copy()  # time, z, channel
    values[0, 0] = STACK
    seen = read(tif(values, metadata={"axes": "TZCYX"}, photometric="minisblack", **how))
    shows(seen.image, GREY8, FALLING8, DOWN8)
    assert seen.channels == "channels 1-3 of 3"
    assert "z 1 of 3" in seen.page
    assert "time 1 of 2" in seen.page


@pytest.mark.parametrize("order", ["XYCZT", "XYZCT", "XYTCZ", "XYZTC", "XYTZC", "XYCTZ"])
def test_ome_names_the_order_of_its_planes(order: str) -> None:
    sizes = {"C": 3, "Z": 2, "T": 2}
    axes = order[:1:-1]
    planes = []
    for index in np.ndindex(*(sizes[axis] for axis in axes)):
        at = dict(zip(axes, index, strict=True))
        planes.append(STACK[at["C"]] if at["Z"] == at["T"] == 0 else FLAT)
    told = f'SizeX="{W}" SizeY="{H}" ' + " ".join(f'Size{a}="{n}"' for a, n in sizes.items())
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels DimensionOrder="{order}" ID="Pixels:0" Type="uint16" {told}><TiffData/>'
        "</Pixels></Image></OME>"
    )
    written = [(plane, {"metadata": None, "contiguous": False}) for plane in planes]
    written[0][1]["description"] = xml
    seen = read(pages(*written))
    shows(seen.image, GREY8, FALLING8, DOWN8)
    assert seen.page == "z 1 of 2, time 1 of 2"


def ome(planes: list[Any], inner: str, sizes: str) -> bytes:
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="urn:uuid:ours"><Image><Pixels DimensionOrder="XYCZT" {sizes}>{inner}</Pixels>'
        '</Image><Image><Pixels DimensionOrder="XYCZT" SizeC="9"/></Image></OME>'
    )
    written = [(plane, {"metadata": None}) for plane in planes]
    written[0][1]["description"] = xml
    return pages(*written)


def test_ome_says_which_directory_holds_which_plane() -> None:
    inner = (
        '<TiffData FirstC="2" IFD="0" PlaneCount="1"/><TiffData FirstC="0" IFD="1"/>'
        '<TiffData FirstC="1" IFD="2" PlaneCount="1"/>'
    )
    seen = read(ome([DOWN, RISING, FALLING], inner, 'SizeC="3" SizeZ="1" SizeT="1"'))
    shows(seen.image, GREY8, FALLING8, DOWN8)


def test_a_file_of_an_ome_set_shows_what_it_holds_itself() -> None:
    inner = (
        '<TiffData FirstC="0" IFD="0"><UUID FileName="/etc/passwd">urn:uuid:other</UUID></TiffData>'
        '<TiffData FirstC="1" IFD="0"><UUID FileName="b.tif">urn:uuid:ours</UUID></TiffData>'
    )
    seen = read(ome([RISING], inner, 'SizeC="2" SizeZ="1" SizeT="1"'))
    shows(seen.image, GREY8)
    assert seen.part == "image 1 of 2, channel 2 of 2"


@pytest.mark.parametrize(
    "inner",
    [
        '<TiffData IFD="99999999" PlaneCount="99999999"/>',
        '<TiffData FirstC="99999999"/>',
        "<TiffData/>" * 1000 + "<broken",
        '<!DOCTYPE x [<!ENTITY a "b">]>&a;',
    ],
)
def test_ome_that_makes_no_sense_leaves_the_pages(inner: str) -> None:
    seen = read(ome([RISING, FALLING], inner, 'SizeC="99999999" SizeZ="0" SizeT="x"'))
    shows(seen.image, *((GREY8, FALLING8) if "channel" in seen.channels else (GREY8,)))


def test_ome_colour_is_colour() -> None:
    data = tif(RGB8, ome=True, photometric="rgb", metadata={"axes": "YXS"})
    np.testing.assert_array_equal(read(data).image, RGB8)


def test_imagej_colour_stacks_are_colour() -> None:
    values = np.stack([RGB8, 255 - RGB8])
    seen = read(tif(values, imagej=True, photometric="rgb", metadata={"axes": "ZYXS"}))
    np.testing.assert_array_equal(seen.image, RGB8)
    assert (seen.page, seen.channels) == ("z 1 of 2", "RGB")


def test_pages_that_nobody_explains_are_counted() -> None:
    written = [(plane, {"metadata": None}) for plane in STACK]
    seen = read(pages(*written))
    shows(seen.image, GREY8)
    assert seen.part == "page 1 of 3"
    third = read(pages(*written), channels=(3,))
    shows(third.image, DOWN8)
    assert third.part == "channel 3 of 3"


def test_a_stack_of_python_s_is_its_first_page() -> None:
    seen = read(tif(np.stack([RISING, FALLING]), photometric="minisblack"))
    shows(seen.image, GREY8)
    assert seen.part == "page 1 of 2"


def test_pages_of_another_size_are_no_part_of_the_stack() -> None:
    data = pages(*((values, {"metadata": None}) for values in (RISING, RISING[:20, :20], FALLING)))
    shows(read(data).image, GREY8)
    assert read(data).page == "page 1 of 3"
    shows(read(data, channels=(2,)).image, FALLING8)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_samples_that_are_no_colours_are_channels(planar: str) -> None:
    samples = np.stack([FLAT, RISING, FALLING, DOWN, RISING])
    values = samples if planar == "separate" else samples.transpose(1, 2, 0)
    data = tif(
        values, photometric="minisblack", planarconfig=planar, extrasamples=["unspecified"] * 4
    )
    seen = read(data)
    shows(seen.image, GREY8, FALLING8, DOWN8)
    assert seen.channels == "channels 2-4 of 5"
    shows(read(data, channels=(4, 2)).image, DOWN8, GREY8)


def test_each_channel_is_stretched_by_itself() -> None:
    dim = (RISING // 100 + 300).astype(np.uint16)
    seen = read(tif(np.stack([dim, DOWN]), imagej=True, metadata={"axes": "CYX"}))
    shows(seen.image, GREY8, DOWN8)
    assert seen.stretch == "300 to 955; 0 to 65535"


def test_one_channel_that_holds_something_is_grey_and_none_is_black() -> None:
    one = read(tif(np.stack([FLAT, RISING]), imagej=True, metadata={"axes": "CYX"}))
    shows(one.image, GREY8)
    assert one.channels == "channel 2 of 2"
    none = read(tif(np.stack([FLAT, FLAT]), imagej=True, metadata={"axes": "CYX"}))
    shows(none.image, 0 * X)
    assert none.channels == "channel 1 of 2"


def test_channels_of_8_bits_stay_as_they_are() -> None:
    values = np.stack([GREY8 // 2, (DOWN >> 9).astype(np.uint8)])
    seen = read(tif(values, imagej=True, metadata={"axes": "CYX"}))
    shows(seen.image, GREY8 // 2, DOWN >> 9)
    assert seen.stretch == ""


def test_a_channel_that_is_not_there_is_refused() -> None:
    data = tif(STACK, imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(UnreadableImage, match="names channel 4, and this image has 3"):
        read(data, channels=(1, 4))


@pytest.mark.parametrize(
    "description",
    [
        "ImageJ=1.53\nimages=99999999\nchannels=99999999\n",
        "ImageJ=1.53\nimages=3\nchannels=0\nslices=-1\nframes=x\n",
        '{"shape": [99999999, 48, 64], "axes": "CYX"}',
        '{"shape": [3, 48, "x"]}',
        '{"shape": ' + "[" * 100_000,
        '{"shape": 3}',
        "<?xml <OME",
        "<OME></OME>",
    ],
)
def test_a_description_that_makes_no_sense_leaves_the_pages(description: str) -> None:
    written: list[Any] = [(plane, {"metadata": None}) for plane in STACK]
    written[0][1]["description"] = description
    seen = read(pages(*written))
    shows(seen.image, GREY8)
    assert seen.part == "page 1 of 3"


def test_imagej_s_data_beyond_4_gb_lie_one_after_another(tmp_path: Path) -> None:
    """ImageJ writes one directory, and the planes behind it, whatever the offsets can hold."""
    planes = 5 * 2**30 // (H * W * 2)
    described = f"ImageJ=1.53\nimages={planes}\nchannels=2\nframes={planes // 2}\nhyperstack=true\n"
    path = tmp_path / "large.tif"
    path.write_bytes(tif(RISING, description=described, metadata=None))
    with tifffile.TiffFile(path) as opened:
        at = opened.pages.first.dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(at + H * W * 2)
        file.write(FALLING.astype("<u2").tobytes())
        file.truncate(at + planes // 2 * 2 * H * W * 2)  # sparse: takes no room
    with path.open("rb") as file:
        seen = read_image(file)
    shows(seen.image, GREY8, FALLING8)
    assert seen.page == f"time 1 of {planes // 2}"


def test_a_cut_stack_shows_the_pages_before_the_cut() -> None:
    whole = pages(*((plane, {"metadata": None}) for plane in STACK))
    with tifffile.TiffFile(io.BytesIO(whole)) as opened:
        last = opened.pages[2].offset
    seen = read(whole[: last + 10])
    shows(seen.image, GREY8)
    assert json.dumps(seen.page) == '"page 1 of 2"'
