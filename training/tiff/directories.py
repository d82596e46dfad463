"""A TIFF's directories, its pages: what each declares, read without believing it.

tifffile makes room for whatever a tag says. A file is walked through here first, so that it only
meets directories whose tags lie inside the file and are not more than it can hold.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from training.pixels import ORIENTATION_TAG, UnreadableImage

MAX_DIRECTORIES = 100_000
"""Pages of a file, at most."""

MAX_TAGS = 1 << 21
"""Tags of all directories together: some seconds of reading."""

MAX_TAGS_EACH = 4096
"""tifffile reads no directory of more."""

MAX_PARTS = 1 << 20
"""Strips or tiles of a page: five times those of the largest image in the smallest tiles."""

MAX_UIC = 4096
"""Entries of MetaMorph's tags, which tifffile reads one by one for each plane."""

MAX_DESCRIPTION = 16 << 20
"""Bytes of a description, such as OME-XML with a line for each plane."""

REDUCED, MASK = 1, 4
"""Bits of NewSubfileType: a thumbnail or a level of a pyramid; a transparency mask."""

PREVIEW_ROUNDING_PX = 1
"""Sides of a preview may differ by so much from those of the image, shrunk."""

WIDTH, HEIGHT, BITS, SAMPLES, SUB_DIRECTORIES, DESCRIPTION = 256, 257, 258, 277, 330, 270
NEW_SUBFILE, SUBFILE = 254, 255

# What tifffile unpacks into Python's own numbers as it opens a page: 40 bytes for each.
_UNPACKED = frozenset((BITS, 273, SAMPLES, 279, 282, 283, 324, 325, 330, 338, 339, 513, 514, 530))
_UIC = frozenset((33628, 33629, 50838))
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_WHOLE = {3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True)
class Directory:
    """A page as its tags declare it.

    Attributes:
        at: where it begins in the file.
        samples: of a pixel.
        orientation: 1 to 8, as EXIF has it.
        subfile: the bits of NewSubfileType.
        children: where its sub-directories begin.
    """

    at: int
    width: int
    height: int
    samples: int = 1
    orientation: int = 1
    subfile: int = 0
    children: tuple[int, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Neither a thumbnail nor a mask."""
        return not self.subfile & (REDUCED | MASK)

    def is_like(self, other: Directory) -> bool:
        """Of the same size and samples, as the pages of a stack are."""
        ours = (self.width, self.height, self.samples)
        return ours == (other.width, other.height, other.samples)

    def is_preview_of(self, other: Directory) -> bool:
        """Of the other's shape, but for rounding, and at most half as wide and high."""
        skew = abs(self.width * other.height - self.height * other.width)
        return (
            2 * max(self.width, 1) <= other.width
            and 2 * max(self.height, 1) <= other.height
            and skew <= PREVIEW_ROUNDING_PX * max(other.width, other.height)
        )


class Directories:
    """The chain of directories of an open file.

    Attributes:
        chain: the pages, in order.
        size: of the file, in bytes.

    Raises:
        UnreadableImage: it is no TIFF, or its structure is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        header = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(header[:2])
        if order is None or len(header) < 8:
            raise not_read("it has no header")
        (version,) = struct.unpack_from(f"{order}H", header, 2)
        self._order, self._big = order, version == 43
        if version not in (42, 43) or (self._big and len(header) < 16):
            raise not_read(f"its version is {version}")
        self._tags = 0
        self.chain: list[Directory] = []
        (at,) = struct.unpack_from(f"{order}{'Q' if self._big else 'I'}", header, 4 + 4 * self._big)
        seen: set[int] = set()
        while at and at not in seen:
            if len(self.chain) == MAX_DIRECTORIES:
                raise UnreadableImage(f"a TIFF may have at most {MAX_DIRECTORIES} pages")
            seen.add(at)
            try:
                directory, at = self._read(at)
            except UnreadableImage:
                # An end that was cut off takes no page that stands before it.
                if not self.chain:
                    raise
                break
            self.chain.append(directory)
        if not self.chain:
            raise not_read("it has no pages")

    def child(self, at: int) -> Directory:
        """The sub-directory that begins there."""
        return self._read(at)[0]

    def _read(self, at: int) -> tuple[Directory, int]:
        """The directory that begins there, and where the next one does."""
        order, inline = self._order, 8 if self._big else 4
        (count,) = self._unpack("Q" if self._big else "H", at)
        self._tags += count
        if not 0 < count <= MAX_TAGS_EACH or self._tags > MAX_TAGS:
            raise not_read(f"a page has {count} tags")
        entries = at + (8 if self._big else 2)
        layout = struct.Struct(f"{order}HHQ8s" if self._big else f"{order}HHI4s")
        block = self._bytes(entries, layout.size * count)
        found: dict[int, int] = {}
        children: tuple[int, ...] = ()
        outside = 0
        for tag, kind, number, value in layout.iter_unpack(block):
            size = _SIZES.get(kind, 1) * number
            if size > inline:
                outside += size
                (start,) = struct.unpack(f"{order}{'Q' if self._big else 'I'}", value)
                if start + size > self.size and tag in _UNPACKED | {DESCRIPTION}:
                    raise not_read(f"its tag {tag} ends after the file")
            if number > MAX_PARTS and tag in _UNPACKED:
                raise not_read(f"its tag {tag} has {number} values")
            if number > MAX_UIC and tag in _UIC:
                raise not_read(f"its tag {tag} has {number} values")
            if tag == SUB_DIRECTORIES:
                children = self._numbers(kind, number, value)
            elif kind in _WHOLE and number and _SIZES[kind] <= inline:
                (found[tag],) = struct.unpack_from(f"{order}{_WHOLE[kind]}", value)
        if outside > self.size + (1 << 16):
            raise not_read("its tags overlap")
        (following,) = self._unpack("Q" if self._big else "I", entries + layout.size * count)
        subfile = found.get(NEW_SUBFILE, 0) or (REDUCED if found.get(SUBFILE) == 2 else 0)
        return (
            Directory(
                at,
                found.get(WIDTH, 0),
                found.get(HEIGHT, 0),
                found.get(SAMPLES, 1),
                found.get(ORIENTATION_TAG, 1),
                subfile,
                children,
            ),
            following,
        )

    def _numbers(self, kind: int, number: int, value: bytes) -> tuple[int, ...]:
        code = {4: "I", 13: "I", 16: "Q", 18: "Q"}.get(kind)
        if code is None or number > MAX_TAGS_EACH:
            return ()
        size = struct.calcsize(f"={code}") * number
        if size > len(value):
            (start,) = struct.unpack(f"{self._order}{'Q' if self._big else 'I'}", value)
            value = self._bytes(start, size)
        return struct.unpack_from(f"{self._order}{number}{code}", value)

    def _unpack(self, code: str, at: int) -> tuple[int, ...]:
        packed = struct.Struct(self._order + code)
        return packed.unpack(self._bytes(at, packed.size))

    def _bytes(self, at: int, count: int) -> bytes:
        if at + count > self.size:
            raise not_read("a page ends after the file")
        self._file.seek(at)
        return self._file.read(count)


def not_read(reason: str) -> UnreadableImage:
    """For what is damaged or meant otherwise: the two cannot be told apart."""
    return UnreadableImage(
        f"the image is damaged, or a kind of TIFF that is not read here: {reason}"
    )
