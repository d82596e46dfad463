"""The checks of Redis, the ledger and its disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from backend.insight.findings.examine import apply_fix
from backend.insight.findings.finding import Installation
from backend.insight.findings.storage import (
    check_disk,
    check_ledger,
    check_redis,
    disk_finding,
    eviction_finding,
    filesystem_findings,
)
from backend.workplace import Workplace
from tests.backend.insight.findings.fake_web import MakeSettings, codes, installation
from tests.backend.postgresql import PostgreSQL
from tests.live.harness.servers import free_port


@dataclass
class Mount:
    mountpoint: str
    fstype: str


@pytest.mark.parametrize(
    ("policy", "limit", "severity"),
    [
        ("noeviction", 100 << 20, "ok"),
        ("allkeys-lru", 0, "ok"),
        ("allkeys-lru", 100 << 20, "error"),
        ("volatile-ttl", 100 << 20, "error"),
    ],
)
def test_redis_may_not_throw_jobs_away(policy: str, limit: int, severity: str):
    found = eviction_finding({"maxmemory_policy": policy, "maxmemory": limit})
    assert found.severity == severity


def test_an_absent_redis_is_an_error(work: Workplace):
    assert codes(check_redis(Installation(work))) == {"redis-away": "error"}


def test_an_unset_redis_names_the_setting(make_settings: MakeSettings):
    (found,) = check_redis(installation(make_settings(redis_url=None)))
    assert found.code == "redis-unset"
    assert "REDIS_URL" in found.fix


def test_a_missing_ledger_is_made_by_the_fix_and_not_by_the_check(
    make_settings: MakeSettings,
):
    work = Workplace(make_settings())
    (found,) = check_ledger(work)
    assert (found.code, found.fixable) == ("ledger-schema", True)
    assert not work.settings.ledger_path.exists()
    assert "schema" in apply_fix(work, found)
    assert codes(check_ledger(work)) == {"ledger": "ok"}
    work.close()


def test_a_ledger_that_is_no_database_is_an_error(make_settings: MakeSettings):
    work = Workplace(make_settings())
    work.settings.ledger_path.write_bytes(b"no database at all" * 300)
    (found,) = check_ledger(work)
    assert (found.code, found.severity, found.fixable) == ("ledger", "error", False)
    work.close()


def test_a_ledger_on_postgresql_is_made_and_asked_there(
    make_settings: MakeSettings, postgresql: PostgreSQL
):
    work = Workplace(make_settings(ledger_url=postgresql.empty(), ledger_connections=2))
    (found,) = check_ledger(work)
    assert (found.code, found.fixable) == ("ledger-schema", True)
    apply_fix(work, found)
    (found,) = check_ledger(work)
    assert (found.code, found.severity) == ("ledger", "ok")
    assert "postgresql+psycopg://ledger@/empty " in found.what
    work.close()


def test_a_postgresql_that_does_not_answer_is_an_error(make_settings: MakeSettings):
    url = f"postgresql+psycopg://us:sesame@127.0.0.1:{free_port()}/ledger"
    work = Workplace(make_settings(ledger_url=url), busy_s=0.1)
    (found,) = check_ledger(work)
    assert (found.code, found.severity, found.fixable) == ("ledger", "error", False)
    assert "LEDGER.md" in found.fix
    assert "sesame" not in found.what + found.fix
    work.close()


def test_a_ledger_across_the_network_is_an_error(tmp_path: Path):
    mounts = [Mount("/", "ext4"), Mount(str(tmp_path), "nfs4"), Mount("/elsewhere", "cifs")]
    found = list(filesystem_findings(tmp_path / "ledger.sqlite3", mounts))
    assert [f.code for f in found] == ["ledger-on-network"]
    local = [Mount("/", "nfs4"), Mount(str(tmp_path), "ext4")]
    assert list(filesystem_findings(tmp_path / "ledger.sqlite3", local)) == []


@pytest.mark.parametrize(
    ("free", "severity"), [(200 << 20, "error"), (1 << 30, "warning"), (3 << 30, "ok")]
)
def test_a_disk_is_full_low_or_well(tmp_path: Path, free: int, severity: str):
    assert disk_finding(tmp_path, free).severity == severity


def test_the_disk_of_the_data_folder_is_measured(make_settings: MakeSettings):
    (found,) = check_disk(installation(make_settings()))
    assert found.code.startswith("disk")
