"""How long a test waits before it gives up, by how fast this machine is just now.

A limit is written for two idle cores. On a slower machine, or beside other programs, it is that
many times longer: a limit tells a hang from an answer, and never how fast an answer must be.
"""

from __future__ import annotations

import os
import random
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

NOMINAL_S = 0.5
"""What the work below takes on two idle cores, at most."""

MOST = 10.0

NICED = 4.0
"""A process that yields to others has what they leave of a core, and they may come later."""

T = TypeVar("T")


@cache
def slowness() -> float:
    """Measured once: 1 on an idle machine, 2 where everything takes twice as long."""
    data = bytes(byte & 15 for byte in random.Random(0).randbytes(2**20))
    cores = os.cpu_count() or 1
    started = time.perf_counter()
    # On all cores at once, so that a core which others keep busy is noticed; zlib holds no GIL.
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda _: [zlib.compress(data) for _ in range(4)], range(cores)))
    least = NICED if os.nice(0) > 0 else 1.0
    return min(MOST, max(least, (time.perf_counter() - started) / NOMINAL_S))


def scaled(limit_s: float) -> float:
    """So many seconds of two idle cores, as seconds here and now."""
    return limit_s * slowness()


def wait_until(condition: Callable[[], T], limit_s: float, what: str, every_s: float = 0.1) -> T:
    """The first truthy value of ``condition()``.

    Args:
        limit_s: on two idle cores.

    Raises:
        TimeoutError: nothing truthy within the limit; says ``what`` was awaited.
    """
    limit_s = scaled(limit_s)
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit_s:.0f} s in vain for {what}; last seen: {value!r}")
        time.sleep(every_s)
