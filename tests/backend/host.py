"""A small HTTP server that answers as its pages say, and remembers who asked."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from tests.served import Served

PIXELS = b"not really an image, but nobody here decodes it"

Answer = Callable[[BaseHTTPRequestHandler], None]


class Host(Served):
    """A small server on 127.0.0.1: ``pages`` maps a path to what answers it; ``seen`` logs."""

    def __init__(self) -> None:
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.seen.append((self.path, dict(self.headers)))
                page = host.pages.get(self.path.split("?")[0])
                if page is None:
                    self.send_error(404)
                else:
                    page(self)

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output clean."""

        self.pages: dict[str, Answer] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        super().__init__(Handler)
        self.name = f"127.0.0.1:{self.port}"

    @property
    def authorizations(self) -> list[str | None]:
        return [headers.get("Authorization") for _, headers in self.seen]


def body(content: bytes = PIXELS) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


def redirect(location: str, status: int = 303) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Location", location)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def status(code: int) -> Answer:
    return lambda request: request.send_error(code)
