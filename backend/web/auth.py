"""Who may speak to the web: HTTP Basic, and a limit on wrong guesses.

A right user and password always passes, whatever came before it from the same address: behind a
proxy everybody has the same one, and Label Studio must not be locked out because somebody else
guesses, or because a webhook of its own still carries an old password. So the limit does not stop
a guesser who is ready to read 429 for no; it bounds what guesses write into the log, and tells an
honest client with an old password to slow down. What stops a guesser is the password: the one
made up here has 192 bits, and settings.py asks for a long one beyond the loopback.

Every process counts for itself, so with two of them a client has up to twice the guesses.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import secrets
import threading
import time
from collections import OrderedDict
from hashlib import sha256

from werkzeug.datastructures import Authorization

from backend.settings import Settings

GUESSES = 10
"""Wrong logins of one address at once; Label Studio tries an old password once per event."""

GUESS_EVERY_S = 6.0
"""And one more every so many seconds."""

ADDRESSES = 4096
"""Addresses that are counted; the one that was silent longest is forgotten first."""


class Login:
    """Compares credentials with the right ones, in a time that tells nothing of either."""

    def __init__(self, user: str, password: str) -> None:
        self._key = secrets.token_bytes(32)
        self._user = self._digest(user)
        self._password = self._digest(password)

    @classmethod
    def of(cls, settings: Settings) -> Login:
        return cls(settings.basic_auth_user, settings.basic_auth_pass.get_secret_value())

    def accepts(self, header: str) -> bool:
        """Whether an Authorization header holds them; one that cannot be read does not."""
        try:
            return self.passes(Authorization.from_header(header))
        except ValueError:  # werkzeug lets it through for base64 of other than ASCII
            return False

    def passes(self, given: Authorization | None) -> bool:
        if given is None or given.type != "basic":
            return False
        # Digests have one length, and both are compared whatever the first one says.
        user = hmac.compare_digest(self._digest(given.username or ""), self._user)
        password = hmac.compare_digest(self._digest(given.password or ""), self._password)
        return user & password

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(), sha256)


class BearerToken:
    """Compares a Bearer token with METRICS_TOKEN; without one set nothing passes."""

    def __init__(self, token: str | None) -> None:
        self._header = None if token is None else f"Bearer {token}".encode()

    @classmethod
    def of(cls, settings: Settings) -> BearerToken:
        secret = settings.metrics_token
        return cls(None if secret is None else secret.get_secret_value())

    def accepts(self, header: str) -> bool:
        """Whether an Authorization header holds it."""
        return self._header is not None and hmac.compare_digest(header.encode(), self._header)


class WrongLogins:
    """A token bucket of wrong logins for each address. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when

    def count(self, address: str, now: float | None = None) -> int:
        """Count a wrong login.

        Args:
            now: seconds of a clock that only goes forward; the process's own by default.

        Returns:
            0, or the whole seconds after which the next one is answered as such.
        """
        now = time.monotonic() if now is None else now
        name = _network(address)
        with self._lock:
            tokens, then = self._buckets.pop(name, (float(GUESSES), now))
            tokens = min(float(GUESSES), tokens + (now - then) / GUESS_EVERY_S)
            allowed = tokens >= 1
            self._buckets[name] = (tokens - 1 if allowed else tokens, now)
            if len(self._buckets) > ADDRESSES:
                self._buckets.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1 - tokens) * GUESS_EVERY_S))

    def __len__(self) -> int:
        return len(self._buckets)


def _network(address: str) -> str:
    """What one client can have: an IPv4 address, or the 64 bits of an IPv6 network."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address  # a Unix socket has none
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))
