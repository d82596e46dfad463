"""HTTP sessions whose answers end, in time and in size, whatever the server sends.

requests and urllib3 limit the time between two bytes: who sends one now and then holds the caller
for ever, in the status line, the headers, a chunk's length or the body. All of it comes from the
socket by one method, which asks here what is left of the caller's limit.
"""

from __future__ import annotations

import io
import math
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection


@dataclass
class Limit:
    """What an exchange may take; one within another ends with it.

    Attributes:
        seconds: from its beginning on, all answers together.
        most_bytes: as they come from the socket, headers included.
        received: how many came.
    """

    seconds: float
    most_bytes: float = math.inf
    outer: Limit | None = None
    received: int = 0
    ends_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.ends_at = time.monotonic() + self.seconds
        if self.outer is not None and self.outer.ends_at < self.ends_at:
            self.seconds, self.ends_at = self.outer.seconds, self.outer.ends_at

    @property
    def is_over(self) -> bool:
        """Whether its time is."""
        return time.monotonic() >= self.ends_at

    @property
    def is_exceeded(self) -> bool:
        """Whether more bytes came."""
        return self.received > self.most_bytes

    def wait_s(self, most_s: float | None) -> float:
        """How long to wait for the next byte.

        Raises:
            TimeoutError: no longer.
        """
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"not all came within {self.seconds:g} s")
        return left if most_s is None else min(most_s, left)

    def count(self, received: int) -> None:
        """Take note of what came.

        Raises:
            OSError: it is too much.
        """
        self.received += received
        if self.is_exceeded:
            raise OSError(f"more than {self.most_bytes} bytes came")
        if self.outer is not None:
            self.outer.count(received)


_current: ContextVar[Limit | None] = ContextVar("limit", default=None)


@contextmanager
def limited(seconds: float, most_bytes: float = math.inf) -> Iterator[Limit]:
    """Limits what this thread receives by a ``LimitedSession``, an outer limit included.

    Beyond it calls fail as after any timeout or lost connection; the limit tells which it was.
    """
    limit = Limit(seconds, most_bytes, _current.get())
    token = _current.set(limit)
    try:
        yield limit
    finally:
        _current.reset(token)


def wait_s(most_s: float | None) -> float | None:
    """``most_s``, or what is left of the current limit if that is less; None: for ever.

    Raises:
        TimeoutError: nothing is left.
    """
    limit = _current.get()
    return most_s if limit is None else limit.wait_s(most_s)


class LimitedSession(requests.Session):
    """A session of limited answers, which follows no redirect."""

    def __init__(self) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, LimitedAdapter())

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: else requests reads the whole body of a redirect that it shall not follow."""


class LimitedAdapter(HTTPAdapter):
    """Connects by ``_Limited``."""

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **more)
        _limit_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **more: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(proxy, **more)
        if not proxy.lower().startswith("socks"):  # those have connections of their own
            _limit_pools(manager)
        return manager


class _Received(io.RawIOBase):
    """What a socket receives, within the current limit."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._gap_s = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        limit = _current.get()
        if limit is None:
            return self._raw.readinto(buffer)
        self._socket.settimeout(limit.wait_s(self._gap_s))
        count = self._raw.readinto(buffer)
        limit.count(count or 0)
        return count

    def close(self) -> None:
        super().close()
        self._raw.close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp.close()
        self.fp = io.BufferedReader(_Received(sock))


class _Limited(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        # A handshake of TLS, too, has this time in all.
        self.timeout = wait_s(self.timeout)
        return super()._new_conn()

    def send(self, data: Any) -> None:
        if self.sock is not None and _current.get() is not None:
            # urllib3 would give a body of any size the time in which to connect.
            self.sock.settimeout(wait_s(None))
        super().send(data)


class _LimitedTls(_Limited, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Limited


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _LimitedTls


def _limit_pools(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
