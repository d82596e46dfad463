"""Which addresses an image may be fetched from, and a connection that keeps to them.

A name says nothing of where it leads: whoever runs its DNS may point it at the loopback or at
the cloud's keys, and may change that between our look and our call. So a name is looked up once,
what it says is checked, and the connection goes to that address; certificate and ``Host`` are
still the name's.
"""

from __future__ import annotations

import ipaddress
import logging
import queue
import socket
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import select_proxy
from urllib3.connectionpool import ConnectionPool

from backend.errors import ImageRefused
from backend.label_studio.client import no_auth, proxy_for, session_for
from backend.label_studio.limited_session import LimitedAdapter, wait_s

# Where an answer's headers are broken it logs the whole address, a signature in it too.
logging.getLogger("urllib3.connection").setLevel(logging.ERROR)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_PORTS = {"http": 80, "https": 443}

# Each may take as long to connect to as one; a name with more is tried at these alone.
MOST_ADDRESSES = 4

_MACHINE = "this machine itself"
_LINK = "the local link, where clouds keep their keys"
_GROUP = "no single machine"
_CLOUD = "a cloud's own service for its machines"

# Networks that no image server has: a private one (10.0.0.0/8 and the like) is not among them,
# since a laboratory's file server is there.
_NEVER = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", _MACHINE),
        ("127.0.0.0/8", _MACHINE),
        ("169.254.0.0/16", _LINK),
        ("224.0.0.0/4", _GROUP),
        ("240.0.0.0/4", _GROUP),
        ("100.100.100.200/32", _CLOUD),  # Alibaba
        ("168.63.129.16/32", _CLOUD),  # Azure
        ("192.0.0.192/32", _CLOUD),  # Oracle
        ("::/128", _MACHINE),
        ("::1/128", _MACHINE),
        ("fe80::/10", _LINK),
        ("ff00::/8", _GROUP),
        ("fd00:ec2::/32", _CLOUD),  # Amazon
        ("fd20:ce::254/128", _CLOUD),  # Google
        ("fd00:c1::a9fe:a9fe/128", _CLOUD),  # Oracle
        ("fd00:100::100:200/128", _CLOUD),  # Alibaba
        ("fd00:a9fe:a9fe::1/128", _CLOUD),  # Akamai
        ("fd00:42::42/128", _CLOUD),  # Scaleway
    )
)
_V4_AT_THE_END = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # and a network's own, which mostly is a /96 within
        "::ffff:0:0:0/96",  # SIIT
        "::/96",  # IPv4-compatible
    )
)


def forbidden(address: Address) -> str | None:
    """What is wrong with fetching images from ``address``; None if nothing is."""
    for seen in (address, *_within(address)):
        for network, what in _NEVER:
            if seen.version == network.version and seen in network:
                return what
    return None


def _within(address: Address) -> tuple[Address, ...]:
    """The IPv4 addresses that an IPv6 one stands for, by any of the ways there are."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    found: list[Address | None] = [address.ipv4_mapped, address.sixtofour]
    found += address.teredo or ()
    if any(address in network for network in _V4_AT_THE_END):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return tuple(each for each in found if each is not None)


def spelled(name: str) -> str:
    """A host as it is compared: lower case, ASCII, no last dot, an IP address in its short form."""
    name = name.strip().lower().rstrip(".").removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return _ascii(name)
    return f"[{address}]" if address.version == 6 else str(address)


def _ascii(name: str) -> str:
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return name


def spelled_with_port(listed: str) -> str:
    """An entry of ALLOWED_IMAGE_HOSTS, ``name`` or ``name:port``, as it is compared."""
    name, colon, port = listed.strip().rpartition(":")
    if colon and port.isdecimal() and (":" not in name or name.endswith("]")):
        return f"{spelled(name)}:{int(port)}"
    return spelled(listed)


def open_checked(
    url: str, name: str, port: int, allowed: frozenset[str], timeout_s: tuple[float, float]
) -> requests.Response:
    """GET ``url`` at a checked address of its host: no credentials, no redirects, body unread.

    All of it, the body too, is within the caller's limit (``limited``).

    Args:
        url: http or https.
        name, port: its host, as ``spelled``.
        allowed: for ``look_up``.
        timeout_s: to connect, and between two bytes.

    Raises:
        ImageRefused: as ``look_up``.
        requests.RequestException: no answer from any of the addresses.
    """
    host = name if port == DEFAULT_PORTS[urlsplit(url).scheme] else f"{name}:{port}"
    if proxy_for(url):
        return _get(url, host, LimitedAdapter(), timeout_s)
    *others, last = look_up(name, port, allowed)
    for address in others:
        try:
            return _get(url, host, PinnedAdapter(name, port, address), timeout_s)
        except requests.ConnectionError:  # of two families often only one has a route
            continue
    return _get(url, host, PinnedAdapter(name, port, last), timeout_s)


def _get(
    url: str, host: str, adapter: LimitedAdapter, timeout_s: tuple[float, float]
) -> requests.Response:
    with session_for(url) as session:
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session.get(
            url,
            # Never our token; and an auth of our own keeps out what a .netrc holds.
            auth=no_auth,
            headers={"Accept-Encoding": "identity", "Host": host},
            timeout=timeout_s,
            allow_redirects=False,
            stream=True,
        )


def look_up(name: str, port: int, allowed: frozenset[str]) -> list[str]:
    """The addresses of ``name``, each checked; the name is looked up this once.

    An address that no image server has is taken only where ``allowed`` lists that address
    itself, or where the name is ``localhost``, which says what it means.

    Args:
        name: as ``spelled``.
        allowed: ``name`` or ``name:port``, as ``spelled``; ``name`` itself was found in it.

    Raises:
        ImageRefused: the name is unknown, or leads where no image may come from.
    """
    try:
        addresses = _addresses(name, port)[:MOST_ADDRESSES]
    except (OSError, UnicodeError, queue.Empty) as error:
        raise ImageRefused(f"No image from {name}: its address cannot be found.") from error
    for text in addresses:
        address = ipaddress.ip_address(text)
        what = forbidden(address)
        own = spelled(text)
        listed = {f"{own}:{port}"} | ({own} if port in DEFAULT_PORTS.values() else set())
        if what is None or name == "localhost" or allowed & listed:
            continue
        raise ImageRefused(
            f"No image from {name}: its address {text} is {what}. If you mean that, add "
            f"{own}:{port} to ALLOWED_IMAGE_HOSTS too."
        )
    return addresses


def _addresses(name: str, port: int) -> list[str]:
    """As the name service has them, within the current limit; itself it has none.

    Raises:
        OSError, UnicodeError: there are none.
        queue.Empty: no answer in time.
    """
    answers: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(name.strip("[]"), port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(each[4][0]) for each in found)))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="name service", daemon=True).start()
    answer = answers.get(timeout=wait_s(None))
    if isinstance(answer, list):
        return answer
    raise answer


class PinnedAdapter(LimitedAdapter):
    """Connects to one address, whatever the host's name says by then.

    A proxy that the environment names is used as always: it resolves names itself, and decides
    what it lets through.

    Args:
        name, port: the host that was looked up, as ``spelled``.
        address: one that ``look_up`` gave for it.
    """

    def __init__(self, name: str, port: int, address: str) -> None:
        super().__init__()
        self._name, self._port, self._address = name, port, address

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: bool | str | None,
        proxies: Mapping[str, str] | None = None,
        cert: tuple[str, str] | str | None = None,
    ) -> ConnectionPool:
        url = request.url or ""
        if select_proxy(url, proxies):
            return super().get_connection_with_tls_context(request, verify, proxies, cert)
        parts = urlsplit(url)
        asked = (spelled(parts.hostname or ""), parts.port or DEFAULT_PORTS[parts.scheme])
        if asked != (self._name, self._port):
            raise ImageRefused(
                f"The image address at {self._name} is read in two ways, as {asked[0]} too: "
                "write it plainly."
            )
        tls: dict[str, Any] = dict(
            self.build_connection_pool_key_attributes(request, verify or False, cert)[1]
        )
        if parts.scheme == "https":
            tls["server_hostname"] = tls["assert_hostname"] = self._name.strip("[]")
        pool: ConnectionPool = self.poolmanager.connection_from_host(
            spelled(self._address), port=self._port, scheme=parts.scheme, pool_kwargs=tls
        )
        return pool
