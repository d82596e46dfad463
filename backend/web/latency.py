"""How long the web's requests took, counted by all web processes of a host in shared memory.

Each process writes to a row of its own, and whichever is asked for /metrics adds them up: a scrape
reaches any of them. A process that replaces another goes on with its row, so no count falls.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import product
from multiprocessing.sharedctypes import RawArray

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 80.0, 100.0)
"""Label Studio gives a webhook 1 s, /setup 3 s and /predict 100 s, of which 80 are used."""

ROUTES = ("/setup", "/predict", "/webhook")
OUTCOMES = ("ok", "refused", "failed")
"""By the status: below 400, below 500, above."""

_KINDS = tuple(product(ROUTES, OUTCOMES))
_WIDTH = len(BOUNDS_S) + 2  # a count for each bound and one beyond, and the sum of the seconds


class Latencies:
    """Histograms by route and outcome.

    Args:
        processes: how many write, from 0 on.
    """

    def __init__(self, processes: int = 1) -> None:
        self._values = RawArray("d", processes * len(_KINDS) * _WIDTH)
        self._processes = processes
        self._lock = threading.Lock()  # between threads; each process has a row of its own
        self._row = 0

    def of_process(self, number: int) -> Latencies:
        """The same counts, for the process that writes the row ``number``; called in it."""
        self._row, self._lock = number, threading.Lock()
        return self

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count a request; nothing for a route that is not among ``ROUTES``."""
        if route not in ROUTES:
            return
        outcome = OUTCOMES[0 if status < 400 else 1 if status < 500 else 2]
        start = (self._row * len(_KINDS) + _KINDS.index((route, outcome))) * _WIDTH
        with self._lock:
            self._values[start + bisect_left(BOUNDS_S, seconds)] += 1
            self._values[start + _WIDTH - 1] += seconds

    def read(self) -> Iterator[tuple[str, str, Sequence[float], float]]:
        """Route, outcome, requests in each bucket (not cumulative), and seconds in all."""
        values = self._values[:]
        for place, (route, outcome) in enumerate(_KINDS):
            rows = [
                values[start : start + _WIDTH]
                for start in (
                    (process * len(_KINDS) + place) * _WIDTH for process in range(self._processes)
                )
            ]
            summed = [sum(column) for column in zip(*rows, strict=True)]
            yield route, outcome, summed[:-1], summed[-1]
