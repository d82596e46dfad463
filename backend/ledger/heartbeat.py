"""A process's sign of life in the ledger, for ``status``."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time

from backend.errors import LedgerUnavailable
from backend.ledger import Ledger
from backend.process_group import pid_space

log = logging.getLogger(__name__)

BEAT_S = 10.0


def process_id(role: str, host: str, space: int, pid: int) -> str:
    """The ledger's name of a process; containers may share the machine's, and their numbers."""
    return f"{role}-{host}-{space}-{pid}"


class Heartbeat:
    """Says every ten seconds that this process is alive.

    Args:
        role: "web" or "worker".
        address: where it listens, or what it does.
    """

    def __init__(self, ledger: Ledger, role: str, address: str) -> None:
        self._ledger = ledger
        self._role = role
        self._address = address
        self._host = socket.gethostname()
        self._id = process_id(role, self._host, pid_space(), os.getpid())
        self._last = float("-inf")

    def beat(self) -> None:
        """Write, if ten seconds have gone since the last time."""
        if time.monotonic() - self._last < BEAT_S:
            return
        self._last = time.monotonic()
        try:
            self._ledger.processes.beat(
                self._id, self._role, self._address, self._host, os.getpid()
            )
        except LedgerUnavailable as error:
            log.warning("no heartbeat: %s", error)

    def end(self) -> None:
        self._ledger.processes.remove(self._id)

    def in_background(self) -> None:
        """Beat from a thread of its own, until the process ends."""
        threading.Thread(target=self._for_ever, name="heartbeat", daemon=True).start()

    def _for_ever(self) -> None:
        while True:
            self.beat()
            time.sleep(BEAT_S)
