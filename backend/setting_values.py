"""The forms that a setting's value may have; each validator raises ValueError at another form.

The user reads ``expected`` of the setting instead of the error's own text.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from training.committee.store.store import SCHEMES
from training.config import is_network

EVERY_INTERFACE = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
"""What listens on all addresses of a machine."""

_BUCKET = re.compile(r"[a-z0-9A-Z][a-z0-9A-Z._-]{1,220}")
_PREFIX = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?")


def absolute_path(path: Path) -> Path:
    try:
        # resolve() would follow links.
        return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100
    except RuntimeError as error:  # ~name of somebody who has no home here
        raise ValueError("nobody of that name has a home here") from error


def existing_file(path: Path) -> Path:
    found = absolute_path(path)
    try:
        exists = found.is_file()
    except OSError as error:  # a name too long, or a folder that may not be read
        raise ValueError("no file") from error
    if not exists:
        raise ValueError("no file")
    return found


def existing_folder(path: Path) -> Path:
    found = absolute_path(path)
    try:
        exists = found.is_dir()
    except OSError as error:
        raise ValueError("no folder") from error
    if not exists:
        raise ValueError("no folder")
    return found


def host(text: str) -> str:
    """An IP address or a host name, in lower case."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if _HOST_NAME.fullmatch(text) is None:
            raise
        return text.lower()


def is_loopback(name: str) -> bool:
    """Whether only this machine can reach what listens on ``name``."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False  # another name may be anything


def reachable(name: str) -> str:
    """The host to put into an address for something that listens on ``name``."""
    if name in EVERY_INTERFACE:
        return "127.0.0.1"
    return f"[{name}]" if ":" in name else name


def host_and_port(text: str) -> str:
    """``name`` or ``name:port``, in the form that ``ImageFetcher`` compares."""
    name, colon, port = text.rpartition(":")
    if not colon or ":" in name:  # no port, or an IPv6 address
        return host(text)
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("no port")
    return f"{host(name)}:{int(port)}"


def web_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("no http(s) address")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("a user, a query or a fragment in the address")
    if parts.port == 0:  # reading it raises ValueError beyond 65535
        raise ValueError("port 0")
    return url.rstrip("/")


def tracking_uri(uri: str) -> str:
    """A web address, or a folder as ``file:///path``."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return web_url(uri)
    if parts.netloc not in ("", "localhost") or len(parts.path) < 2 or parts.query:
        raise ValueError("no folder")
    return uri


def redis_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        if not parts.path.startswith("/"):
            raise ValueError("no socket path")
        return url
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.port == 0:
        raise ValueError("no Redis address")
    return url


def ledger_url(url: str) -> str:
    """A SQLite file with an absolute path, or a database on PostgreSQL."""
    prefix = "sqlite:///"
    parts = urlsplit(url)
    if parts.scheme == "postgresql+psycopg":
        if len(parts.path) < 2 or parts.fragment or parts.port == 0:  # reading it may raise, too
            raise ValueError("no database on PostgreSQL")
        return url
    path = url.removeprefix(prefix)
    if path == url or not path or path.startswith((":memory:", "file:")) or "?" in path:
        raise ValueError("not a SQLite file")
    return prefix + str(absolute_path(Path(path)))


def registry_url(url: str) -> str:
    """A folder's absolute path, given as a path or as ``file://``, or an object store's address."""
    if "://" not in url:
        return str(absolute_path(Path(url)))
    parts = urlsplit(url)
    if parts.scheme in SCHEMES:
        below = parts.path.strip("/")
        if _BUCKET.fullmatch(parts.netloc) is None or (below and _PREFIX.fullmatch(below) is None):
            raise ValueError("no bucket, or a prefix that is none")
        if parts.query or parts.fragment or ".." in below.split("/"):
            raise ValueError("a query, a fragment or a way out of the prefix")
        return f"{parts.scheme}://{parts.netloc}" + (f"/{below}" if below else "")
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or len(parts.path) < 2:
        raise ValueError("not a folder")
    return str(absolute_path(Path(unquote(parts.path))))


def network_name(name: str) -> str:
    if not is_network(name):
        raise ValueError("no network")
    return name


def comma_separated(value: object) -> object:
    """The names in ``a, b``; what is no text stays for pydantic to check."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


def header_text(value: str, forbidden: str = "") -> None:
    """Check what travels in an Authorization header: printable ASCII without blanks around it."""
    if not value or not value.isascii() or not value.isprintable() or value != value.strip():
        raise ValueError("not printable ASCII")
    if forbidden and forbidden in value:
        raise ValueError("a character that cannot be there")


def shown_without_password(text: str) -> str:
    """A refused value in quotes, without the passwords it may hold, cut where a reader stops."""
    # A refused address may be malformed: all before its last @ could be the password, and a query
    # may hold one as well.
    text = re.sub(r"(?s)^(\w[\w+.-]*://)?.*@", r"\1***@", text)
    text = re.sub(r"(?s)[?#].*", "?***", text)
    return repr(text if len(text) <= 120 else text[:120] + "...")
