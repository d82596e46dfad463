"""An S3 server for tests, moto's, in a process of its own; and a door to it that can be shut."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import requests

from backend.process_group import launcher
from tests.limits import wait_until
from tests.live.harness.servers import free_port

KEY_ID, SECRET = "AKIATHROWAWAY0000001", "throwaway-s3-secret-8731"
_names = (f"bucket-{number}" for number in itertools.count())


class S3Server:
    """Keeps everything in memory, until ``close``. It believes any credentials unless it is told
    otherwise, and its conditional put is not atomic: two at the same instant may both succeed."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            launcher([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", f"-p{self.port}"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        wait_until(self._answers, 30, "the S3 server's answer", every_s=0.05)

    def new_bucket(self) -> str:
        name = next(_names)
        requests.put(f"{self.url}/{name}", timeout=10).raise_for_status()
        return name

    @contextmanager
    def asking_for_credentials(self) -> Iterator[None]:
        """Nobody is known to it, and it says so."""
        self._no_auth_for("0")
        try:
            yield
        finally:
            self._no_auth_for("inf")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _no_auth_for(self, requests_: str) -> None:
        url = f"{self.url}/moto-api/reset-auth"
        requests.post(url, data=requests_, timeout=10).raise_for_status()

    def _answers(self) -> bool:
        assert self._process.poll() is None, "moto's server ended"
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class Door:
    """A port that leads to another one while it is open, and refuses connections while shut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._accepting: threading.Thread | None = None
        self.port = 0
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def shut(self) -> None:
        """Nobody comes in, and who is in goes; safe to repeat."""
        with self._lock:
            for each in (self._listener, *self._connections):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        if self._accepting is not None:
            self._accepting.join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inside, _ = self._listener.accept()
                outside = socket.create_connection(("127.0.0.1", self._to))
                with self._lock:
                    self._connections |= {inside, outside}
                threading.Thread(target=self._both, args=(inside, outside), daemon=True).start()

    def _both(self, inside: socket.socket, outside: socket.socket) -> None:
        back = threading.Thread(target=_pump, args=(outside, inside), daemon=True)
        back.start()
        _pump(inside, outside)
        back.join()
        with self._lock:
            self._connections -= {inside, outside}
        inside.close()
        outside.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
