"""Strangers' images, decoded in a process of its own that takes so much and no more.

What decoding costs is bound by no header: the scans of a JPEG, the profiles of a PNG and the code
blocks of a JPEG 2000 repeat without end, within Python and within libraries that nothing
interrupts, and a library that meets what nobody foresaw crashes. So the kernel limits the process;
an image that ends it is refused, and the next one gets a new process.

It costs 0.25 s of a processor to start, 50 MB while idle, and for an image 0.2 ms and 1 ms per MB
of its pixels: a hundredth of what predicting it does. Counting scans, chunks, tiles, precincts and
whatever else repeats would cost less, and miss the next of them.
"""

from __future__ import annotations

import atexit
import io
import json
import math
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from training.images import read_image
from training.pixels import MAX_PIXELS, Decoded, UnreadableImage

CPU_S = 60
"""Of processor time for an image: several times what the largest take that were met."""

MEMORY_BYTES = 3 * 2**30
"""Of addresses: the largest images, in double precision, take 2.4 GB."""

WAIT_S = 900.0
"""Where others keep the processors busy, until an image's processor time is over."""

REMEDY = "save it anew, as a PNG"

MOST_TOLD = 2**16
"""Bytes beside the image."""

_ROOT = Path(__file__).resolve().parents[1]
_START = "import sys; sys.path.insert(0, sys.argv[1]); from training.decoder import serve; serve()"


class Decoder:
    """A process that decodes: started by the first image, and anew after one that ended it.

    Threads may share it and take turns. It ends with this process, or with ``close``.

    Args:
        cpu_s: processor time for an image, in whole seconds.
        memory_bytes: addresses that the process may use (Linux only).
        wait_s: how long to wait for an image in any case.
    """

    def __init__(
        self, cpu_s: int = CPU_S, memory_bytes: int = MEMORY_BYTES, wait_s: float = WAIT_S
    ) -> None:
        self._cpu_s, self._memory_bytes, self._wait_s = cpu_s, memory_bytes, wait_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._of = os.getpid()

    def read(self, data: bytes, channels: Sequence[int] | None = None) -> Decoded:
        """The image of a file, as ``training.images.read_image`` reads it.

        Raises:
            UnreadableImage: says what is wrong with it; it may be that decoding it takes too long
                or too much memory, or crashes.
        """
        with self._lock:
            process = self._running()
            try:
                answer = self._ask(process, data, channels)
            except (EOFError, BrokenPipeError) as error:
                self.close()
                raise UnreadableImage(f"{self._why_ended(process)}: {REMEDY}") from error
            except BaseException:
                # A job's own time limit may strike here; what came then would be of this image.
                self.close()
                raise
        if isinstance(answer, str):
            raise UnreadableImage(answer)
        return answer

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None and self._of == os.getpid():
            process.kill()  # which says nothing to one that has ended
            process.communicate()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._of != os.getpid():  # after a fork: it is the parent's
            self._process, self._of = None, os.getpid()
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it ended while nobody asked, which is no image's fault
        if self._process is None:
            limits = (str(self._cpu_s), str(self._memory_bytes))
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(_ROOT), *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # One core for one image; threads of their own would only take addresses.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        return self._process

    def _ask(
        self, process: subprocess.Popen[bytes], data: bytes, channels: Sequence[int] | None
    ) -> Decoded | str:
        """The image, or why it is refused.

        Raises:
            EOFError, BrokenPipeError: the process ended, is late, or what it says makes no sense.
        """
        to, of = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
        _send(to, {"channels": channels, "bytes": len(data)}, data)
        waiting = select.poll()
        waiting.register(of, select.POLLIN)
        if not waiting.poll(self._wait_s * 1000):
            raise EOFError
        return _answer(of)

    def _why_ended(self, process: subprocess.Popen[bytes]) -> str:
        ended = -process.returncode
        if ended == signal.SIGXCPU:
            return f"decoding it takes more than {self._cpu_s} s of processor time"
        if ended == signal.SIGKILL:  # ours, or of a system without memory
            return f"decoding it takes more memory than there is, or more than {self._wait_s:g} s"
        how = signal.Signals(ended).name if ended > 0 else f"status {-ended}"
        return f"its decoder crashed ({how})"


_decoder = Decoder()
atexit.register(_decoder.close)


def read_apart(data: bytes, channels: Sequence[int] | None = None) -> Decoded:
    """As ``Decoder.read``, by this process's own."""
    return _decoder.read(data, channels)


def serve() -> None:
    """What the process does: decode until nobody is there who asks or who hears."""
    with suppress(EOFError, BrokenPipeError):
        _serve()
    os._exit(0)  # what was not heard is not to be sent again


def _serve() -> None:
    cpu_s, memory_bytes = (int(text) for text in sys.argv[2:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started this
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    _limit(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, memory_bytes)
    while True:
        question = _receive(asked)
        data = asked.read(question["bytes"])
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + cpu_s)
        try:
            found = read_image(io.BytesIO(data), channels=question["channels"])
        except UnreadableImage as error:
            _send(answers, {"refused": str(error)})
            continue
        told = {
            "shape": found.image.shape[:2],
            "bits": found.bits,
            "channels": found.channels,
            "page": found.page,
            "stretch": found.stretch,
            "pixel_um": found.pixel_um,
        }
        _send(answers, told, np.ascontiguousarray(found.image))


def _answer(of: BinaryIO) -> Decoded | str:
    """What ``serve`` sent, believed no further than needed: a file may have taken it over.

    Raises:
        EOFError: it is no answer, or not all of one.
    """
    try:
        told = _receive(of)
        if "refused" in told:
            return str(told["refused"])
        height, width = (int(side) for side in told.pop("shape"))
        pixel_um = told.pop("pixel_um")
        if pixel_um is not None:
            pixel_um = float(pixel_um[0]), float(pixel_um[1])
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            raise EOFError
        image = np.empty((height, width, 3), np.uint8)
        if cast(io.BufferedReader, of).readinto(image.data.cast("B")) < image.nbytes:
            raise EOFError
        texts = {name: str(text) for name, text in told.items()}
        return Decoded(image, **texts, pixel_um=pixel_um)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise EOFError from error


def _limit(kind: int, most: int) -> None:
    """Set what this process may take, unless it may take less already."""
    hard = resource.getrlimit(kind)[1]
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(kind, (most, hard))


def _send(to: BinaryIO, told: dict[str, Any], data: Any = b"") -> None:
    text = json.dumps(told).encode()
    to.write(len(text).to_bytes(4, "big") + text)
    to.write(data)
    to.flush()


def _receive(of: BinaryIO) -> dict[str, Any]:
    """What ``_send`` told, but for the data.

    Raises:
        EOFError: nothing more comes.
    """
    head = of.read(4)
    size = int.from_bytes(head, "big")
    if len(head) < 4 or size > MOST_TOLD:
        raise EOFError
    told: dict[str, Any] = json.loads(of.read(size))
    return told
