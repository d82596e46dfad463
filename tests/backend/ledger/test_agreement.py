"""What a process tells of itself, for hosts that must agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.ledger.agreement import facts_of, registry_id
from backend.settings import Settings
from tests.backend.workplaces import PASSWORD, make_settings

SECRET = "s" * 40


def host(folder: Path, **fields: Any) -> Settings:
    given = {"shared_secret": SECRET, "registry_url": str(folder.parent / "registry"), **fields}
    return make_settings(folder, **given)


def differing(one: Settings, other: Settings, role: str = "worker") -> set[str]:
    ours, theirs = facts_of(one, role), facts_of(other, role)
    return {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}


def test_two_hosts_that_are_set_up_alike_tell_the_same(tmp_path: Path) -> None:
    one, other = host(tmp_path / "one"), host(tmp_path / "other", backend_url="http://other:9090")
    assert differing(one, other) == set()
    assert differing(one, other, "web") == {"BACKEND_URL"}


def test_each_difference_is_told_under_its_name(tmp_path: Path) -> None:
    one = host(tmp_path / "one")
    assert differing(one, host(tmp_path / "a", network="unet", members=3)) == {"NETWORK", "MEMBERS"}
    assert differing(one, host(tmp_path / "b", basic_auth_pass="another-8731")) == {
        "BASIC_AUTH_PASS"
    }
    assert differing(one, host(tmp_path / "c", registry_url=str(tmp_path / "c" / "r"))) == {
        "registry"
    }
    # Without it each makes up its own, and the passwords' fingerprints differ with the key.
    assert differing(one, host(tmp_path / "d", shared_secret=None)) == {
        *("SHARED_SECRET", "BASIC_AUTH_PASS")
    }


def test_no_secret_is_told(tmp_path: Path) -> None:
    settings = host(tmp_path / "one", dashboard_pass="of-the-dashboard-8731")
    told = str(facts_of(settings, "web"))
    assert "DASHBOARD_PASS" in told
    assert not {word for word in (SECRET, PASSWORD, "of-the-dashboard-8731") if word in told}


def test_a_registry_is_named_once_and_says_nothing_where_it_cannot_be_reached(
    tmp_path: Path,
) -> None:
    first = registry_id(tmp_path / "one")
    assert len(first) == 16
    assert registry_id(tmp_path / "one") == first != registry_id(tmp_path / "other")
    (tmp_path / "file").touch()
    assert registry_id(tmp_path / "file") == ""


def test_weights_that_cannot_be_read_end_no_sign_of_life(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.touch()
    settings = host(tmp_path / "one", network="mine:net", network_weights=weights)
    weights.unlink()
    assert facts_of(settings, "worker")["NETWORK_WEIGHTS"] == (
        "not readable: No such file or directory"
    )
