"""The web as processes: two that serve, and a parent that holds their socket and replaces them."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from types import FrameType

from backend.errors import BackendError
from backend.process_group import die_with_parent
from backend.settings import Settings
from backend.web.latency import Latencies

log = logging.getLogger(__name__)

PROCESSES = 2
"""So that a prediction in one (seconds) never delays /health and /setup in the other."""

STOP_S = 8.0
"""Open requests have ``DRAIN_S``, those that a thread is at work on the rest of it."""

HANGS_S = 120.0
"""A process whose loop has not turned for so long answers nobody any more and is replaced."""

SWITCH_S = 0.0005
"""How long one thread of a process may keep another from running Python. With Python's own 5 ms a
short request waits behind those that read bodies or write regions: the slowest of a hundred
webhooks took 64 ms, and 51 ms with this."""

FORGET_EVERY_S = 3600.0
"""Between two looks for what a project left here that was purged on another host."""

BIND_WITHIN_S = 5.0
"""The processes of a parent that was killed may hold the port for a moment."""

SHORT_LIFE_S = 10.0
"""A process that ends by itself so soon would end so again: the parent ends as well."""


def serve(settings: Settings) -> None:
    """Serve Label Studio's protocol at HOST:PORT until SIGTERM or SIGINT.

    Raises:
        BackendError: the port is taken, or the processes cannot start.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    children: list[_Child] = []
    latencies = Latencies(PROCESSES)
    with _listener(settings.host, settings.port) as listener:
        try:
            children += (_Child(settings, listener, latencies, place) for place in range(PROCESSES))
            log.info("serving at %s:%d", settings.host, settings.port)
            log.info(settings.describe_dashboard())
            while True:
                wait([child.process.sentinel for child in children], timeout=HANGS_S / 10)
                for place, child in enumerate(children):
                    if child.ended():
                        children[place] = _Child(settings, listener, latencies, place)
        finally:
            _stop([child.process for child in children], listener)


class _Child:
    """A process that serves, as its parent sees it; ``place`` is its number among them."""

    def __init__(
        self, settings: Settings, listener: socket.socket, latencies: Latencies, place: int
    ) -> None:
        context = multiprocessing.get_context("fork")
        self._began = time.monotonic()
        self._turned = context.Value("d", self._began, lock=False)  # when its loop last turned
        self.process = context.Process(
            target=_serve_in_child,
            args=(settings, listener, os.getpid(), self._turned, latencies, place),
        )
        self.process.start()

    def ended(self) -> bool:
        """Whether it has ended, by itself or because it hung.

        Raises:
            BackendError: by itself, and so soon that another one would end so too.
        """
        if self.process.is_alive():
            silent_s = time.monotonic() - self._turned.value
            if silent_s < HANGS_S:
                return False
            log.warning("a process of the web has hung for %.0f s and is replaced", silent_s)
            self.process.kill()
            self.process.join()
            return True
        lived_s, code = time.monotonic() - self._began, self.process.exitcode or 0
        log.warning("a process of the web ended with %d after %.0f s", code, lived_s)
        if code >= 0 and lived_s < SHORT_LIFE_S:  # below 0 somebody killed it
            raise BackendError("The web cannot start; the lines above say why.")
        return True


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    deadline = time.monotonic() + BIND_WITHIN_S
    while True:
        try:
            return socket.create_server((host, port), family=family, dualstack_ipv6=both)
        except OSError as error:
            if time.monotonic() > deadline:
                raise BackendError(
                    f"The web cannot listen on PORT {port} of HOST {host} ({error.strerror}): stop "
                    "the program that does, or set others."
                ) from error
            time.sleep(0.2)


def _serve_in_child(
    settings: Settings,
    listener: socket.socket,
    parent_pid: int,
    turned: Synchronized[float],
    latencies: Latencies,
    place: int,
) -> None:
    die_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C the parent sends SIGTERM
    # Imported here, so that the parent stays small and starts as fast as it can.
    from backend.actions.purge import remove_strays
    from backend.ledger import Ledger
    from backend.ledger.agreement import facts_of
    from backend.ledger.heartbeat import Heartbeat
    from backend.web.app import body_limit, build_app
    from backend.web.server import Server

    sys.setswitchinterval(SWITCH_S)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # waiting for a thread is ordinary
    app = build_app(settings, latencies.of_process(place))
    ledger = Ledger(settings.ledger_url)
    gather = partial(facts_of, settings, "web")
    heartbeat = Heartbeat(ledger, "web", settings.backend_url, gather)
    heartbeat.in_background()

    def forget_purged() -> None:
        while True:
            try:
                remove_strays(settings, ledger)
            except BackendError as error:
                log.warning("what is kept here of purged projects goes later: %s", error)
            time.sleep(FORGET_EVERY_S)

    if place == 0:
        threading.Thread(target=forget_purged, name="forget", daemon=True).start()

    # What was loaded stays. Looking through all of it for garbage stops every request for 0.13 s.
    gc.collect()
    gc.freeze()

    def tick() -> None:
        turned.value = time.monotonic()
        if os.getppid() != parent_pid:  # not every system ends children with their parent
            sys.exit()

    Server(app, listener, body_limit(settings), tick).run()
    heartbeat.end()


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit()


def _stop(children: list[BaseProcess], listener: socket.socket) -> None:
    for child in children:
        child.terminate()
    with suppress(OSError):  # not every system ends a socket that only listens
        listener.shutdown(socket.SHUT_RDWR)  # refused at once, new connections go elsewhere
    deadline = time.monotonic() + STOP_S
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
        child.kill()
