"""Checks of our web at BACKEND_URL: alive, quick, ours, and behind its password."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import requests

from backend.insight.findings.finding import Finding, Installation, error, ok, warning
from backend.label_studio.client import by_proxy, no_auth, session_for
from backend.label_studio.limited_session import limited
from backend.settings import Settings

HEALTH_LIMIT_S = 1.0
"""Label Studio calls a backend that answers /health later than this "Disconnected"."""

HEALTH_TRIES = 3
"""As often as Label Studio itself asks."""

PROBE_TIMEOUT_S = 5.0
"""Long enough to measure how slow a slow web is."""


def check_web(installation: Installation) -> Iterator[Finding]:
    """Whether our web answers in time, and only to our password."""
    settings = installation.work.settings
    url = settings.backend_url
    try:
        slowest_s, answer = _slowest_health(url)
        if answer.status_code == 200 and _field(answer, "status") == "UP":
            yield _speed(url, slowest_s)
            yield from _password(settings)
        else:
            yield error(
                "web-not-ours",
                f"{url}/health answered {answer.status_code}, which is not our web's health.",
                "Set BACKEND_URL to the address of `python -m backend serve`.",
            )
    except requests.RequestException as cause:
        yield _unreachable(url, cause, installation.reached)


def check_dashboard(installation: Installation) -> Iterator[Finding]:
    """Where the dashboard is, or how to switch it on."""
    yield ok("dashboard", installation.work.settings.describe_dashboard())


def _unreachable(url: str, cause: requests.RequestException, reached: bool) -> Finding:
    what = f"No web answers at {url} from here ({type(cause).__name__}{by_proxy(url)})."
    if reached:
        fix = "Label Studio reaches it, so this matters only if it should answer here too."
        return warning("web-unreachable", what, fix)
    fix = "Start it (`make run` or `python -m backend serve`), or set BACKEND_URL right."
    return error("web-unreachable", what, fix)


def _get(url: str, auth: Any) -> requests.Response:
    with limited(PROBE_TIMEOUT_S), session_for(url) as session:
        return session.get(url, auth=auth, timeout=PROBE_TIMEOUT_S, allow_redirects=False)


def _slowest_health(url: str) -> tuple[float, requests.Response]:
    slowest_s = 0.0
    for _ in range(HEALTH_TRIES):
        began = time.monotonic()
        answer = _get(f"{url}/health", no_auth)
        slowest_s = max(slowest_s, time.monotonic() - began)
    return slowest_s, answer


def _speed(url: str, slowest_s: float) -> Finding:
    measured = f"{url} answers /health in {slowest_s * 1000:.0f} ms (slowest of {HEALTH_TRIES})"
    if slowest_s > HEALTH_LIMIT_S:
        return error(
            "web-slow",
            f"{measured}; Label Studio waits {HEALTH_LIMIT_S:g} s, then shows Disconnected and "
            "asks for no predictions.",
            "Give the web more CPU, or start fewer WORKERS beside it.",
        )
    if slowest_s > HEALTH_LIMIT_S / 2:
        fix = "Start fewer WORKERS beside it, before it becomes too slow."
        return warning("web-slow", f"{measured}, half of Label Studio's limit.", fix)
    return ok("web", f"{measured}.")


def _password(settings: Settings) -> Iterator[Finding]:
    url = f"{settings.backend_url}/versions"
    mine = (settings.basic_auth_user, settings.basic_auth_pass.get_secret_value())
    with_ours = _get(url, mine).status_code
    without = _get(url, no_auth).status_code
    if with_ours in (401, 403, 429):
        yield error(
            "web-password",
            f"The web refuses our own user and password ({with_ours}): it runs with others.",
            "Start `serve` with the same BASIC_AUTH_USER, BASIC_AUTH_PASS and DATA_DIR as this "
            "command.",
        )
    elif with_ours != 200:
        yield error(
            "web-failing",
            f"The web answered {with_ours} to GET /versions.",
            "Its log says why; is its ledger the same as ours?",
        )
    if without == 200:
        yield error(
            "web-unprotected",
            "The web answers without a password.",
            "A proxy before it adds one or removes it: let Basic auth through unchanged.",
        )


def _field(answer: requests.Response, name: str) -> object:
    try:
        body = answer.json()
    except requests.JSONDecodeError:
        return None
    return body.get(name) if isinstance(body, dict) else None
