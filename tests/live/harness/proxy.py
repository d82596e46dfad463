"""What stands between us and Label Studio and fails on demand: late, cut, or in the server's name.

The server behind it is the real one; nothing is made up but the fault.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

HOP_BY_HOP = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})


@dataclass
class Fault:
    """What goes wrong with the requests that it is for.

    Attributes:
        status: answered without asking the server, with ``body``.
        cut: the server is asked and does as it was told, but half of its answer never comes.
        delay_s: the answer comes this much later.
        times: how often; None until it is lifted.
        path: only requests with this in their path.
        met: how often it struck.
    """

    status: int | None = None
    body: bytes = b'{"detail": "an injected fault"}'
    cut: bool = False
    delay_s: float = 0.0
    times: int | None = None
    path: str = ""
    met: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def strikes(self, path: str) -> bool:
        with self._lock:
            if self.path not in path or (self.times is not None and self.met >= self.times):
                return False
            self.met += 1
            return True


class Proxy:
    """An HTTP proxy of one server, on a free port of 127.0.0.1."""

    def __init__(self, target: str) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy.answer(self)

            def do_POST(self) -> None:
                proxy.answer(self)

            def do_PATCH(self) -> None:
                proxy.answer(self)

            def do_DELETE(self) -> None:
                proxy.answer(self)

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output clean."""

        self._target = target
        self._faults: list[Fault] = []
        self._closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        """While these faults are in the way."""
        self._faults += faults
        try:
            yield
        finally:
            for fault in faults:
                self._faults.remove(fault)

    def answer(self, asked: BaseHTTPRequestHandler) -> None:
        """Pass one request on, and its answer back, with whatever is to go wrong."""
        length = int(asked.headers.get("Content-Length", 0))
        body = asked.rfile.read(length)
        faults = [fault for fault in list(self._faults) if fault.strikes(asked.path)]
        # Not a sleep: closing the proxy ends it.
        self._closed.wait(sum(fault.delay_s for fault in faults))
        injected = next((fault for fault in faults if fault.status is not None), None)
        if injected is not None and injected.status is not None:
            _send(asked, injected.status, {"Content-Type": "application/json"}, injected.body)
            return
        try:
            given = requests.request(
                asked.command,
                self._target + asked.path,
                data=body,
                headers={n: v for n, v in asked.headers.items() if n.lower() not in HOP_BY_HOP},
                timeout=120,
                allow_redirects=False,
                stream=True,
            )
            content = given.raw.read(decode_content=False)
        except requests.RequestException:
            asked.close_connection = True  # as if nobody listened
            return
        headers = {n: v for n, v in given.headers.items() if n.lower() not in HOP_BY_HOP}
        _send(asked, given.status_code, headers, content, cut=any(fault.cut for fault in faults))


def _send(
    asked: BaseHTTPRequestHandler,
    status: int,
    headers: dict[str, str],
    content: bytes,
    *,
    cut: bool = False,
) -> None:
    asked.send_response(status)
    for name, value in headers.items():
        asked.send_header(name, value)
    asked.send_header("Content-Length", str(len(content)))
    asked.end_headers()
    asked.wfile.write(content[: len(content) // 2] if cut else content)
    if cut:
        asked.close_connection = True


def every_way_to_fail() -> dict[str, Callable[[], Fault]]:
    """Each a sentence's worth of trouble, made anew for each use."""
    page = b"<html><body>Maintenance</body></html>"
    return {
        "500": lambda: Fault(status=500),
        "502": lambda: Fault(status=502, body=page),
        "401": lambda: Fault(status=401),
        "403": lambda: Fault(status=403),
        "404 to everything": lambda: Fault(status=404, body=page),
        "429": lambda: Fault(status=429),
        "a page instead of JSON": lambda: Fault(status=200, body=page),
        "JSON of another shape": lambda: Fault(status=200, body=b'{"hello": []}'),
        "a list instead of an object": lambda: Fault(status=200, body=b"[1]"),
        "cut connections": lambda: Fault(cut=True),
    }
