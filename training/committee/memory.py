"""How much memory a prediction takes, by its classes; imports no torch."""

from __future__ import annotations

from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it publishes no types

from training.config import NETWORKS

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")

MOST_AT_ONCE = 80
"""Members times classes up to which an engine makes all probabilities at once: five members and
16 classes take 1.8 GB at 1024 px."""

WHOLE_PX = 1024
"""Up to this length images are not divided; the default ``max_side_px`` is seen whole."""

BODY_BYTES = 220
"""For each pixel and member, before there are classes: 1.2 GB of five lite0 at 1024 px."""

AT_ONCE_BYTES = 13
"""For each pixel, member and class, of all probabilities at once: measured 8 with 16 classes and 13
with 64."""

ROWS_BYTES = 400 << 20
"""Of a strip of rows, in several copies, and of what five members' probabilities are made of."""


def goes_by_rows(network: str, members: int, classes: int) -> bool:
    """Whether so many classes are predicted a few rows at a time (``RowEngine``).

    A laboratory's own network cannot be divided.
    """
    return network in NETWORKS and members * classes > MOST_AT_ONCE


def prediction_bytes(network: str, members: int, classes: int, side_px: int) -> int:
    """About what predicting an image of this side takes, above an idle process: bytes.

    The probabilities of the image before it are still in memory.
    """
    tile_px = min(side_px, WHOLE_PX) ** 2
    body = BODY_BYTES * members * tile_px
    probs = 4 * classes * side_px**2
    if goes_by_rows(network, members, classes):
        # What the body needs in between is given back before the rows begin.
        return max(body, probs + ROWS_BYTES) + probs
    return body + AT_ONCE_BYTES * members * classes * tile_px + probs


def machine_memory(container_limit: Path = CONTAINER_LIMIT) -> int:
    """Bytes that this machine, or the container that this runs in, may use."""
    total = int(psutil.virtual_memory().total)
    try:
        limit = container_limit.read_text().strip()
    except OSError:  # no Linux, or no container
        return total
    return min(total, int(limit)) if limit.isdigit() else total
