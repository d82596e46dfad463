"""The doctor's look at what all projects share.

Label Studio, the web, Redis, the ledger, its disk, the workers. Nothing here changes anything.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol

import psutil  # type: ignore[import-untyped]  # it publishes no types
import requests
from redis.exceptions import AuthenticationError, RedisError
from sqlalchemy.exc import DatabaseError

from backend.errors import BadSettings, LedgerUnavailable, StudioRefused, StudioUnreachable
from backend.insight.finding import Finding
from backend.insight.status import SILENT_AFTER_S
from backend.label_studio.bulk import Studio
from backend.label_studio.client import no_auth
from backend.redis_queue import registered_workers
from backend.settings import Settings
from backend.workplace import Workplace

KNOWN_VERSION = (1, 23)
"""The Label Studio that every test here runs against."""

HEALTH_LIMIT_S = 1.0
"""Label Studio calls a backend that answers /health later than this "Disconnected"."""

HEALTH_TRIES = 3
"""As often as Label Studio itself asks."""

PROBE_TIMEOUT_S = 5.0
"""Long enough to measure how slow a slow web is."""

CLOCK_SKEW_S = 60.0
"""Past this, access tokens (300 s) and the times of events against annotations mislead."""

DISK_LOW = 2 * 2**30
DISK_FULL = 256 * 2**20
"""Bytes free in DATA_DIR. Examples of 500 labelled images are some 1 GiB, a version 50 MB."""

NETWORK_FILESYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "lustre"),
        *("glusterfs", "beegfs", "gpfs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs"),
        "fuse.rclone",
    }
)
"""Where SQLite's write-ahead log, which needs shared memory, is not safe (sqlite.org/wal.html)."""


def check_label_studio(work: Workplace) -> list[Finding]:
    """Address, token, version and clock."""
    try:
        studio = work.studio
    except BadSettings as error:
        return [_error("studio-unset", "No Label Studio is set.", str(error))]
    try:
        token = _token(work, studio)
        if token.severity == "error":
            return [token]  # a personal access token is needed for every other question
        began = time.time()
        with studio.open_stream("/health") as answer:
            date = answer.headers.get("Date", "")
        ours = (began + time.time()) / 2
        findings = [
            check_version(studio.version(), studio.url),
            *check_clock(date, ours),
            token,
        ]
    except StudioUnreachable as error:
        return [
            _error(
                "studio-unreachable",
                str(error),
                "Start Label Studio, or set LABEL_STUDIO_URL to its address as seen from here.",
            )
        ]
    except StudioRefused as error:
        return [
            _error(
                "studio-refused",
                str(error),
                "See that LABEL_STUDIO_URL is the address of Label Studio itself, not of a proxy "
                "or another service.",
            )
        ]
    return findings


def check_version(release: str, url: str) -> Finding:
    """Whether this release of Label Studio is one that we were tried with."""
    known = ".".join(map(str, KNOWN_VERSION))
    try:
        major, minor = (int(part) for part in release.split(".")[:2])
    except ValueError:
        major = minor = -1
    if (major, minor) == KNOWN_VERSION:
        return _ok("studio", f"Label Studio {release} answers at {url}.")
    if (major, minor) == (-1, -1):
        what = f"Label Studio calls its version {release[:40]!r}, which is no release."
        return _warning("studio-version-unknown", what, f"Use a release {known}.x if you can.")
    if (major, minor) < KNOWN_VERSION:
        return _warning(
            "studio-version-old",
            f"Label Studio {release} is older than {known}, the release that this is made for.",
            f"Upgrade Label Studio to {known}.",
        )
    return _warning(
        "studio-version-unknown",
        f"Label Studio {release} is newer than {known}, the release that this was tried with.",
        "Look whether pre-annotations and the queue's order appear as they should.",
    )


def check_clock(date: str, ours: float) -> Iterator[Finding]:
    """Label Studio's ``Date`` header against our clock, unix seconds."""
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return  # a proxy may leave the header out; that is no finding
    skew_s = theirs - ours
    if abs(skew_s) > CLOCK_SKEW_S:
        way = "ahead of" if skew_s > 0 else "behind"
        yield _warning(
            "clock-skew",
            f"Label Studio's clock is {abs(skew_s):.0f} s {way} ours.",
            "Let both machines keep time by NTP.",
        )


def _token(work: Workplace, studio: Studio) -> Finding:
    api_key = work.settings.label_studio()[1]
    # A personal access token is a JWT: three parts with dots between.
    kind = "personal access token" if api_key.count(".") == 2 else "legacy token"
    try:
        user = studio.whoami()
    except StudioRefused as error:
        if error.studio_status not in (401, 403):
            raise
        what = f"Label Studio refuses our {kind} ({error.studio_status})."
        return _error("token-dead", what, str(error))
    return _ok("token", f"Our {kind} is that of {user.get('email', 'a user')}.")


# The web


def check_web(settings: Settings, *, reached: bool) -> list[Finding]:
    """Our web at BACKEND_URL: alive, quick, ours, and behind its password.

    Args:
        reached: Label Studio reports a connection as Connected, so that an address which only
            it can resolve (a compose network's) is no error.
    """
    url = settings.backend_url
    try:
        slowest, answer = _slowest_health(url)
        if answer.status_code != 200 or _field(answer, "status") != "UP":
            return [
                _error(
                    "web-not-ours",
                    f"{url}/health answered {answer.status_code} with something else than our "
                    "web's health.",
                    "Set BACKEND_URL to the address of `python -m backend serve`.",
                )
            ]
        return [_speed(url, slowest), *_password(settings)]
    except requests.RequestException as error:
        what = f"No web answers at {url} from here ({type(error).__name__})."
        if reached:
            mend = "Label Studio reaches it, so this matters only if it should answer here too."
            return [_warning("web-unreachable", what, mend)]
        mend = "Start it (`make run` or `python -m backend serve`), or set BACKEND_URL right."
        return [_error("web-unreachable", what, mend)]


def _get(url: str, auth: Any) -> requests.Response:
    return requests.get(url, auth=auth, timeout=PROBE_TIMEOUT_S, allow_redirects=False)


def _slowest_health(url: str) -> tuple[float, requests.Response]:
    slowest = 0.0
    for _ in range(HEALTH_TRIES):
        began = time.monotonic()
        answer = _get(f"{url}/health", no_auth)
        slowest = max(slowest, time.monotonic() - began)
    return slowest, answer


def _speed(url: str, slowest_s: float) -> Finding:
    measured = f"{url} answers /health in {slowest_s * 1000:.0f} ms (slowest of {HEALTH_TRIES})"
    if slowest_s > HEALTH_LIMIT_S:
        return _error(
            "web-slow",
            f"{measured}; Label Studio waits {HEALTH_LIMIT_S:g} s, then shows Disconnected and "
            "asks for no predictions.",
            "Give the web more CPU, or start fewer WORKERS beside it.",
        )
    if slowest_s > HEALTH_LIMIT_S / 2:
        mend = "Start fewer WORKERS beside it, before it becomes too slow."
        return _warning("web-slow", f"{measured}, half of Label Studio's limit.", mend)
    return _ok("web", f"{measured}.")


def _password(settings: Settings) -> Iterator[Finding]:
    url = f"{settings.backend_url}/versions"
    mine = (settings.basic_auth_user, settings.basic_auth_pass.get_secret_value())
    with_ours = _get(url, mine).status_code
    without = _get(url, no_auth).status_code
    if with_ours in (401, 403, 429):
        yield _error(
            "web-password",
            f"The web refuses our own user and password ({with_ours}): it runs with others.",
            "Start `serve` with the same BASIC_AUTH_USER, BASIC_AUTH_PASS and DATA_DIR as this "
            "command.",
        )
    elif with_ours != 200:
        yield _error(
            "web-failing",
            f"The web answered {with_ours} to GET /versions.",
            "Its log says why; is its ledger the same as ours?",
        )
    if without == 200:
        yield _error(
            "web-unprotected",
            "The web answers without a password.",
            "Something before it adds one or takes it away: let Basic auth through unchanged.",
        )


def _field(answer: requests.Response, name: str) -> object:
    try:
        body = answer.json()
    except requests.JSONDecodeError:
        return None
    return body.get(name) if isinstance(body, dict) else None


# Redis


def check_redis(work: Workplace) -> list[Finding]:
    """Whether jobs can be queued, and stay there."""
    try:
        memory = work.redis.info("memory")
    except BadSettings as error:
        return [_error("redis-unset", "No Redis is set.", str(error))]
    except AuthenticationError:
        return [
            _error(
                "redis-password",
                "Redis refuses the user or password in REDIS_URL.",
                "Set REDIS_URL with the right ones, as redis://user:password@host:6379/0.",
            )
        ]
    except RedisError as error:
        return [
            _error(
                "redis-away",
                f"Redis does not answer ({type(error).__name__}): no job can start.",
                "Start it (`make run` starts its own), or set REDIS_URL right.",
            )
        ]
    return [check_eviction(memory)]


def check_eviction(memory: dict[str, Any]) -> Finding:
    """Whether Redis may throw jobs away.

    Args:
        memory: Redis' ``INFO memory``.
    """
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    limit = int(memory.get("maxmemory", 0))
    if policy != "noeviction" and limit > 0:
        return _error(
            "redis-evicts",
            f"Redis throws keys away when it is full (maxmemory-policy {policy}, maxmemory "
            f"{limit / 2**20:.0f} MiB): jobs can vanish.",
            "Set maxmemory-policy to noeviction, or give us a Redis of our own.",
        )
    return _ok("redis", "Redis answers, and throws no job away.")


# The ledger and its disk


def check_ledger(work: Workplace) -> list[Finding]:
    """Whether the ledger is there, of this release, and on a disk that SQLite can trust."""
    path = work.settings.ledger_path
    if not path.exists():
        return [
            _error(
                "ledger-schema",
                f"There is no ledger at {path} yet.",
                "Run `make run`, or `python -m backend migrate`.",
                fixable=True,
            )
        ]
    try:
        work.ledger.check_schema()
    except LedgerUnavailable as error:
        older = "this release needs" in str(error)
        mend = "Run `python -m backend migrate`." if older else "The sentence says what to do."
        return [
            _error("ledger-schema" if older else "ledger", str(error), mend, fixable=older),
            *check_filesystem(path),
        ]
    except DatabaseError as error:
        return [
            _error(
                "ledger",
                f"The ledger at {path} cannot be read ({error.orig}).",
                "Restore it from a backup, or move it away: `connect` and a round make a new one.",
            )
        ]
    return [_ok("ledger", f"The ledger at {path} is sound."), *check_filesystem(path)]


class Mount(Protocol):
    """A line of the mount table."""

    mountpoint: str
    fstype: str


def check_filesystem(path: Path, mounts: Iterable[Mount] | None = None) -> Iterator[Finding]:
    """A ledger across the network is damaged sooner or later."""
    table = psutil.disk_partitions(all=True) if mounts is None else mounts
    where = path.resolve()
    over = [m for m in table if where.is_relative_to(m.mountpoint)]
    if not over:
        return
    nearest = max(over, key=lambda m: len(m.mountpoint))
    if nearest.fstype.lower() in NETWORK_FILESYSTEMS:
        yield _error(
            "ledger-on-network",
            f"The ledger lies on {nearest.mountpoint}, a network filesystem ({nearest.fstype}); "
            "SQLite loses data there.",
            "Set LEDGER_URL or DATA_DIR to a folder on a local disk.",
        )


def check_disk(data_dir: Path, free: int | None = None) -> Finding:
    """Room for examples and versions.

    Args:
        free: bytes; measured unless given.
    """
    if free is None:
        free = shutil.disk_usage(data_dir).free
    what = f"{free / 2**30:.1f} GiB are free in {data_dir}"
    mend = "Make room, or disconnect old projects with --purge."
    if free < DISK_FULL:
        return _error("disk-full", f"Only {what}: rounds will fail.", mend)
    if free < DISK_LOW:
        return _warning("disk-low", f"Only {what}.", mend)
    return _ok("disk", f"{what}.")


# Workers


def check_workers(work: Workplace) -> list[Finding]:
    """Whether somebody will run the jobs; by their signs of life in the ledger and in Redis."""
    now = time.time()
    seen = [p for p in work.ledger.processes.all() if p.role == "worker"]
    silent_s = [now - p.seen_at for p in seen]
    alive = sum(s < SILENT_AFTER_S for s in silent_s)
    if not alive:
        last = f"; the last was seen {min(silent_s):.0f} s ago" if silent_s else ""
        return [
            _error(
                "workers-silent",
                f"No worker is alive{last}: nothing trains and nothing is ranked.",
                "Start `make run` or `python -m backend worker`.",
            )
        ]
    found = [_ok("workers", f"{alive} worker processes are alive.")]
    if alive < len(seen):
        found = [
            _warning(
                "workers-silent",
                f"{len(seen) - alive} of {len(seen)} worker processes are silent.",
                "Look at their log; an ended one leaves this list after two minutes to an hour.",
            )
        ]
    return [*found, *_elsewhere(work)]


def _elsewhere(work: Workplace) -> Iterator[Finding]:
    """Workers that share our ledger but not our Redis never see what the web queues."""
    try:
        listening = registered_workers(work.redis)
    except (RedisError, BadSettings):
        return  # check_redis says it
    if not listening:
        yield _warning(
            "workers-elsewhere",
            "Workers are alive by the ledger, but none is registered in our Redis.",
            "Give workers the same REDIS_URL as this command; just after a start, ask again.",
        )


# Findings of no project


def _error(code: str, what: str, mend: str, *, fixable: bool = False) -> Finding:
    return Finding(code, "error", None, what, mend, fixable)


def _warning(code: str, what: str, mend: str) -> Finding:
    return Finding(code, "warning", None, what, mend)


def _ok(code: str, what: str) -> Finding:
    return Finding(code, "ok", None, what)
