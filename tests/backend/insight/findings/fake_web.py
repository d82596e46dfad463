"""A web that answers as it is told, and what the tests of the doctor share."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler

from backend.insight.findings.finding import Finding, Installation
from backend.label_studio.client import Json
from backend.label_studio.connection import basic_auth
from backend.settings import Settings
from backend.workplace import Workplace
from tests.served import Served

USER, PASSWORD = "lab", "secret-8731"
API_KEY = "5ec4e7" + "0" * 34
MakeSettings = Callable[..., Settings]


class Web(Served):
    """A web that answers as told: /health after ``slow_s``, the rest for ``password``.

    Label Studio's calls may come with one of ``also`` instead; None there is no password.
    """

    def __init__(self) -> None:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Authorization") not in (web.password, *web.also):
                    self.answer(401, {})
                elif self.path == "/webhook":
                    self.answer(201, {})
                else:
                    self.answer(200, {"model_version": "untrained", "results": [[]]})

            def do_GET(self) -> None:
                if self.path == "/health":
                    threading.Event().wait(web.slow_s)
                    self.answer(200, web.health)
                elif web.password in (None, self.headers.get("Authorization")):
                    self.answer(200, {"versions": []})
                else:
                    self.answer(401, {})

            def answer(self, status: int, body: Json) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:
                """Keep the tests' output clean."""

        self.health: Json = {"status": "UP"}
        self.slow_s = 0.0
        self.password: str | None = basic_auth(USER, PASSWORD)
        self.also: tuple[str | None, ...] = ()
        super().__init__(Handler)


def codes(findings: Iterable[Finding]) -> dict[str, str]:
    return {finding.code: finding.severity for finding in findings}


def installation(settings: Settings, *, reached: bool = False) -> Installation:
    return Installation(Workplace(settings), reached=reached)
