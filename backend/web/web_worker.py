"""gunicorn's threaded worker, for clients that are slow, rude or endless.

gunicorn's own gives a connection to a thread at its first byte, and the thread then waits as long
as the client likes; it says goodbye to a client in the one loop that all others wait for; and it
answers what is no HTTP in HTML. Here every wait has an end, and a thread is had only for a request
whose head is whole.

| waiting for | who waits | limits |
|---|---|---|
| the head | the loop | ``HEAD_WITHIN_S``, ``HEAD_BYTES`` |
| the body, once the app asks for it | a thread | ``BODY_WITHIN_S``, and the app's bytes |
| the client to take the answer | a thread | ``ANSWER_WITHIN_S``, ``UNTAKEN_BYTES`` |
| the client to hang up | the loop | ``GOODBYE_S``, ``GOODBYE_BYTES`` |

A body that the app does not ask for, because the password was wrong, is not waited for.
"""

from __future__ import annotations

import array
import fcntl
import selectors
import socket
import termios
import time
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
from gunicorn.http import errors  # type: ignore[import-untyped]  # it publishes no types
from gunicorn.workers.gthread import (  # type: ignore[import-untyped]
    _DEFER,
    TConn,
    ThreadWorker,
)

HEAD_WITHIN_S = 10.0
"""Label Studio sends a head in one packet; a person on a bad line has time for some."""

HEAD_BYTES = 32 * 1024
"""Four times the longest single header that gunicorn takes."""

BODY_WITHIN_S = 60.0
"""256 MB at 40 Mbit/s; Label Studio itself gives up after 100 s."""

ANSWER_WITHIN_S = 60.0

GOODBYE_S = 2.0
"""Closing at once would reset the connection, and with it the answer still on its way."""

GOODBYE_BYTES = 1024 * 1024

UNTAKEN_BYTES = 16 * 1024
"""Of its answers, that a client may have left untaken when its next request is heard. One that
sends on and reads nothing would fill the buffers, and then have a thread wait for it."""

UNREAD_WITHIN_S = 0.01
"""For the end of a body that nobody asked for, so that the connection can be used again."""


class WebWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn publishes no types
    """One web process: a loop that waits for everybody, threads that answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._leaving: dict[_Connection, float] = {}  # and when they must be gone

    def accept(self, listener: socket.socket) -> None:
        try:
            sock, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # the other process was quicker, or the client left
        self.nr_conns += 1
        self.enqueue_req(_Connection(self.cfg, sock, address, listener.getsockname()))

    def handle(self, conn: _Connection) -> object:
        """In a thread: one request, if its head is whole; True to keep the connection."""
        request = None
        try:
            if not conn.has_head():
                return _DEFER
            if conn.untaken() >= UNTAKEN_BYTES:
                return False
            conn.begin()
            request = next(conn.parser)
            return self._keepalive_after(conn, self.handle_request(request, conn))
        except (errors.NoMoreData, StopIteration, ConnectionError, TimeoutError) as error:
            self.log.debug("a client left or fell silent: %r", error)
        except Exception as error:
            self.handle_error(request, conn.sock, conn.client, error)
        return False

    def _keepalive_after(self, conn: _Connection, keep: bool) -> bool:
        if not keep:
            return False
        return bool(conn.parser.finish_body(deadline=time.monotonic() + UNREAD_WITHIN_S))

    def finish_request(self, conn: _Connection, done: Any) -> None:
        """In the loop: wait for more, for the next request, or for the client to hang up."""
        result = False if done.cancelled() or done.exception() is not None else done.result()
        if result is False:
            self._close_connection(conn)
            return
        super().finish_request(conn, done)
        if result is _DEFER:
            conn.timeout = conn.head_due  # gunicorn's would begin anew with every byte

    def murder_pending(self) -> None:
        """Let go of all whose time is over; the loop calls it once a second."""
        now = time.monotonic()
        for conn in [late for late in self.pending_conns if late.timeout <= now]:
            self.pending_conns.remove(conn)
            self.poller.unregister(conn.sock)
            if conn.head:
                said = f"The head of the request did not arrive within {HEAD_WITHIN_S:g} s."
                _refuse(conn.sock, HTTPStatus.REQUEST_TIMEOUT, said)
            self._close_connection(conn)
        for conn in [slow for slow, due in self._leaving.items() if due <= now]:
            self._part(conn)

    def _close_connection(self, conn: _Connection) -> None:
        """Send no more, and take what still comes until the client has read the answer."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._hear_out, conn))
        except (OSError, ValueError):  # it is gone
            self.nr_conns -= 1
            conn.close()
            return
        self._leaving[conn] = time.monotonic() + GOODBYE_S

    def _hear_out(self, conn: _Connection, sock: socket.socket) -> None:
        try:
            data = sock.recv(64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        conn.unheard += len(data)
        if not data or conn.unheard > GOODBYE_BYTES:
            self._part(conn)

    def _part(self, conn: _Connection) -> None:
        del self._leaving[conn]
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """What reached no app is refused in a sentence, and logged without what was sent."""
        status, said = _refusal(exc)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log.error("A request failed before the app had it", exc_info=exc)
        else:
            self.log.warning("A request from %s was refused: %s", addr[0] if addr else "?", said)
        _refuse(client, status, said)


class _Connection(TConn):  # type: ignore[misc]
    """A client's connection; ``head`` is what has come of the next request."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.head = bytearray()
        self.head_due = time.monotonic() + HEAD_WITHIN_S
        self.unheard = 0

    def has_head(self) -> bool:
        """Take what has come without waiting; whether the request's head is whole.

        Raises:
            NoMoreData: the client hung up before it was.
            LimitRequestHeaders: it is longer than ``HEAD_BYTES``.
        """
        if not self.head and self.parser is not None:  # the next request on this connection
            self.head += self.parser.unreader.take_buffered()
            self.head_due = time.monotonic() + HEAD_WITHIN_S
        self.sock.setblocking(False)
        searched = 0
        while (end := self.head.find(b"\r\n\r\n", searched)) < 0 and len(self.head) <= HEAD_BYTES:
            searched = max(0, len(self.head) - 3)
            try:
                data = self.sock.recv(8192)
            except BlockingIOError:
                return False
            if not data:
                raise errors.NoMoreData()
            self.head += data
        if not 0 <= end <= HEAD_BYTES:
            raise errors.LimitRequestHeaders("")
        return True

    def untaken(self) -> int:
        """Bytes of earlier answers that the client's machine has not taken yet."""
        waiting = array.array("i", [0])
        try:
            fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, waiting)
        except OSError:  # not every system tells it of a socket
            return 0
        return waiting[0]

    def begin(self) -> None:
        """Hand the head to gunicorn's parser, with limits on all that follows."""
        self.init()
        self.sock.settimeout(ANSWER_WITHIN_S)
        unreader = self.parser.unreader
        unreader.unread(bytes(self.head))
        self.head.clear()
        unreader.sock = _UntilDue(self.sock, time.monotonic() + BODY_WITHIN_S)


class _UntilDue:
    """A socket to read from until a moment, however many reads that takes.

    ``gettimeout`` and ``settimeout`` are what gunicorn bounds the reading of a body's rest with.
    """

    def __init__(self, sock: socket.socket, due: float) -> None:
        self._sock = sock
        self._due = due

    def recv(self, size: int) -> bytes:
        left_s = self._due - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        try:
            return self._sock.recv(size)
        finally:
            self._sock.settimeout(ANSWER_WITHIN_S)

    def gettimeout(self) -> float:
        return self._due - time.monotonic()

    def settimeout(self, left_s: float) -> None:
        self._due = time.monotonic() + left_s


_SAID: tuple[tuple[type[Exception], HTTPStatus, str], ...] = (
    (
        errors.LimitRequestLine,
        HTTPStatus.REQUEST_URI_TOO_LONG,
        "The request line must be shorter than 4,094 bytes.",
    ),
    (
        errors.LimitRequestHeaders,
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "At most 100 headers are taken, of 8,190 bytes each and "
        f"{HEAD_BYTES // 1024} KiB together.",
    ),
    (
        errors.UnsupportedTransferCoding,
        HTTPStatus.NOT_IMPLEMENTED,
        "The only transfer coding understood is chunked.",
    ),
    (
        errors.ExpectationFailed,
        HTTPStatus.EXPECTATION_FAILED,
        "The only expectation met is 100-continue.",
    ),
    (
        errors.InvalidRequestLine,
        HTTPStatus.BAD_REQUEST,
        "The request line must be a method, a path of printable ASCII and HTTP/1.1.",
    ),
    (errors.InvalidRequestMethod, HTTPStatus.BAD_REQUEST, "The method must be one of HTTP's."),
    (errors.InvalidHTTPVersion, HTTPStatus.BAD_REQUEST, "The version must be HTTP/1.0 or 1.1."),
    (
        errors.ParseException,
        HTTPStatus.BAD_REQUEST,
        "A header is malformed, contradicts another, or is there twice.",
    ),
)


def _refusal(error: Exception) -> tuple[HTTPStatus, str]:
    for kind, status, said in _SAID:
        if isinstance(error, kind):
            return status, said
    return (
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "Something failed here that should not; the log tells what.",
    )


def _refuse(sock: socket.socket, status: HTTPStatus, said: str) -> None:
    body = orjson.dumps({"error": said})
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        sock.setblocking(False)  # a client that takes no such answer gets none
        sock.send(head.encode() + body)
    except OSError:
        pass  # it is gone
