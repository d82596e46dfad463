"""waitress, with limits on whose body is read, how large it is and how long a client may take.

waitress waits for all clients in one loop, and a thread gets a request only once it has arrived
whole. By itself it would take any body before the application can ask for the password, and let a
client that sends a byte now and then take for ever.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import orjson
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import Error, RequestEntityTooLarge

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

THREADS = 8
"""Enough for webhooks and /setup to pass while one thread predicts."""

CONNECTIONS = 400
"""Of one process at once, idle ones too; with its files they stay below the usual 1,024."""

HEAD_BYTES = 32 * 1024

HEAD_WITHIN_S = 10.0
"""Label Studio sends a head in one packet; a person on a bad line has time for some."""

BODY_WITHIN_S = 60.0
"""256 MB at 40 Mbit/s; Label Studio itself gives up after 100 s."""

SILENT_S = 10
"""A connection on which nothing moved for so long is closed, unless a thread is at work on it."""

SEND_WITHIN_S = 2.0
"""What was answered before a stop, and waits for the client to read it, has so long."""

DRAIN_S = 5.0
"""What has begun to arrive when SIGTERM comes has so long to be answered."""

SEND_BUFFER_BYTES = 256 * 1024
"""The system would keep megabytes for each client that asks on and reads no answer."""

BODY_IN_MEMORY_BYTES, ANSWER_IN_MEMORY_BYTES = 4 * 2**20, 32 * 2**20
"""Larger ones wait in a temporary file. The largest webhook is kept in memory."""

BodyLimit = Callable[[str, str], int]
"""``limit(path, authorization)``: the bytes of a body that are read; 0 without the password."""


class LateRequest(Error):
    code = 408
    reason = "Request Timeout"


class Limits(Adjustments):
    """waitress' own settings, and the limit of a body."""

    def __init__(self, body_limit: BodyLimit) -> None:
        super().__init__(
            threads=THREADS,
            connection_limit=CONNECTIONS,
            channel_timeout=SILENT_S,
            cleanup_interval=1,
            max_request_header_size=HEAD_BYTES,
            inbuf_overflow=BODY_IN_MEMORY_BYTES,
            outbuf_overflow=ANSWER_IN_MEMORY_BYTES,
            asyncore_use_poll=True,  # select() ends at file number 1,024
            log_socket_errors=False,  # that a client left is no error of ours
            ident=None,
        )
        self.socket_options = [
            *Adjustments.socket_options,
            (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
        ]
        self.body_limit = body_limit


class Request(HTTPRequestParser):
    """A request on its way in."""

    adj: Limits
    headers: dict[str, str]
    path = ""

    def __init__(self, adj: Limits) -> None:
        super().__init__(adj)
        self._began = time.monotonic()
        self._limit = 0

    def received(self, data: bytes) -> int:
        taken = super().received(data)
        if not self.completed:
            within_s = BODY_WITHIN_S if self.headers_finished else HEAD_WITHIN_S
            if self.body_bytes_received > self._limit:  # in chunks, or the head would have told
                self.error = RequestEntityTooLarge(f"the body is larger than {self._limit} bytes")
            elif time.monotonic() - self._began > within_s:
                self.error = LateRequest(f"it did not arrive within {within_s:g} s")
            self.completed = self.error is not None
        return taken

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # Python reads no integer of 5,000 digits
            raise ParsingError("Content-Length is invalid") from error
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length and Transfer-Encoding contradict each other")
        self._limit = self.adj.body_limit(self.path, self.headers.get("AUTHORIZATION", ""))
        if self.content_length > self._limit or (self.chunked and self._limit == 0):
            # The application refuses it by its head. What follows is not the next request.
            self.body_rcv, self.chunked, self.content_length = None, False, 0
            self.headers["CONNECTION"] = "close"
        if self.body_rcv is None:
            self.expect_continue = False


class Refusal(ErrorTask):
    """The answer to a request that cannot reach the application: JSON, as all our refusals."""

    request: Request  # type: ignore[assignment]  # types-waitress calls it an Error
    response_headers: list[tuple[str, str]]

    def execute(self) -> None:
        error = self.request.error
        assert error is not None  # waitress makes this task for no other reason
        body = orjson.dumps({"error": f"{error.reason}: {error.body.rstrip('.')}."})
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.content_length = len(body)
        self.set_close_on_finish()
        self.write(body)


class Connection(HTTPChannel):
    parser_class = Request
    error_task_class = Refusal


class Server(TcpWSGIServer):
    """Serves ``app`` on a socket that is bound already, until SIGTERM.

    Args:
        tick: called every second by the loop.
    """

    channel_class = Connection
    _map: dict[int, Any]  # wasyncore's: all that its loop waits for
    active_channels: dict[int, HTTPChannel]  # type: ignore[assignment]  # types-waitress: one

    def __init__(
        self,
        app: WSGIApplication,
        listener: socket.socket,
        limit: BodyLimit,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        threads = ThreadedTaskDispatcher()
        threads.set_thread_count(THREADS)
        super().__init__(
            app,
            _sock=listener,
            dispatcher=threads,
            adj=Limits(limit),
            sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
            bind_socket=False,
        )
        self._tick = tick
        self._stopped = False
        self._drained_by: float | None = None

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._stop)
        super().run()  # threads that were at work have ended
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.close()
        deadline = time.monotonic() + SEND_WITHIN_S
        while time.monotonic() < deadline and any(
            connection.total_outbufs_len for connection in self.active_channels.values()
        ):
            self.asyncore.loop(timeout=0.1, map=self._map, use_poll=True, count=1)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        # An exception here would leave waitress' buffers in the middle of a read, and an answer
        # would never be sent to its end. The loop asks ``readable`` at each turn.
        self._stopped = True
        self.pull_trigger()

    def readable(self) -> bool:
        if self._stopped:
            if self._is_drained():
                raise SystemExit
            return False  # who asks now by a proxy gets to another replica
        # waitress goes by the wall clock: set back, it would wait until it has caught up.
        now = time.time()
        if self.next_channel_cleanup > now + self.adj.cleanup_interval:
            self.next_channel_cleanup = 0
            for connection in self.active_channels.values():
                connection.last_activity = min(connection.last_activity, now)
        return bool(super().readable())

    def _is_drained(self) -> bool:
        """Whether nobody waits for an answer any more, or too long."""
        now = time.monotonic()
        if self._drained_by is None:
            self._drained_by = now + DRAIN_S
            self.pull_trigger()  # what has arrived meanwhile is read before anything is closed
            return False
        waiting = False
        for connection in list(self.active_channels.values()):
            if connection.requests or connection.request or connection.total_outbufs_len:
                waiting = True
            else:
                connection.handle_close()
        return not waiting or now > self._drained_by

    def handle_close(self) -> None:
        """The parent has ended the socket, and our own SIGTERM is on its way."""

    def maintenance(self, now: int) -> None:
        self._tick()
        super().maintenance(now)
        for connection in self.active_channels.values():
            if connection.will_close and connection.socket is not None:
                # waitress closes it once it can be written to: never, if the client reads nothing.
                with suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)
