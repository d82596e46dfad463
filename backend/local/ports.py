"""Free ports of this machine."""

from __future__ import annotations

import errno
import socket
import time

from backend.local.errors import CannotRun

PORT_PATIENCE_S = 8.0
"""Killed children of a supervisor that died may hold their ports for a moment."""


def free_port(host: str, port: int) -> int | None:
    """The port, if it can be listened on now (0: any one); None if it is taken.

    Raises:
        CannotRun: the address does not belong to this machine, or the port needs more rights.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
            return int(probe.getsockname()[1])
    except PermissionError as error:
        raise CannotRun(
            f"PORT {port} needs rights that this user does not have; use 1024 or more."
        ) from error
    except socket.gaierror as error:
        raise CannotRun(
            f"HOST must be an address of this machine, got '{host}' ({error}); "
            "LOCAL_LABEL_STUDIO_HOST too."
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise CannotRun(
                f"HOST must be an address of this machine, got '{host}'; LOCAL_LABEL_STUDIO_HOST "
                "too."
            ) from error
        return None


def becomes_free(host: str, port: int) -> bool:
    """Whether the port is free now or within ``PORT_PATIENCE_S``."""
    deadline = time.monotonic() + PORT_PATIENCE_S
    while free_port(host, port) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def first_free_port(host: str, port: int) -> int:
    """``port``, or the next free one of the hundred from there.

    Raises:
        CannotRun: none of them is free.
    """
    for candidate in range(port, port + 100):
        found = free_port(host, candidate)
        if found is not None:
            return found
    raise CannotRun(f"None of the ports {port} to {port + 99} is free at {host}; set PORT.")
