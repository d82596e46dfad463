"""GET /ready: whether what the web needs answers.

Anybody may ask, so each need is asked once a second at most, in a thread of its own: a registry on
a server that is away keeps whoever reads it for minutes. The sentences hold no address, which may
name a user.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from redis import Redis
from redis.exceptions import RedisError

from backend.errors import BackendError
from backend.settings import Settings
from backend.workplace import Workplace
from training.errors import TrainingError

log = logging.getLogger(__name__)

WITHIN_S = 1.0
"""What does not answer so soon is not ready. Whoever asks for /ready waits no longer."""

ASK_EVERY_S = 1.0

ADVICE = "The web's log and `python -m backend doctor` say more."


class Need:
    """Something that must answer.

    Args:
        name: begins the sentence where it does not.
        ask: raises OSError, RedisError or BackendError where it cannot be used.
    """

    def __init__(self, name: str, ask: Callable[[], object]) -> None:
        self._name, self._ask = name, ask
        self._lock = threading.Lock()
        self._began_at = float("-inf")
        self._thread = threading.Thread()
        self._failed = False

    def begin(self) -> None:
        """Ask, unless an answer is awaited or was got lately."""
        with self._lock:
            now = time.monotonic()
            if self._thread.is_alive() or now - self._began_at < ASK_EVERY_S:
                return
            self._began_at = now
            self._thread = threading.Thread(target=self._run, name="ready", daemon=True)
            self._thread.start()

    def problem(self) -> str | None:
        """A sentence, if it does not answer, or not in time."""
        self._thread.join(max(0.0, self._began_at + WITHIN_S - time.monotonic()))
        if self._thread.is_alive():
            return f"{self._name} does not answer within {WITHIN_S:g} s."
        return f"{self._name} cannot be used now." if self._failed else None

    def _run(self) -> None:
        failed = False
        try:
            self._ask()
        except (OSError, RedisError, BackendError, TrainingError) as error:
            failed = True
            if not self._failed:
                log.warning("not ready: %s cannot be used: %s", self._name, error)
        self._failed = failed


def needs_of(work: Workplace) -> Sequence[Need]:
    """The ledger, Redis and the registry."""
    return (
        Need("The ledger", work.ledger.check_schema),
        Need("Redis", lambda: _ask_redis(work.settings)),
        Need("The registry", work.store.projects),
    )


def problems(needs: Sequence[Need]) -> list[str]:
    """A sentence for each that is not ready. All are asked at the same time."""
    for need in needs:
        need.begin()
    return [problem for need in needs if (problem := need.problem()) is not None]


def _ask_redis(settings: Settings) -> None:
    limits = {"socket_timeout": WITHIN_S, "socket_connect_timeout": WITHIN_S}
    with Redis.from_url(settings.redis(), **limits) as redis:
        redis.ping()
