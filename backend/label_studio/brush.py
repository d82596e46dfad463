"""Label Studio's run-length code for brush masks, in numpy.

A stream is a header and records, most significant bit first, zero-padded to whole bytes:

- header: words in all (32 bits), bits per word less one (5), four length sizes less one (4 x 4);
- record: run or literal (1 bit: 1 is a run), which length size (2), length less one (that many
  bits), then the run's one word, or a literal's every word.

The words are the bytes of the RGBA image, row by row; the mask is the alpha plane. ``encode`` takes
the four length sizes that make the stream shortest, ordinary masks by 9 to 16 % shorter than with
the 3, 4, 8 and 16 that Label Studio's editor and SDK write; both read any.

Where a record ends depends on its first bits alone, so only hopping from record to record is left
to Python; everything else works on all records at once, and the pixels are written last, by one
repeat.

Source: thi.ng/umbrella, packages/rle-pack, which Label Studio's editor uses;
label_studio_sdk.converter.brush. By hand, since the SDK's takes some 20 times as long
(`make bench`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from backend.errors import BadRegion
from backend.shorten import short

# The editor reads the words as the bytes of its canvas.
WORD_BITS = 8
HEADER_BITS = 32 + 5 + 4 * 4
CHANNELS = 4

# Eight times an image of 4096 x 4096, the largest we promise; a claim beyond it is refused before
# a byte is allocated for it. (The header's 32 bits would allow 2**30 pixels.)
MAX_BRUSH_PIXELS = 2**27

# A mask of 4096 x 4096 pixels that is noise takes half of it.
MAX_RLE_BYTES = 2**26

# Each of a pixel's words in a record of its own, and the longest kind of it: nothing that
# comes later is of this pixel.
MOST_BYTES_PER_PIXEL = 14

# Bytes of a stream that are walked at once: the tables of a block take some nine times its size.
BLOCK_BYTES = 2**16

# The header has four bits for a length size less one. A longer run is split.
MOST_LENGTH_BITS = 16
LONGEST_RUN = 1 << MOST_LENGTH_BITS

# All choices of four length sizes, [choices, 4] rising. For a length less one of 0, 1, ... 16 bits,
# [choices, 17], which of the four holds it, the smallest that does, and the bits that it takes:
# far too many if none does. Floating point, for which products of matrices are quick.
_CHOICES = np.array(list(combinations(range(1, MOST_LENGTH_BITS + 1), 4)))
_needed = np.arange(MOST_LENGTH_BITS + 1)
_KIND = (_CHOICES[:, None] < _needed[:, None]).sum(axis=2)
_SPENT = np.column_stack([_CHOICES, np.full(len(_CHOICES), 1e9)])
_SPENT = np.take_along_axis(_SPENT, _KIND, axis=1)


def encode(
    mask: npt.NDArray[np.bool_],
    *,
    at: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
) -> list[int]:
    """The mask as Label Studio's ``rle``: RGBA, 255 in all four channels where it is set.

    Args:
        mask: [h, w] bool, at least one pixel: the image, or the only part of it that is set.
        at: (top, left) of that part in the image, in pixels.
        size: (H, W) of the image in pixels, at most ``MAX_BRUSH_PIXELS``; by default the
            mask's own.

    Returns:
        Bytes as integers 0..255, as few as the format allows; never more than those of
        ``label_studio_sdk.converter.brush.mask2rle``, which mean the same.

    Raises:
        ValueError: ``mask`` is not a 2-d bool array, is empty, too large, or leaves the image.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"mask must be bool [h, w], got {mask.dtype} of shape {mask.shape}")
    (top, left), (height, width) = at, size or mask.shape
    if not (0 <= top <= height - mask.shape[0] and 0 <= left <= width - mask.shape[1]):
        raise ValueError(f"mask {mask.shape} at {at} must lie within {(height, width)}")
    if mask.size == 0 or height * width > MAX_BRUSH_PIXELS:
        raise ValueError(f"mask must hold 1 to {MAX_BRUSH_PIXELS} pixels, got {(height, width)}")
    if mask.shape[1] == width:
        changes = _changes(mask) + top * width
    else:
        changes = _changes_of_part(mask, top, left, width)
    return _stream(*_runs(changes, height * width), height * width)


def encode_alpha(alpha: npt.NDArray[np.uint8]) -> list[int]:
    """A graded layer as Label Studio's ``rle``: RGBA, the alpha in all four channels.

    The editor shows the alpha as it is, in the label's colour. ``decode`` gives it back.

    Args:
        alpha: [H, W] uint8, at least one pixel.

    Raises:
        ValueError: ``alpha`` is not 2-d uint8, is empty or too large.
    """
    if alpha.ndim != 2 or alpha.dtype != np.uint8 or not 0 < alpha.size <= MAX_BRUSH_PIXELS:
        raise ValueError(
            f"alpha must be uint8 [H, W] of 1 to {MAX_BRUSH_PIXELS} pixels, "
            f"got {alpha.dtype} of shape {alpha.shape}"
        )
    flat = np.ascontiguousarray(alpha).reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(starts, append=flat.size) * CHANNELS
    return _stream(*_split(flat[starts].astype(np.uint64), lengths), flat.size)


def _stream(
    values: npt.NDArray[np.uint64], lengths: npt.NDArray[np.int64], pixels: int
) -> list[int]:
    sizes, kind = _length_sizes(lengths)
    codes, widths = _records(values, lengths, sizes, kind)
    rle: list[int] = _pack(codes, widths, sizes, words=pixels * CHANNELS).tolist()
    return rle


def _changes(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Flat positions where runs of set pixels begin and end, in turn; the end may be the size."""
    flat = np.ascontiguousarray(mask).reshape(-1)
    inner = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    first = np.zeros(int(flat[0]), dtype=np.int64)
    last = np.full(int(flat[-1]), flat.size, dtype=np.int64)
    return np.concatenate((first, inner, last))


def _changes_of_part(
    mask: npt.NDArray[np.bool_], top: int, left: int, width: int
) -> npt.NDArray[np.int64]:
    """The same positions in an image of which the mask is a narrower part."""
    # A column that is never set keeps the runs of neighbouring rows apart.
    framed = np.pad(mask, ((0, 0), (0, 1)))
    row, column = np.divmod(_changes(framed), framed.shape[1])
    changes: npt.NDArray[np.int64] = (row + top) * width + column + left
    return changes


def _runs(
    changes: npt.NDArray[np.int64], pixels: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Value (0 or 255) and length in words, at most ``LONGEST_RUN``, of every run of equal pixels,
    in reading order."""
    lengths = np.diff(changes, prepend=0, append=pixels)
    values = (np.arange(len(lengths), dtype=np.uint64) & np.uint64(1)) * np.uint64(255)
    # Nothing precedes a set first pixel, and nothing follows a set last one.
    some = lengths > 0
    return _split(values[some], lengths[some] * CHANNELS)


def _split(
    values: npt.NDArray[np.uint64], lengths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The runs, those beyond ``LONGEST_RUN`` in pieces."""
    # A run beyond the longest becomes full pieces and a rest of at least one word.
    pieces = (lengths - 1) // LONGEST_RUN + 1
    if pieces.max() > 1:
        rests = lengths - (pieces - 1) * LONGEST_RUN
        values = np.repeat(values, pieces)
        lengths = np.full(len(values), LONGEST_RUN, dtype=np.int64)
        lengths[np.cumsum(pieces) - 1] = rests
    return values, lengths


def _length_sizes(
    lengths: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The four length sizes, rising, with which the records of these lengths are shortest, and
    which of the four each length takes."""
    bits = np.frexp(lengths - 1)[1]
    best = np.argmin(_SPENT @ np.bincount(bits, minlength=MOST_LENGTH_BITS + 1))
    return _CHOICES[best], _KIND[best][bits]


def _records(
    values: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    kind: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Each run's record as a number, and its width in bits (12 to 27)."""
    length_bits = sizes[kind]
    head = (4 | kind).astype(np.uint64) << length_bits.astype(np.uint64)
    codes = ((head | (lengths - 1).astype(np.uint64)) << np.uint64(WORD_BITS)) | values
    return codes, length_bits + (3 + WORD_BITS)


def _pack(
    codes: npt.NDArray[np.uint64],
    widths: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    *,
    words: int,
) -> npt.NDArray[np.uint8]:
    """Header and records as bytes."""
    ends = HEADER_BITS + np.cumsum(widths)
    starts = ends - widths
    size = (int(ends[-1]) + 7) // 8
    stream = np.zeros(size + 5, dtype=np.uint8)
    stream[: (HEADER_BITS + 7) // 8] = _header(words, sizes.tolist())
    first = starts >> 3
    aligned = codes << (40 - widths - (starts & 7)).astype(np.uint64)
    # Records are wider than a byte, so no two begin in the same one and no index comes twice.
    for k in range(5):
        stream[first + k] |= (aligned >> np.uint64(32 - 8 * k)).astype(np.uint8)
    return stream[:size]


def _header(words: int, sizes: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The 53 bits before the records, as 7 bytes."""
    bits = (words << 5) | (WORD_BITS - 1)
    for size in sizes:
        bits = (bits << 4) | (size - 1)
    whole = (HEADER_BITS + 7) // 8
    return np.frombuffer((bits << (whole * 8 - HEADER_BITS)).to_bytes(whole, "big"), dtype=np.uint8)


def decode(rle: Sequence[int], height: int, width: int) -> npt.NDArray[np.uint8]:
    """The alpha plane of a stream, [height, width] uint8.

    Strokes drawn by hand come anti-aliased: a pixel is labelled where alpha > 127. Bytes behind
    the last pixel are ignored, as Label Studio's editor does.

    Args:
        rle: Integers 0..255, as in a region's ``value.rle``.
        height: ``original_height`` of the region, in pixels.
        width: ``original_width`` of the region, in pixels.

    Raises:
        BadRegion: ``rle`` is no such stream, or holds another number of pixels.
    """
    data = _as_bytes(rle)
    length_bits = _read_header(data, height, width)
    data = data[: (HEADER_BITS + 7) // 8 + MOST_BYTES_PER_PIXEL * height * width]
    records = _walk(data, length_bits)
    values, ends = _runs_of(data, records, length_bits, words=height * width * CHANNELS)
    # Of the words 0..end-1, end // 4 are alphas: that many pixels are complete.
    pixels = ends // CHANNELS
    return np.repeat(values, np.diff(pixels, prepend=0)).reshape(height, width)


def _as_bytes(rle: Sequence[int]) -> bytes:
    if not isinstance(rle, list | tuple | bytes):
        raise BadRegion(f"A brush's rle must be a list of integers, got {type(rle).__name__}.")
    if len(rle) > MAX_RLE_BYTES:
        raise BadRegion(f"A brush's rle may have at most {MAX_RLE_BYTES} bytes, got {len(rle)}.")
    try:
        return bytes(rle)
    except (TypeError, ValueError) as error:
        raise BadRegion(
            f"A brush's rle must hold integers from 0 to 255: {short(str(error), 120)}."
        ) from error


def _read_header(data: bytes, height: int, width: int) -> tuple[int, ...]:
    """The four length sizes in bits, after checking that the rest says what is expected."""
    if height < 1 or width < 1 or height * width > MAX_BRUSH_PIXELS:
        raise BadRegion(
            f"A brush's image must hold 1 to {MAX_BRUSH_PIXELS} pixels, got {width} x {height}."
        )
    if len(data) * 8 < HEADER_BITS:
        raise BadRegion(f"A brush's rle must have a header of 7 bytes, got {len(data)} bytes.")
    header = int.from_bytes(data[:7], "big") >> (7 * 8 - HEADER_BITS)
    words, word_bits = header >> 21, ((header >> 16) & 31) + 1
    if words != height * width * CHANNELS:
        raise BadRegion(
            f"A brush of {width} x {height} pixels must hold {height * width * CHANNELS} words, "
            f"its rle says {words}."
        )
    if word_bits != WORD_BITS:
        raise BadRegion(f"A brush's words must be of {WORD_BITS} bits, its rle says {word_bits}.")
    return tuple(((header >> shift) & 15) + 1 for shift in (12, 8, 4, 0))


@dataclass(frozen=True)
class _Records:
    """Where the records of a stream begin.

    Attributes:
        runs: Bit position of every run record, in order.
        literals: For every literal record: how many runs come before it, the bit position of its
            first word, how many words.
    """

    runs: npt.NDArray[np.int64]
    literals: list[tuple[int, int, int]]


def _walk(data: bytes, length_bits: tuple[int, ...]) -> _Records:
    """Every record that lies wholly within the stream."""
    total = len(data) * 8
    widths = np.array([0] * 4 + [3 + bits + WORD_BITS for bits in length_bits], dtype=np.uint8)
    blocks: list[npt.NDArray[np.int64]] = []
    literals: list[tuple[int, int, int]] = []
    runs, here = 0, HEADER_BITS
    while here < total:
        base = here // 8 * 8
        steps = _steps(data[base // 8 : base // 8 + BLOCK_BYTES + 1], widths)
        limit = min(BLOCK_BYTES * 8, total - base)
        starts: list[int] = []
        p = here - base
        while p < limit:
            step = steps[p]
            if step:
                starts.append(p)
                p += step
                continue
            first, words = _literal(data, base + p, length_bits)
            p = first + words * WORD_BITS - base
            if base + p <= total:
                literals.append((runs + len(starts), first, words))
        if starts and base + starts[-1] + steps[starts[-1]] > total:
            starts.pop()
        blocks.append(np.array(starts, dtype=np.int64) + base)
        runs += len(starts)
        here = base + p
    return _Records(np.concatenate(blocks) if blocks else np.empty(0, np.int64), literals)


def _steps(block: bytes, widths: npt.NDArray[np.uint8]) -> bytes:
    """For every bit of the block, the width of the run record that would begin there.

    0 where a literal would begin: its width takes more than the first three bits to tell. Bytes,
    because indexing them costs half of what a list or an array does.
    """
    bits = np.unpackbits(np.frombuffer(block + b"\0", dtype=np.uint8))
    head = (bits[:-2] << 2) | (bits[1:-1] << 1) | bits[2:]
    steps: bytes = widths[head].tobytes()
    return steps


def _literal(data: bytes, position: int, length_bits: tuple[int, ...]) -> tuple[int, int]:
    """Bit position of the first word of the literal at ``position``, and its words."""
    window = int.from_bytes(data[position // 8 : position // 8 + 4].ljust(4, b"\0"), "big")
    window = (window << (position % 8)) & 0xFFFFFFFF
    bits = length_bits[(window >> 29) & 3]
    return position + 3 + bits, ((window >> (29 - bits)) & ((1 << bits) - 1)) + 1


def _runs_of(
    data: bytes, records: _Records, length_bits: tuple[int, ...], *, words: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Value of every run, and the number of words up to its end; a literal's words are runs of 1.

    Raises:
        BadRegion: the records do not add up to ``words``.
    """
    # Any 8 bytes from any byte on as one number, without copying them 8 times.
    padded = data + bytes(8)
    windows: npt.NDArray[np.uint64] = np.ndarray(
        len(data), dtype=">u8", buffer=padded, strides=(1,)
    )

    def window_at(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        window: npt.NDArray[np.uint64] = windows[positions >> 3].astype(np.uint64)
        window <<= (positions & 7).astype(np.uint64)
        return window

    window = window_at(records.runs)
    kind = (window >> np.uint64(61)) & np.uint64(3)
    bits = np.array(length_bits, dtype=np.uint64)[kind.astype(np.intp)]
    tail = window << np.uint64(3)
    lengths = (tail >> (np.uint64(64) - bits)).astype(np.int64) + 1
    values = ((tail << bits) >> np.uint64(64 - WORD_BITS)).astype(np.uint8)
    if records.literals:
        before, first, count = np.array(records.literals, dtype=np.int64).T
        within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        at = np.repeat(first, count) + within * WORD_BITS
        literal = (window_at(at) >> np.uint64(64 - WORD_BITS)).astype(np.uint8)
        lengths = np.insert(lengths, np.repeat(before, count), 1)
        values = np.insert(values, np.repeat(before, count), literal)
    ends = np.cumsum(lengths)
    last = int(np.searchsorted(ends, words))
    if last == len(ends) or ends[last] != words:
        got = int(ends[min(last, len(ends) - 1)]) if len(ends) else 0
        raise BadRegion(f"A brush's rle must hold {words} words, its records hold {got}.")
    return values[: last + 1], ends[: last + 1]
