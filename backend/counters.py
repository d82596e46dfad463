"""Counts of what happens in any process, for /metrics: kept in Redis, which all of them share.

They are no facts: who empties Redis sets them to zero, as a restart does elsewhere, and what
happens while it is away is not counted. Nothing ever depends on them, or waits for them for long.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from backend.errors import BadSettings

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

KEY = "committee:counters"
"""A hash in Redis: ``name|label|...`` to a number."""

BOUNDS_S = (1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Durations are counted by the first of these that they do not exceed; beyond, by "inf"."""

WITHIN_S = 1.0
"""For Redis to take or give counts."""


def connect(url: str) -> Redis:
    """A connection on which nobody waits for long."""
    # Here, and below: the web starts faster without it.
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return Redis.from_url(
        url,
        socket_timeout=WITHIN_S,
        socket_connect_timeout=WITHIN_S,
        retry=Retry(NoBackoff(), 0),
    )


class Counters:
    """Counts of all processes.

    Args:
        url: gives Redis' address; it may raise BadSettings.
    """

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url

    @cached_property
    def redis(self) -> Redis:
        return connect(self._url())

    def add(self, name: str, *labels: str) -> None:
        """Count one. Where Redis is away it is not counted, and the log says so."""
        self._add({_field(name, labels): 1})

    def observe(self, name: str, labels: Sequence[str], seconds: float) -> None:
        """Count a duration: one in its bucket, ``name|label|...|bound``, and its seconds in
        ``name_sum|label|...``."""
        most = next((bound_s for bound_s in BOUNDS_S if seconds <= bound_s), float("inf"))
        self._add({_field(name, (*labels, f"{most:g}")): 1, _field(f"{name}_sum", labels): seconds})

    def _add(self, amounts: dict[str, float]) -> None:
        from redis.exceptions import RedisError

        try:
            with self.redis.pipeline(transaction=True) as pipeline:
                for field, amount in amounts.items():
                    pipeline.hincrbyfloat(KEY, field, amount)
                pipeline.execute()
        except (RedisError, BadSettings) as error:
            # No warning: commands count too, and what they say is about something else.
            log.info("not counted for /metrics: %s (%s)", ", ".join(amounts), error)

    def read(self) -> dict[tuple[str, ...], float]:
        """All counts: name and labels to a number.

        Raises:
            RedisError: Redis is away.
            BadSettings: none is known.
        """
        found: dict[tuple[str, ...], float] = {}
        for field, value in self.redis.hgetall(KEY).items():
            try:
                found[tuple(as_text(field).split("|"))] = float(value)
            except ValueError:  # who can write to Redis can write anything
                continue
        return found


def as_text(name: bytes | str) -> str:
    """A name that came out of Redis, whatever somebody wrote there."""
    return name if isinstance(name, str) else name.decode(errors="replace")


def _field(name: str, labels: Sequence[str]) -> str:
    return "|".join((name, *(label.replace("|", "_")[:100] for label in labels)))
