"""Images decoded in a process of its own: as anywhere else, and never without end."""

from __future__ import annotations

import io
import signal
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.backend.odd_images import BAD, GOOD, file_of
from training.decoder import Decoder, _answer, read_apart
from training.images import read_image
from training.pixels import MAX_PIXELS, UnreadableImage

SMALL = file_of(np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "PNG")


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder()
    yield made
    made.close()


@pytest.fixture(scope="module")
def impatient() -> Iterator[Decoder]:
    """One that gives up soon."""
    made = Decoder(cpu_s=1)
    yield made
    made.close()


@pytest.mark.parametrize("kind", GOOD)
def test_an_image_is_read_as_by_this_process(decoder: Decoder, kind: str) -> None:
    data = GOOD[kind][0]
    apart, here = decoder.read(data), read_image(io.BytesIO(data))
    np.testing.assert_array_equal(apart.image, here.image)
    assert (apart.image.dtype, apart.image.flags.writeable) == (np.uint8, True)
    assert vars(apart) | {"image": None} == vars(here) | {"image": None}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_refused_is_refused_by_the_same_sentence(decoder: Decoder, kind: str) -> None:
    data, says = BAD[kind]
    with pytest.raises(UnreadableImage, match=says):
        decoder.read(data)


def test_channels_are_chosen(decoder: Decoder) -> None:
    assert decoder.read(SMALL, (2,)).channels == "channel 2 of 3"
    with pytest.raises(UnreadableImage, match="this image has 3"):
        decoder.read(SMALL, (4,))


def test_an_image_of_the_most_pixels_comes_whole(decoder: Decoder) -> None:
    width = 8192
    file = io.BytesIO()
    Image.new("L", (width, MAX_PIXELS // width), 7).save(file, "PNG", compress_level=1)
    read = decoder.read(file.getvalue()).image
    assert read.shape == (MAX_PIXELS // width, width, 3)
    assert (read == 7).all()


# Images that would hold whoever decodes them


def endless_scans(side_px: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan, of some bytes, repeats."""
    file = io.BytesIO()
    Image.new("L", (side_px, side_px), 99).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def endless_profiles(count: int) -> bytes:
    """A PNG with one colour profile after another, of which each decompresses to a megabyte."""
    packed = b"x\0\0" + zlib.compress(bytes(2**20))
    body = b"iCCP" + packed
    one = struct.pack(">I", len(packed)) + body + struct.pack(">I", zlib.crc32(body))
    return SMALL[:33] + one * count + SMALL[33:]


ENDLESS = {
    "scans": lambda: endless_scans(2048, 40_000),
    "profiles": lambda: endless_profiles(10_000),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_image_without_end_is_refused_and_the_next_one_is_read(
    impatient: Decoder, kind: str
) -> None:
    with pytest.raises(UnreadableImage, match="more than 1 s of processor time: save it anew"):
        impatient.read(ENDLESS[kind]())
    assert impatient.read(SMALL).image.shape == (2, 2, 3)


def tiny_precincts(side_px: int) -> bytes:
    """A JPEG 2000 of a few bytes that has a precinct of one pixel for each of its pixels."""
    sides = (side_px, side_px, 0, 0)
    size = struct.pack(">HIIIIIIIIHBBB", 0, *sides, *sides, 1, 7, 1, 1)
    style = struct.pack(">BBHBBBBBBB", 1, 0, 1, 0, 0, 4, 4, 0, 1, 0)
    quantisation = bytes([0x40, 0x40])
    markers = [
        b"\xff\x4f",
        b"\xff\x51" + struct.pack(">H", len(size) + 2) + size,
        b"\xff\x52" + struct.pack(">H", len(style) + 2) + style,
        b"\xff\x5c" + struct.pack(">H", len(quantisation) + 2) + quantisation,
        b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 14, 0, 1),
        b"\xff\x93",
        b"\xff\xd9",
    ]
    return b"".join(markers)


def test_an_image_that_takes_too_much_memory_is_refused() -> None:
    decoder = Decoder(memory_bytes=2**30)
    try:
        with pytest.raises(UnreadableImage):
            decoder.read(tiny_precincts(5000))
        assert decoder.read(SMALL).image.shape == (2, 2, 3)
    finally:
        decoder.close()


def test_an_image_on_which_the_decoder_crashes_is_refused(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Decoder._ask

    def crash(self: Decoder, process: Any, *sent: Any) -> Any:
        process.send_signal(signal.SIGSEGV)
        return ask(self, process, *sent)

    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "_ask", crash)
        with pytest.raises(UnreadableImage, match=r"its decoder crashed \(SIGSEGV\)"):
            decoder.read(SMALL)
    assert decoder.read(SMALL).image.shape == (2, 2, 3)


def test_a_decoder_that_ended_while_nobody_asked_is_replaced(decoder: Decoder) -> None:
    ended = decoder._running()
    ended.kill()
    ended.wait()
    assert decoder.read(SMALL).image.shape == (2, 2, 3)
    assert decoder._running().pid != ended.pid


def test_a_decoder_that_says_nothing_is_not_waited_for_for_ever() -> None:
    decoder = Decoder(wait_s=0.3)
    try:
        decoder._running().send_signal(signal.SIGSTOP)
        with pytest.raises(UnreadableImage, match=r"or more than 0.3 s"):
            decoder.read(SMALL)
    finally:
        decoder.close()


@pytest.mark.parametrize(
    "said",
    [b"", b"\0\0", b"\xff" * 8, b"\0\0\0\2{}", b"\0\0\0\1[", b'\0\0\0\x15{"shape": [9999, 9999]}'],
)
def test_a_decoder_that_was_taken_over_takes_nobody_along(said: bytes) -> None:
    with pytest.raises(EOFError):
        _answer(io.BytesIO(said))


def test_whoever_is_interrupted_gets_no_answer_of_an_earlier_image(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the time limit of a job. A real SIGALRM would end pytest, whose stack for signals is
    too small for the registers of some processors."""

    def strike(of: object) -> Any:
        raise TimeoutError("a job's own")

    with monkeypatch.context() as patched:
        patched.setattr("training.decoder._answer", strike)
        with pytest.raises(TimeoutError, match="a job's own"):
            decoder.read(file_of(np.zeros((3, 3, 3), np.uint8), "PNG"))
    assert decoder.read(SMALL).image.shape == (2, 2, 3)


def test_after_a_fork_a_process_gets_a_decoder_of_its_own(decoder: Decoder) -> None:
    decoder.read(SMALL)
    first = decoder._running()
    decoder._of = -1  # as a fork leaves it
    assert decoder.read(SMALL).image.shape == (2, 2, 3)
    assert first.poll() is None
    assert decoder._running().pid != first.pid
    first.kill()
    first.communicate()


def test_there_is_one_for_whoever_wants_no_own() -> None:
    assert read_apart(SMALL).image.shape == (2, 2, 3)
