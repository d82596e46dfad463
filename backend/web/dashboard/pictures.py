"""Pictures of tasks: few at a time, and each drawn once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from acquisition.masks import UNKNOWN
from backend.errors import Busy
from training.colours import class_colour

AT_ONCE = 2
"""A process has eight threads, and Label Studio's requests must find one."""

WAITING = 2
WAIT_S = 20.0

WAITING_QUICK = 4
"""Of pictures that take some hundredths of a second: with two at work as many as one browser asks
for at a time."""

SIDES_PX = (240, 720)
"""Long sides: in a list, and alone."""

KEPT = 200
"""Of some 15 kB each."""


def class_colours(names: Sequence[str], *, unknown: bool = False) -> list[tuple[str, str]]:
    """Name and colour of each class.

    Args:
        names: without the background.
        unknown: pixels of which a label says nothing are shown as well.
    """
    found = [(name, class_colour(index)) for index, name in enumerate(names, start=1)]
    return [*found, ("not known", class_colour(UNKNOWN))] if unknown else found


class Pictures:
    """Draws pictures and keeps the newest ones. Safe between threads.

    Args:
        waiting: how many may wait for their turn.
    """

    def __init__(self, waiting: int = WAITING) -> None:
        self._kept: OrderedDict[object, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._places = threading.BoundedSemaphore(AT_ONCE + waiting)

    def get(self, key: object, draw: Callable[[], bytes]) -> bytes:
        """The picture of this key, drawn by ``draw`` if it is not kept.

        Raises:
            Busy: others are being drawn.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        if not self._places.acquire(blocking=False):
            raise Busy("Other pictures are being drawn: ask again in some seconds.")
        try:
            if not self._turns.acquire(timeout=WAIT_S):
                raise Busy("Other pictures take long: ask again in some seconds.")
            try:
                drawn = draw()
            finally:
                self._turns.release()
        finally:
            self._places.release()
        with self._lock:
            self._kept[key] = drawn
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return drawn
