"""Who may see the dashboard, who may act on it, and that an action was really asked for there.

The web's own password opens nothing here: every account of Label Studio can obtain that one.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from backend.settings import Settings
from backend.web.auth import Login

REALM = "Committee dashboard"

PROXY_HEADER = "X-Forwarded-User"

MOST_NAME = 200
"""Characters that are kept of the name that a proxy gives."""

FORM_S = 4 * 3600
"""How long a form that was shown may be sent."""


@dataclass(frozen=True)
class Visitor:
    """Who asks.

    Attributes:
        login: the user of HTTP Basic.
        person: who it is, by a proxy that is believed; else the login.
        may_act: False for the login that may only read.
    """

    login: str
    person: str
    may_act: bool


@dataclass(frozen=True)
class Access:
    """The logins of the dashboard, and the key of its forms."""

    logins: Sequence[tuple[str, Login, bool]]
    proxies: frozenset[str]
    key: bytes

    @classmethod
    def of(cls, settings: Settings) -> Access | None:
        """None where no password is set: the dashboard is off."""
        logins = []
        for user, secret, may_act in (
            (settings.dashboard_user, settings.dashboard_pass, True),
            (settings.dashboard_viewer_user, settings.dashboard_viewer_pass, False),
        ):
            if secret is not None:
                logins.append((user, Login(user, secret.get_secret_value()), may_act))
        if not logins:
            return None
        key = settings.derived_key(b"forms of the dashboard")
        return cls(logins, frozenset(map(_plain, settings.dashboard_proxies)), key)

    def accepts(self, authorization: str) -> bool:
        return self.visitor(authorization) is not None

    def visitor(self, authorization: str, address: str = "", named: str = "") -> Visitor | None:
        """Who an Authorization header lets in.

        Args:
            address: where the request came from.
            named: the person, by ``PROXY_HEADER``; counts from ``DASHBOARD_PROXIES`` alone.
        """
        person = _read_name(named) if _plain(address) in self.proxies else ""
        for user, login, may_act in self.logins:
            if login.accepts(authorization):
                return Visitor(user, person or user, may_act)
        return None

    def token(self, visitor: Visitor, form: str, now: float | None = None) -> str:
        """What a form must bring back: bound to who was shown it, and to what it does.

        Args:
            form: the action and what it is done to.
            now: unix seconds.
        """
        made = int(time.time() if now is None else now)
        return f"{made}.{self._sign(visitor, form, made)}"

    def allows(self, visitor: Visitor, form: str, token: str, now: float | None = None) -> bool:
        """Whether a token was made for this visitor and form, and not too long ago."""
        made, _dot, signature = token.partition(".")
        if not (made.isascii() and made.isdecimal()) or len(made) > 12:
            return False
        age_s = (time.time() if now is None else now) - int(made)
        expected = self._sign(visitor, form, int(made))
        right = hmac.compare_digest(signature.encode(), expected.encode())
        return right and -60 <= age_s <= FORM_S

    def _sign(self, visitor: Visitor, form: str, made: int) -> str:
        text = "\0".join((visitor.login, visitor.person, form, str(made)))
        return hmac.new(self.key, text.encode(), "sha256").hexdigest()


def _plain(address: str) -> str:
    """An address; of IPv4 as such, which a socket for both kinds shows as ::ffff:10.0.0.5."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address  # a Unix socket has none
    return str(ip if ip.version == 4 else ip.ipv4_mapped or ip)


def _read_name(named: str) -> str:
    """A header's name: WSGI reads its bytes as Latin-1, and proxies send UTF-8."""
    with suppress(UnicodeError):
        named = named.encode("latin-1").decode()
    return named.strip()[:MOST_NAME]
