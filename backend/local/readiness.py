"""Whether a server on this machine does its work by now."""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]  # it publishes no types
import redis
import requests

from backend.label_studio.client import session_for
from backend.label_studio.limited_session import limited

TIMEOUT_S = 2.0


def answers_http(url: str) -> bool:
    """Whether ``url`` answers 200."""
    try:
        with limited(TIMEOUT_S), session_for(url) as session:
            return session.get(url, timeout=TIMEOUT_S).status_code == 200
    except (requests.ConnectionError, requests.Timeout):
        return False


def answers_redis(url: str) -> bool:
    """Whether a Redis or Valkey answers there; not yet while it still reads its file."""
    try:
        with redis.Redis.from_url(url, socket_timeout=TIMEOUT_S) as client:
            return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        return False


def listens_on(pid: int, port: int) -> bool:
    """Whether this process or one of its children, and not another program, listens on ``port``."""
    try:
        leader = psutil.Process(pid)
        return any(
            link.status == psutil.CONN_LISTEN and link.laddr.port == port
            for process in (leader, *leader.children(recursive=True))
            for link in process.net_connections("inet")
        )
    except psutil.NoSuchProcess:
        return False
