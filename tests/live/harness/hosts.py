"""Hosts of their own on one cable each: network namespaces, joined by a bridge of this machine.

This machine is the first of them, at ``ADDRESS``; a worker's host has a name and an address of its
own, reaches nothing but that network, and its cable can be pulled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.live.harness.servers import ROOT, Process

NETWORK = "10.231.77"
ADDRESS = f"{NETWORK}.1"
BRIDGE = "committee-test"  # the kernel takes 15 characters

# In the host's own view its name is what the ledger and Redis get to know it by.
_NAMED = 'echo "$0" > /proc/sys/kernel/hostname; exec "$@"'


def why_no_hosts() -> str | None:
    """Why there can be none here; None: there can."""
    if os.getuid() != 0:
        return "making network namespaces needs root"
    missing = [name for name in ("ip", "unshare") if shutil.which(name) is None]
    if missing:
        return f"there is no {' and no '.join(missing)}: apt-get install iproute2 util-linux"
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("netns", "add", BRIDGE)
    except subprocess.CalledProcessError as error:
        return f"this machine makes no bridge or network namespace: {error.stderr.strip()}"
    finally:
        for words in (("link", "del", BRIDGE), ("netns", "del", BRIDGE)):
            subprocess.run(["ip", *words], check=False, capture_output=True)
    return None


@dataclass(frozen=True)
class Host:
    """A network namespace with a name."""

    name: str

    @property
    def _cable(self) -> str:
        return f"{self.name}-c"  # its end at the bridge

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Process:
        """A process that believes itself on this host."""
        there = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", _NAMED]
        there[0] = str(shutil.which("ip"))
        return Process([*there, self.name, *command], log, environment, cwd=ROOT)

    def cut(self) -> None:
        """Pull the cable: nothing arrives any more, and nobody is told."""
        _ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        _ip("link", "set", self._cable, "up")


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """Hosts on a network with this machine, until the block ends."""
    with ExitStack() as undo:
        _remove_leftovers(names)
        _ip("link", "add", BRIDGE, "type", "bridge")
        undo.callback(_ip, "link", "del", BRIDGE)
        _ip("addr", "add", f"{ADDRESS}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        made = []
        for number, name in enumerate(names, start=2):
            host = Host(name)
            _ip("netns", "add", name)
            undo.callback(_ip, "netns", "del", name)  # its cable goes with it
            _ip("link", "add", host._cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", host._cable, "master", BRIDGE, "up")
            _ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
            made.append(host)
        yield made


def _remove_leftovers(names: Sequence[str]) -> None:
    """What a pytest left that was killed."""
    words = [["link", "del", BRIDGE]]
    words += [["link", "del", Host(name)._cable] for name in names]
    words += [["netns", "del", name] for name in names]
    for each in words:
        subprocess.run(["ip", *each], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
