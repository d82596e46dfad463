"""Checks of Label Studio itself: its address, our token, its version and its clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import requests

from backend.errors import BadSettings, StudioRefused, StudioUnreachable
from backend.insight.findings.finding import Finding, error, ok, warning
from backend.label_studio.bulk import Studio
from backend.label_studio.client import by_proxy, no_auth, session_for
from backend.label_studio.control import control_of
from backend.workplace import Workplace

TESTED = "1.23.2"
"""The Label Studio that every test here runs against; no other was tried."""

CLOCK_SKEW_S = 60.0
"""Past this, access tokens (300 s) and the times of events against annotations mislead."""

LOGIN_PAGE_TIMEOUT_S = 10.0


def check_label_studio(work: Workplace) -> Iterator[Finding]:
    """Whether Label Studio answers, and accepts our token."""
    try:
        studio = work.studio
        if proxy := by_proxy(studio.url):
            yield ok("proxy", f"Label Studio at {studio.url} is asked{proxy}.")
        token = _token(work, studio)
        if token.severity == "ok":  # every other request needs it
            yield from _version_and_clock(studio)
            yield from signup_findings(studio.url)
        yield token
    except BadSettings as unset:
        yield error("studio-unset", "No Label Studio is set.", str(unset))
    except StudioUnreachable as cause:
        yield error(
            "studio-unreachable",
            str(cause),
            "Start Label Studio, or set LABEL_STUDIO_URL to its address as seen from here.",
        )
    except StudioRefused as cause:
        yield error(
            "studio-refused",
            str(cause),
            "Check that LABEL_STUDIO_URL is the address of Label Studio itself, not of a proxy "
            "or another service.",
        )


def _version_and_clock(studio: Studio) -> Iterator[Finding]:
    began = time.time()
    with studio.open_stream("/health") as answer:
        date = answer.headers.get("Date", "")
    ours = (began + time.time()) / 2
    yield release_finding(control_of(studio).versions.get().release, studio.url)
    yield from clock_findings(date, ours)


def release_finding(release: str, url: str) -> Finding:
    """Whether this was tried with that release of Label Studio."""
    known = _minor(TESTED)
    try:
        minor = _minor(release)
    except ValueError:
        return warning(
            "studio-version-unknown",
            f"Label Studio calls its version {release[:40]!r}, which is no release; the one that "
            f"was tested is {TESTED}.",
            f"Use Label Studio {TESTED} if you can.",
        )
    if minor == known:
        tested = (
            "all tests ran with it"
            if release == TESTED
            else f"the tests ran with {TESTED}, and no difference between the two is known"
        )
        return ok("studio", f"Label Studio {release} answers at {url}; {tested}.")
    if minor < known:
        return warning(
            "studio-version-old",
            f"Label Studio {release} is older than {TESTED}, the only one that was tested: nothing "
            "is known of it.",
            f"Upgrade Label Studio to {TESTED}.",
        )
    return warning(
        "studio-version-unknown",
        f"Label Studio {release} is newer than {TESTED}, the only one that was tested: nothing is "
        "known of it.",
        "Check that pre-annotations and the queue's order appear as they should.",
    )


def _minor(release: str) -> tuple[int, int]:
    major, minor = (int(part) for part in release.split(".")[:2])
    return major, minor


def clock_findings(date: str, ours: float) -> Iterator[Finding]:
    """Label Studio's ``Date`` header against our clock, unix seconds."""
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return  # a proxy may leave the header out; that is no finding
    skew_s = theirs - ours
    if abs(skew_s) > CLOCK_SKEW_S:
        way = "ahead of" if skew_s > 0 else "behind"
        yield warning(
            "clock-skew",
            f"Label Studio's clock is {abs(skew_s):.0f} s {way} ours.",
            "Let both machines keep time by NTP.",
        )


def signup_findings(url: str) -> Iterator[Finding]:
    """Whether anybody may make an account: the login page then offers it to a stranger."""
    with session_for(url) as session:
        try:
            page = session.get(f"{url}/user/login/", auth=no_auth, timeout=LOGIN_PAGE_TIMEOUT_S)
        except requests.RequestException:
            return  # a login page elsewhere, which this machine may not reach
    if "/user/signup" in page.text:
        yield warning(
            "signup-open",
            f"Everybody who reaches {url} can make an account there, and in the community edition "
            "every account sees every project.",
            "Start Label Studio with LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK=true, and look "
            "through its page Organization for accounts that you do not know.",
        )


def _token(work: Workplace, studio: Studio) -> Finding:
    api_key = work.settings.label_studio()[1]
    # A personal access token is a JWT: three parts with dots between.
    kind = "personal access token" if api_key.count(".") == 2 else "legacy token"
    try:
        user = studio.whoami()
    except StudioRefused as refused:
        if refused.studio_status not in (401, 403):
            raise
        what = f"Label Studio refuses our {kind} ({refused.studio_status})."
        return error("token-dead", what, str(refused))
    return ok("token", f"Our {kind} is that of {user.get('email', 'a user')}.")
