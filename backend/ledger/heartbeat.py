"""A process's sign of life in the ledger, for ``status``."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable

from backend.errors import LedgerUnavailable
from backend.ledger import Ledger
from backend.ledger.agreement import Facts
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
        facts: gathers what it works with (``backend.ledger.agreement``), at the first beat: the
            registry may be on a server that does not answer.
    """

    def __init__(
        self, ledger: Ledger, role: str, address: str, facts: Callable[[], Facts] | None = None
    ) -> None:
        self._ledger = ledger
        self._role = role
        self._address = address
        self._gather = facts
        self._facts: Facts | None = None
        self._ended = threading.Event()
        self._host = socket.gethostname()
        self._id = process_id(role, self._host, pid_space(), os.getpid())
        self._last = float("-inf")

    def beat(self) -> None:
        """Write, if ten seconds have gone since the last time."""
        if time.monotonic() - self._last < BEAT_S:
            return
        self._last = time.monotonic()
        if self._facts is None and self._gather is not None:
            self._facts = self._gather()
        try:
            self._ledger.processes.beat(
                *(self._id, self._role, self._address, self._host, os.getpid(), self._facts)
            )
        except LedgerUnavailable as error:
            log.warning("no heartbeat: %s", error)

    def end(self) -> None:
        """Take the process off the list. Where the ledger is away it stays, and falls silent."""
        self._ended.set()
        try:
            self._ledger.processes.remove(self._id)
        except LedgerUnavailable as error:
            log.warning("the ledger still lists this process as alive: %s", error)

    def in_background(self) -> None:
        """Beat from a thread of its own, until the process ends."""
        threading.Thread(target=self._for_ever, name="heartbeat", daemon=True).start()

    def _for_ever(self) -> None:
        while not self._ended.is_set():
            self.beat()
            self._ended.wait(BEAT_S)
