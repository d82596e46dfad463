"""Servers that answer for ever, slowly or fast, on real sockets: each call ends at its limit."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from backend.errors import ImageRefused, StudioUnreachable
from backend.label_studio import client
from backend.label_studio.bulk import Studio
from backend.label_studio.images import ImageFetcher
from backend.label_studio.limited_session import LimitedSession, limited
from backend.local.readiness import answers_http
from tests.backend.host import PIXELS, Host, body
from tests.backend.workplaces import TOKEN

LIMIT_S = 0.1
EVERY_S = 0.01

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Trickle:
    """Sends ``first`` to whoever connects, then ``drip`` again and again until it is closed."""

    def __init__(self, first: bytes, drip: bytes, every_s: float = EVERY_S) -> None:
        self.asked = 0
        self._first, self._drip, self._every_s = first, drip, every_s
        self._stop = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            if self._stop.is_set():
                connection.close()
                return
            self.asked += 1
            self._threads.append(threading.Thread(target=self._answer, args=(connection,)))
            self._threads[-1].start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.sendall(self._first)
                while not self._stop.wait(self._every_s):
                    connection.sendall(self._drip)
            except OSError:  # who asked has gone
                return

    def close(self) -> None:
        self._stop.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self._threads:
            thread.join()
        self._listening.close()


@pytest.fixture
def trickle() -> Iterator[Callable[..., Trickle]]:
    made: list[Trickle] = []

    def make(first: bytes, drip: bytes, every_s: float = EVERY_S) -> Trickle:
        made.append(Trickle(first, drip, every_s))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(
    params=[
        (b"", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (HEAD, b"x"),
        (HEAD + b"X: ", b"x"),
        (HEAD + b"\r\n", b"x"),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b"x"),
        (CHUNKED, b"0"),
        (CHUNKED + b"1;", b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: x\r\n"),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n", b"x"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 1000\r\n\r\n", b"x"),
    ],
    ids=[
        *("status line", "continue", "header name", "header", "body", "body of a length"),
        *("chunk line", "chunk extension", "chunks", "trailer", "redirect", "refusal"),
    ],
)
def slow(request: pytest.FixtureRequest, trickle: Callable[..., Trickle]) -> Trickle:
    return trickle(*request.param)


def test_an_image_that_trickles_ends_at_the_limit(slow: Trickle, studio: Studio) -> None:
    fetcher = ImageFetcher(studio, (f"127.0.0.1:{slow.port}",), max_seconds=LIMIT_S)
    with pytest.raises(ImageRefused, match=r"did not come within 0.1 s \(\d+ bytes did\)|404"):
        fetcher.fetch(f"{slow.url}/cell.png")


def test_label_studio_that_trickles_an_image_ends_at_the_limit(slow: Trickle) -> None:
    with (
        Studio(slow.url, TOKEN) as studio,
        pytest.raises(ImageRefused, match=r"did not come within 0.1 s"),
    ):
        ImageFetcher(studio, max_seconds=LIMIT_S).fetch("/data/upload/1/cell.png")


def test_label_studio_that_trickles_an_answer_is_given_up_once(slow: Trickle) -> None:
    with (
        Studio(slow.url, TOKEN, timeout_s=LIMIT_S, answer_s=LIMIT_S) as studio,
        pytest.raises(StudioUnreachable, match=r"within 0.1 s"),
    ):
        studio.get("/api/version")
    assert slow.asked == 1


def test_a_server_of_ours_that_trickles_is_not_ready(
    slow: Trickle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.local.readiness.TIMEOUT_S", LIMIT_S)
    assert not answers_http(slow.url)


def test_one_limit_holds_for_all_redirects_together(studio: Studio) -> None:
    host = Host()
    try:
        for number in range(3):
            host.pages[f"/{number}"] = _slow_redirect(f"/{number + 1}")
        host.pages["/3"] = body()
        fetcher = ImageFetcher(studio, (host.name,), max_seconds=LIMIT_S)
        with pytest.raises(ImageRefused, match=r"did not come within 0.1 s"):
            fetcher.fetch(f"{host.url}/0")
    finally:
        host.close()


def _slow_redirect(to: str) -> Callable[..., None]:
    def answer(request: object) -> None:
        threading.Event().wait(LIMIT_S / 2)
        redirecting = f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
        request.wfile.write(redirecting.encode())  # type: ignore[attr-defined]

    return answer


@pytest.mark.parametrize(
    "tls", [b"", b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"], ids=["silent", "a long record"]
)
def test_a_handshake_of_tls_that_trickles_ends_at_the_limit(
    tls: bytes, trickle: Callable[..., Trickle], studio: Studio
) -> None:
    slow = trickle(tls, b"\x00" if tls else b"")
    fetcher = ImageFetcher(studio, (f"127.0.0.1:{slow.port}",), max_seconds=LIMIT_S)
    with pytest.raises(ImageRefused, match=r"did not come within 0.1 s"):
        fetcher.fetch(f"https://127.0.0.1:{slow.port}/cell.png")


def test_a_name_service_that_does_not_answer_ends_at_the_limit(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: stop.wait(60) and [])
    try:
        with pytest.raises(ImageRefused, match=r"did not come within 0.1 s"):
            ImageFetcher(studio, ("slow.lab",), max_seconds=LIMIT_S).fetch("http://slow.lab/x.png")
    finally:
        stop.set()


# Fast, and without end


@pytest.mark.parametrize(
    "first",
    [CHUNKED, CHUNKED + b"1\r\nx\r\n0\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;"],
    ids=["chunk line", "trailer", "chunk extension"],
)
def test_what_is_no_image_counts_as_bytes_too(
    first: bytes, trickle: Callable[..., Trickle], studio: Studio
) -> None:
    fast = trickle(first, b"0" * 2**20, every_s=0)
    fetcher = ImageFetcher(studio, (f"127.0.0.1:{fast.port}",), max_bytes=1000)
    with pytest.raises(ImageRefused, match=r"is too large: more|broke off after"):
        fetcher.fetch(f"{fast.url}/cell.png")


def test_the_body_of_a_redirect_is_not_read(
    trickle: Callable[..., Trickle], studio: Studio
) -> None:
    host = Host()
    try:
        host.pages["/cell.png"] = body()
        moved = f"HTTP/1.1 302 Found\r\nLocation: {host.url}/cell.png\r\n\r\n"
        endless = trickle(moved.encode(), b"x" * 2**20, every_s=0)
        fetcher = ImageFetcher(studio, (host.name, f"127.0.0.1:{endless.port}"), max_bytes=1000)
        assert fetcher.fetch(f"{endless.url}/cell.png") == PIXELS
    finally:
        host.close()


# What is slow for good reasons


def test_a_large_body_may_take_longer_to_send_than_connecting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)

        def read_late() -> None:
            connection, _ = listening.accept()
            with connection:
                threading.Event().wait(0.3)
                left = 2**24
                while left > 0 and (came := connection.recv(2**20)):
                    left -= len(came)
                if left <= 0:
                    connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")

        reader = threading.Thread(target=read_late)
        reader.start()
        with Studio(f"http://127.0.0.1:{listening.getsockname()[1]}", TOKEN) as studio:
            assert studio.call("POST", "/api/import", content=bytes(2**24)) == {}
        reader.join()


def test_without_a_limit_a_session_is_any_other(trickle: Callable[..., Trickle]) -> None:
    slow = trickle(HEAD + b"Content-Length: 3\r\n\r\n", b"x")
    with LimitedSession() as session:
        assert session.get(slow.url, timeout=5).text == "xxx"


def test_the_inner_of_two_limits_ends_with_the_outer() -> None:
    with limited(1, 10) as outer, limited(2) as inner:
        assert (inner.seconds, inner.ends_at) == (1, outer.ends_at)
        inner.count(10)
        assert outer.received == 10
        assert not outer.is_exceeded
        with pytest.raises(OSError, match="more than 10 bytes"):
            inner.count(1)
        assert outer.is_exceeded
