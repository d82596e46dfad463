"""The lease of a round's part: renewed while its stage runs, so that no other worker takes it."""

from __future__ import annotations

import logging
import threading
import time
from contextvars import copy_context

from backend.errors import LeaseLost, LedgerUnavailable
from backend.ledger import Ledger, Part
from backend.ledger.parts import LEASE_S

log = logging.getLogger(__name__)


class Lease:
    """Renews a part's lease in a thread until the block ends."""

    def __init__(self, ledger_url: str, part: Part) -> None:
        self._ledger = Ledger(ledger_url)
        self._part = part
        self._progress = 0.0
        self._held_until = part.lease_until or 0.0
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._keep_renewing,), name="lease", daemon=True
        )

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._ledger.close()

    def tick(self, progress: float) -> None:
        """Record the stage's progress, 0 to 1.

        Raises:
            LeaseLost: another worker has the part, so the stage must stop here.
        """
        self._progress = progress
        if self._lost.is_set():
            raise LeaseLost(f"Part {self._part.id} was given to another worker.")

    def _keep_renewing(self) -> None:
        while not self._ended.wait(LEASE_S / 6):
            try:
                held = self._ledger.parts.renew(self._part, self._progress)
            except LedgerUnavailable as error:
                log.warning("lease of part %d not renewed: %s", self._part.id, error)
                held = time.time() < self._held_until
            else:
                self._held_until = time.time() + LEASE_S
            if not held:
                self._lost.set()
                return
