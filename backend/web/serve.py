"""gunicorn's command line for the web: the same for `make run`, the image and the tests."""

from __future__ import annotations

import sys

from backend.settings import Settings

CONNECTIONS = 400
"""Of one process at once, idle ones too; with its files they stay below the usual 1,024."""

WEB_WORKERS = 2
"""Two, so that a look of one (seconds) never holds up /health and /setup of the other."""

THREADS = 8
"""Enough for webhooks and /setup to pass while one thread looks."""


def web_command(settings: Settings) -> list[str]:
    """argv that serves ``_wsgi:app`` at HOST:PORT."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return [
        sys.executable,
        "-m",
        "gunicorn",
        "--bind",
        f"{host}:{settings.port}",
        "--workers",
        str(WEB_WORKERS),
        "--worker-class",
        "backend.web.web_worker.WebWorker",
        "--threads",
        str(THREADS),
        "--worker-connections",
        str(CONNECTIONS),
        # Label Studio waits 100 s for /predict; ours ends at 80 s.
        "--timeout",
        "120",
        "--graceful-timeout",
        "5",
        "--keep-alive",
        "5",
        # The heartbeat file of gunicorn's workers: on a disk it can stall them.
        "--worker-tmp-dir",
        "/dev/shm" if sys.platform == "linux" else "/tmp",  # noqa: S108 - holds no data
        # Nobody's headers may say by which path, scheme or address a request came.
        "--forwarded-allow-ips",
        "",
        # All gunicorns of one user would share one.
        "--no-control-socket",
        "_wsgi:app",
    ]
