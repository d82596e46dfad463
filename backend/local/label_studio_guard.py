"""Where Label Studio may send requests: to the public network and to our web, and nowhere else.

Its users have it fetch addresses: webhooks, backends, imports by URL, storages. Its own guard
refuses every reserved network, so the web on the loopback or on a private network too. It is given
the same networks without the web's address.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RESERVED = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "233.252.0.0/24"),
    *("240.0.0.0/4", "::/128", "::1/128", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96"),
    *("64:ff9b:1::/48", "100::/64", "2001::/32", "2001:20::/28", "2001:db8::/32", "2002::/16"),
    *("fc00::/7", "fe80::/10", "ff00::/8"),
)
"""What Label Studio 1.23.2 refuses by itself (``validate_ip`` in its core/utils/io.py)."""


def guard_environment(backend_url: str) -> dict[str, str]:
    """Environment variables by which Label Studio's guard lets it reach ``backend_url``.

    With the prefix that it looks for first: what the environment says without it counts less.
    """
    return {
        "LABEL_STUDIO_ML_BLOCK_LOCAL_IP": "true",
        "LABEL_STUDIO_SSRF_PROTECTION_ENABLED": "true",
        "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",
        "LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS": ",".join(
            map(str, banned_networks(_addresses_of(backend_url)))
        ),
    }


def banned_networks(reached: Iterable[Address]) -> list[Network]:
    """The reserved networks without the addresses of ``reached``."""
    networks = [ipaddress.ip_network(text) for text in RESERVED]
    for address in reached:
        alone = ipaddress.ip_network(address)
        networks = [left for network in networks for left in _without(network, alone)]
    return networks


def _without(network: Network, alone: Network) -> Iterable[Network]:
    if alone.version != network.version or not alone.subnet_of(network):  # type: ignore[arg-type]
        return [network]
    return sorted(network.address_exclude(alone))  # type: ignore[arg-type]


def _addresses_of(url: str) -> set[Address]:
    """What the host of ``url`` leads to; nothing where the name is not known here."""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return set()
    return {ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found}
