"""What a TIFF's pages mean: channels, slices, times, by what OME, ImageJ or tifffile wrote."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.pixels import UnreadableImage
from training.tiff.directories import MAX_DESCRIPTION, Directories, Directory

MOST_CHANNELS = 9999
"""More cannot be chosen."""

MOST_AXES = 32

MOST_NAMED = 4
"""OME-XML may name each page so many times: some programs repeat themselves."""

MOST_SWAPPED = 16
"""Narrower pages, many and long, are the rows of an image whose last axis is its channels."""

NAMES = {"Z": "z", "T": "time", "C": "channel", "S": "sample", "I": "page", "Q": "page"}


@dataclass(frozen=True)
class Plane:
    """One picture of a stack.

    Attributes:
        frame: its place among pictures that follow one another under one directory.
    """

    directory: Directory
    frame: int = 0


@dataclass(frozen=True)
class Layout:
    """Which pictures are the image.

    Attributes:
        planes: one for each channel; one of them all where a page holds all channels.
        position: which page or slice they are, as "page 1 of 3" or "z 1 of 20, time 1 of 5".
        pages: where the file does not say what its pages are, all of them; empty otherwise.
    """

    planes: tuple[Plane, ...]
    position: str = ""
    pages: tuple[Plane, ...] = ()


def main_page(directories: Directories) -> Directory:
    """The first page that is neither a thumbnail nor a mask; it may be below a thumbnail.

    Some cameras write a preview as first page and do not mark it: where the largest page is of
    the first one's shape and at least twice as wide and high, that is the image.
    """
    whole = [page for page in directories.chain if page.is_whole]
    if whole:
        largest = max(whole, key=lambda page: page.width * page.height)
        return largest if whole[0].is_preview_of(largest) else whole[0]
    for page in directories.chain[:16]:
        for at in page.children[:16]:
            child = directories.child(at)
            if child.is_whole:
                return child
    return max(directories.chain, key=lambda page: page.width * page.height)


def layout_of(
    directories: Directories, main: Directory, description: str, page_values: int, frames: int
) -> Layout:
    """The pictures that are the image: all channels of the first slice and time.

    Args:
        main: the page that ``main_page`` chose, and the description of its file.
        page_values: values of a picture: width, height and samples multiplied.
        frames: how many such pictures lie one after another from the first page's data on.
    """
    stack = [page for page in directories.chain if page.is_whole and page.is_like(main)] or [main]
    if len(description) <= MAX_DESCRIPTION:
        if is_ome(description):
            layout = _ome_layout(directories.chain, main, description)
            if layout is not None:
                return layout
        axes = _imagej_axes(description, main, len(stack), frames)
        axes = axes or _shaped_axes(description, page_values)
        layout = None if axes is None else _axes_layout(axes, stack, frames)
        if layout is not None:
            return layout
    pages = tuple(Plane(page) for page in stack[:MOST_CHANNELS])
    # Pages of another size count: they may be what somebody looks for.
    whole = [page for page in directories.chain if page.is_whole] or [main]
    number = whole.index(main) + 1 if main in whole else 1
    position = f"page {number} of {len(whole)}" if len(whole) > 1 else ""
    return Layout(pages[:1], position, pages if len(pages) > 1 else ())


def is_ome(description: str) -> bool:
    return description.lstrip()[:5] == "<?xml" or "<OME" in description[:2000]


def is_imagej(description: str) -> bool:
    return description.startswith(("ImageJ=", "SCIFIO="))


def told_by_imagej(description: str) -> dict[str, str]:
    """What the lines of ImageJ's description say, as ``unit`` to ``micron``."""
    return dict(line.split("=", 1) for line in description.splitlines() if "=" in line)


def _axes_layout(
    axes: Sequence[tuple[str, int]], stack: Sequence[Directory], frames: int
) -> Layout | None:
    """The first of each axis but all of C. None if there are not so many pictures.

    Args:
        axes: (letter, size) of each axis that goes over pictures, the outermost first.
    """
    total = math.prod(size for _, size in axes)
    if total == len(stack):

        def plane(index: int) -> Plane:
            return Plane(stack[index])

    elif len(stack) == 1 and total <= frames:

        def plane(index: int) -> Plane:
            return Plane(stack[0], index)

    else:
        return None
    unknown = math.prod(size for letter, size in axes if letter in "IQ")
    if total == unknown > 1:
        pages = tuple(plane(index) for index in range(min(total, MOST_CHANNELS)))
        return Layout(pages[:1], f"page 1 of {total}", pages)
    step, count = total, 1
    for letter, size in axes:
        step //= max(size, 1)
        if letter == "C":
            count = size
            break
    planes = tuple(plane(index * step) for index in range(min(count, MOST_CHANNELS)))
    return Layout(planes, _position(axes))


def _position(axes: Sequence[tuple[str, int]]) -> str:
    return ", ".join(
        f"{NAMES.get(letter, letter)} 1 of {size}"
        for letter, size in axes
        if size > 1 and letter != "C"
    )


def _imagej_axes(
    description: str, main: Directory, pages: int, frames: int
) -> list[tuple[str, int]] | None:
    if not is_imagej(description):
        return None
    told = told_by_imagej(description)
    channels, slices, times, images = (
        _positive(told.get(key)) for key in ("channels", "slices", "frames", "images")
    )
    if channels == main.samples:
        channels = 1  # the samples of each page are the channels
    if channels * slices * times == 1:
        return [("I", images)] if images > 1 else None
    sizes = {"C": channels, "Z": slices, "T": times}
    # ImageJ's own order; Bio-Formats names another.
    order = told.get("order", "czt").upper()
    if sorted(order) != ["C", "T", "Z"]:
        order = "CZT"
    return [(letter, sizes[letter]) for letter in reversed(order)]


def _positive(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and 0 < len(text) < 9 else 1


def _shaped_axes(description: str, page_values: int) -> list[tuple[str, int]] | None:
    """Of the description that tifffile writes: ``{"shape": [5, 3, 48, 64], "axes": "ZCYX"}``."""
    if not description.startswith('{"shape":'):
        return None
    try:
        told = json.loads(description)
        shape = told["shape"]
        axes = told.get("axes", "")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    if (
        not isinstance(shape, list)
        or len(shape) > MOST_AXES
        or not all(isinstance(n, int) and n > 0 for n in shape)
    ):
        return None
    if not isinstance(axes, str) or len(axes) != len(shape):
        axes = "Q" * len(shape)
    *_, height, width, channels = 0, 0, *shape
    narrow = 1 < channels <= MOST_SWAPPED and min(height, width) >= 4 * channels
    if narrow and "axes" not in told and page_values == width * channels:
        raise UnreadableImage(
            f"the TIFF holds {height} pages of {channels} x {width} pixels, as an array of "
            f"{height} x {width} pixels with {channels} channels becomes that was saved "
            "without saying so: save it by tifffile with photometric='minisblack' and "
            "planarconfig='contig'"
        )
    within = 1
    for first in range(len(shape) - 1, -1, -1):
        within *= shape[first]
        if within == page_values:
            return list(zip(axes[:first], shape[:first], strict=True)) or None
        if within > page_values:
            break
    return None


def _ome_layout(chain: Sequence[Directory], main: Directory, xml: str) -> Layout | None:
    """The planes of the first image that this file holds, which may be one of several files."""
    order, sizes = "XYCZT", {"C": 1, "Z": 1, "T": 1}
    planes: dict[tuple[int, int, int], int] = {}
    file_id: str | None = None
    inside = named = 0
    for event, tag, told in elements(xml):
        if event == "start" and tag == "OME":
            file_id = told.get("UUID")
        elif event == "start" and tag == "Pixels":
            inside += 1
            if inside > 1:
                break
            order = str(told.get("DimensionOrder", order)).upper()
            sizes = {axis: _positive(told.get(f"Size{axis}")) for axis in "CZT"}
            if sorted(order) != sorted("XYCZT"):
                return None
            if main.samples > 1:
                # The samples of each page are channels too.
                sizes["C"] = max(1, sizes["C"] // main.samples)
        elif event == "end" and tag == "TiffData" and inside == 1:
            if told.get("uuid", file_id) == file_id:
                found = _tiff_data(told, order, sizes, len(chain), main.samples)
                planes |= found
                named += len(found)
            if named > MOST_NAMED * len(chain):
                break
        elif event == "end" and tag == "Image":
            break
    if not inside:
        return None
    if not planes:
        planes = _tiff_data({}, order, sizes, len(chain), main.samples)
    images = xml.count("<Image ") + xml.count("<Image>")
    return _ome_planes(planes, sizes, chain, main, images)


def _ome_planes(
    planes: Mapping[tuple[int, int, int], int],
    sizes: Mapping[str, int],
    chain: Sequence[Directory],
    main: Directory,
    images: int,
) -> Layout | None:
    """Of (time, z, channel) -> page, and how many images the file describes."""
    held = {key: page for key, page in planes.items() if chain[page].is_like(main)}
    if not held:
        return None
    time, z, _ = min(held)
    channels = sorted(c for t, depth, c in held if (t, depth) == (time, z))
    places = [("image", 0, images), ("z", z, sizes["Z"]), ("time", time, sizes["T"])]
    if len(channels) == 1:
        # The others, if any, are in other files of the set.
        places.append(("channel", channels[0], sizes["C"]))
    position = ", ".join(f"{name} {at + 1} of {size}" for name, at, size in places if size > 1)
    return Layout(tuple(Plane(chain[held[time, z, c]]) for c in channels), position)


def _tiff_data(
    told: Mapping[str, str], order: str, sizes: Mapping[str, int], pages: int, samples: int
) -> dict[tuple[int, int, int], int]:
    """(time, z, channel) -> page, as a TiffData element says."""
    page = _index(told.get("IFD"))
    count = _index(told.get("PlaneCount"), 1 if "IFD" in told else pages - page)
    at = {axis: _index(told.get(f"First{axis}")) for axis in "CZT"}
    at["C"] //= samples
    axes = [axis for axis in order if axis in "CZT"]
    found = {}
    for index in range(page, min(page + count, pages)):
        if any(at[axis] >= sizes[axis] for axis in axes):
            break
        found[at["T"], at["Z"], at["C"]] = index
        for axis in axes:
            at[axis] += 1
            if at[axis] < sizes[axis] or axis == axes[-1]:
                break
            at[axis] = 0
    return found


def _index(text: str | None, otherwise: int = 0) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 9 else otherwise


def elements(xml: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(start or end, name, attributes) of each element; nothing of it is kept.

    A TiffData element that names a file comes with that file's ``uuid``.
    """
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    uuid: str | None = None
    path: list[Any] = []
    try:
        for event, element in iterparse(io.BytesIO(xml.encode()), events=("start", "end")):
            tag = element.tag.rsplit("}", 1)[-1]
            told = dict(element.attrib)
            if event == "start":
                path.append(element)
            else:
                path.pop()
                if tag == "UUID":
                    uuid = element.text
                elif tag == "TiffData":
                    told |= {} if uuid is None else {"uuid": uuid}
                    uuid = None
                if path:
                    path[-1].remove(element)
            yield event, tag, told
    except (ParseError, DefusedXmlException, ValueError):
        return
