"""The checks that hosts agree."""

from __future__ import annotations

import pytest

from backend.insight.findings.finding import Installation
from backend.insight.findings.hosts import check_hosts, wrong_clocks
from backend.workplace import Workplace
from tests.backend.insight.findings.fake_web import codes

FACTS = {"code": "0.2.0, 1234abcd", "NETWORK": "shared", "SHARED_SECRET": "aa", "registry": "r1"}


def beat(work: Workplace, host: str, role: str = "worker", **facts: str) -> None:
    work.ledger.processes.beat(f"{role}-{host}", role, "", host, 1, {**FACTS, **facts})


def test_hosts_that_agree_are_well_and_one_alone_is_not_spoken_of(work: Workplace) -> None:
    beat(work, "one")
    assert list(check_hosts(Installation(work))) == []
    beat(work, "other", "web", BACKEND_URL="http://web:9090")
    (found,) = check_hosts(Installation(work))
    assert (found.code, found.severity) == ("hosts", "ok")
    assert "one and other" in found.what


def test_each_disagreement_is_one_finding_with_the_hosts_and_what_to_do(work: Workplace) -> None:
    beat(work, "web-1", "web", registry="r2")
    beat(work, "gpu-1", NETWORK="lite0")
    beat(work, "gpu-2", NETWORK="lite0")
    found = {finding.code: finding for finding in check_hosts(Installation(work))}
    assert set(found) == {"hosts-network", "hosts-registry"}
    network = found["hosts-network"]
    assert "lite0 on gpu-1 and gpu-2; shared on web-1." in network.what
    assert network.fix == "Set NETWORK alike on all, and start them again."
    assert "gpu-1 and gpu-2 apart from web-1" in found["hosts-registry"].what


def test_different_secrets_are_one_finding_whatever_the_passwords_are(work: Workplace) -> None:
    beat(work, "one", SHARED_SECRET="bb", BASIC_AUTH_PASS="1")
    beat(work, "two", BASIC_AUTH_PASS="2")
    assert codes(check_hosts(Installation(work))) == {"hosts-shared-secret": "error"}
    beat(work, "one", BASIC_AUTH_PASS="1")
    assert codes(check_hosts(Installation(work))) == {"hosts-basic-auth-pass": "error"}


def test_a_process_that_still_runs_older_code_is_named(work: Workplace) -> None:
    beat(work, "one", "web")
    work.ledger.processes.beat("w", "worker", "", "one", 2)  # a release that told nothing
    (found,) = check_hosts(Installation(work))
    assert found.code == "hosts-code"
    assert found.what.startswith("Processes of one host run different code: ")
    assert "an older release on one" in found.what


@pytest.mark.parametrize(
    ("ahead_s", "said"), [(40.0, "40 s ahead of"), (-6.0, "6 s behind"), (1.0, None)]
)
def test_a_clock_that_is_far_from_the_ledgers_is_an_error(
    work: Workplace, ahead_s: float, said: str | None
) -> None:
    beat(work, "one")
    (process,) = work.ledger.processes.all()
    process.ahead_s = ahead_s
    found = list(wrong_clocks([process]))
    assert [finding.code for finding in found] == ["hosts-clock"] * (said is not None)
    assert all(f"The clock of one is {said} the ledger's" in finding.what for finding in found)


def test_hosts_that_are_silent_disagree_with_nobody(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.insight.findings.hosts.SILENT_AFTER_S", -1.0)
    beat(work, "one", NETWORK="lite0")
    beat(work, "other")
    assert list(check_hosts(Installation(work))) == []
