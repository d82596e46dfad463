"""The web in processes of its own, with short limits of time, and bytes to and from it."""

from __future__ import annotations

import base64
import json
import socket
import sys
from pathlib import Path
from typing import Any

import requests

from backend.ledger import Ledger, upgrade
from backend.settings import Settings, load_settings
from tests.backend.web import impatient
from tests.limits import scaled, wait_until
from tests.live.harness.servers import ROOT, Process, free_port

USER, PASSWORD = "lab", "throwaway-password"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
LOGIN = f"Authorization: Basic {BASIC}\r\n"
PROJECT = "1.1795468845"
EVENT = json.dumps({"action": "START_TRAINING", "project": PROJECT}).encode()
# A thread of the web or a client on a machine that is busy with other tests.
PATIENCE_S = 60
START_LIMIT_S = 180


class Web:
    """The web on a port of its own, with short limits of time."""

    def __init__(self, folder: Path, **given: Any) -> None:
        port = free_port()
        fields: dict[str, Any] = {
            "data_dir": folder / "data",
            "host": "127.0.0.1",
            "port": port,
            "backend_url": f"http://127.0.0.1:{port}",
            "label_studio_url": "http://studio.test",
            "label_studio_api_key": "0" * 40,
            "redis_url": "redis://127.0.0.1:1/0",
            "ledger_url": f"sqlite:///{folder / 'data' / 'ledger.sqlite3'}",
            "basic_auth_user": USER,
            "basic_auth_pass": PASSWORD,
            **given,
        }
        self.settings: Settings = load_settings(_env_file=None, **fields)
        upgrade(self.settings.ledger_url)
        ledger = Ledger(self.settings.ledger_url)
        ledger.projects.ensure(self.settings.label_studio()[0], *map(int, PROJECT.split(".")))
        ledger.close()
        command = [sys.executable, "-m", impatient.__name__]
        environment = {name.upper(): str(value) for name, value in fields.items()}
        self.process = Process(command, folder / "web.log", environment, cwd=ROOT)
        self.port, self.url, self.auth = port, f"http://127.0.0.1:{port}", (USER, PASSWORD)
        try:
            wait_until(self.healthy, START_LIMIT_S, "the web to be healthy")
        except BaseException as error:
            self.process.stop()
            raise AssertionError(self.process.tail()) from error

    def healthy(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=scaled(PATIENCE_S)).ok
        except (requests.ConnectionError, requests.Timeout):
            return False

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=scaled(PATIENCE_S))

    def ask(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send bytes as they are; status, headers and body of what comes back."""
        with self.connect() as link:
            link.sendall(sent)
            return answer_of(link)

    def post(self, path: str, body: bytes, **headers: str) -> requests.Response:
        sent = {"Content-Type": "application/json", **headers}
        return requests.post(
            self.url + path, data=body, auth=self.auth, headers=sent, timeout=scaled(PATIENCE_S)
        )


def answer_of(link: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """The one answer that comes, read to its stated length."""
    with link.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = {}
        while line := stream.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, stream.read(int(headers["content-length"]))
