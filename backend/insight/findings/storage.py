"""Checks of Redis, the ledger, the registry and the disk of DATA_DIR."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil  # type: ignore[import-untyped]  # it publishes no types
from redis.exceptions import AuthenticationError, RedisError

from backend.errors import BadSettings, LedgerOutdated, LedgerUnavailable
from backend.insight.findings.finding import Finding, Fix, Installation, error, ok, warning
from backend.ledger import upgrade
from backend.ledger.engine import shown_url
from backend.workplace import Workplace
from training.committee.store.store import StoreUnavailable

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


def check_redis(installation: Installation) -> Iterator[Finding]:
    """Whether jobs can be queued, and stay there."""
    try:
        memory = installation.work.redis.info("memory")
    except BadSettings as unset:
        yield error("redis-unset", "No Redis is set.", str(unset))
    except AuthenticationError:
        yield error(
            "redis-password",
            "Redis refuses the user or password in REDIS_URL.",
            "Set REDIS_URL with the right ones, as redis://user:password@host:6379/0.",
        )
    except RedisError as cause:
        yield error(
            "redis-away",
            f"Redis does not answer ({type(cause).__name__}): no job can start.",
            "Start it (`make run` starts its own), or set REDIS_URL right.",
        )
    else:
        yield eviction_finding(memory)


def eviction_finding(memory: Mapping[str, Any]) -> Finding:
    """Whether Redis may throw jobs away.

    Args:
        memory: Redis' ``INFO memory``.
    """
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    limit = int(memory.get("maxmemory", 0))
    if policy != "noeviction" and limit > 0:
        return error(
            "redis-evicts",
            f"Redis throws keys away when it is full (maxmemory-policy {policy}, maxmemory "
            f"{limit / 2**20:.0f} MiB): jobs can vanish.",
            "Set maxmemory-policy to noeviction, or give us a Redis of our own.",
        )
    return ok("redis", "Redis answers, and throws no job away.")


def check_ledger(work: Workplace) -> Iterator[Finding]:
    """Whether the ledger exists, is of this release, and is where its database can trust it."""
    path = work.settings.ledger_path
    where = shown_url(work.ledger.url) if path is None else path
    if path is not None and not path.exists():
        yield error(
            "ledger-schema",
            f"There is no ledger at {path} yet.",
            "Run `make run`, or `python -m backend migrate`.",
            fixable=True,
        )
        return
    try:
        work.ledger.check_schema()
    except LedgerOutdated as cause:
        yield error("ledger-schema", str(cause), "Run `python -m backend migrate`.", fixable=True)
    except LedgerUnavailable as cause:
        damaged = (
            "If its file is damaged, restore it from a backup, or move it away: `connect` and a "
            "round make a new one."
        )
        yield error("ledger", str(cause), damaged if path is not None else "See docs/LEDGER.md.")
    else:
        yield ok("ledger", f"The ledger at {where} is sound.")
    if path is not None:
        yield from filesystem_findings(path)


def check_registry(installation: Installation) -> Iterator[Finding]:
    """Whether versions can be written, and read back; the file that tries it is removed."""
    store = installation.work.store
    try:
        store.check()
    except StoreUnavailable as cause:
        yield error("registry", str(cause), "See docs/REGISTRY.md.")
    except OSError as cause:
        yield error(
            "registry",
            f"The registry {store.url} cannot be written ({cause.strerror}).",
            "Let our user write there, or set REGISTRY_URL to a folder that can be written.",
        )
    else:
        yield ok("registry", f"The registry {store.url} can be read and written.")


class Mount(Protocol):
    """A line of the mount table."""

    mountpoint: str
    fstype: str


def filesystem_findings(path: Path, mounts: Iterable[Mount] | None = None) -> Iterator[Finding]:
    """A ledger across the network is damaged sooner or later."""
    table = psutil.disk_partitions(all=True) if mounts is None else mounts
    where = path.resolve()
    over = [mount for mount in table if where.is_relative_to(mount.mountpoint)]
    if not over:
        return
    nearest = max(over, key=lambda mount: len(mount.mountpoint))
    if nearest.fstype.lower() in NETWORK_FILESYSTEMS:
        yield error(
            "ledger-on-network",
            f"The ledger lies on {nearest.mountpoint}, a network filesystem ({nearest.fstype}); "
            "SQLite loses data there.",
            "Set LEDGER_URL or DATA_DIR to a folder on a local disk.",
        )


def check_disk(installation: Installation) -> Iterator[Finding]:
    """Room for examples and versions."""
    data_dir = installation.work.settings.data_dir
    yield disk_finding(data_dir, shutil.disk_usage(data_dir).free)


def disk_finding(data_dir: Path, free: int) -> Finding:
    """Whether so many bytes are enough."""
    what = f"{free / 2**30:.1f} GiB are free in {data_dir}"
    fix = "Make room, or disconnect old projects with --purge."
    if free < DISK_FULL:
        return error("disk-full", f"Only {what}: rounds will fail.", fix)
    if free < DISK_LOW:
        return warning("disk-low", f"Only {what}.", fix)
    return ok("disk", f"{what}.")


def _migrate(work: Workplace, _studio_id: int) -> str:
    upgrade(work.settings.ledger_url)
    return "The ledger has this release's schema."


FIXES: Mapping[str, Fix] = {"ledger-schema": _migrate}
