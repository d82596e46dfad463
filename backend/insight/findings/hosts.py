"""Checks that the hosts of one installation agree, by what their processes told the ledger."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from backend.insight.findings.finding import Finding, Installation, error, ok
from backend.insight.status import SILENT_AFTER_S
from backend.ledger import ProcessRecord
from backend.ledger.agreement import SHARED
from backend.ledger.parts import LEASE_S

MOST_APART_S = LEASE_S / 6
"""Between a host's clock and the ledger's. A lease is renewed as often: by a clock that far behind
or ahead, parts are taken from workers that live, or stay for long with one that is gone."""

_GIVE = (
    "Give all hosts the same {}, by the environment or in SECRETS_DIR (docs/HOSTS.md), and start "
    "them again."
)

_WHAT: dict[str, tuple[str, str]] = {
    "code": (
        "run different code",
        "Install the same release on all, and start what runs an older one again.",
    ),
    "schema": (
        "read different schemas of the ledger",
        "Install the same release on all, and start what runs an older one again.",
    ),
    "registry": (
        "have different registries, so one host finds no version that another made",
        "Let REGISTRY_URL name the same object store on all, or a folder that is mounted on all "
        "(docs/HOSTS.md).",
    ),
    SHARED: (
        "have different secrets: webhooks that one made are refused by others, and compiled "
        "members are made anew",
        _GIVE.format(SHARED),
    ),
    "BASIC_AUTH_PASS": (
        "have different passwords of the web (BASIC_AUTH_USER and BASIC_AUTH_PASS)",
        _GIVE.format("ones"),
    ),
    "DASHBOARD_PASS": (
        "have different passwords of the dashboard (DASHBOARD_USER and DASHBOARD_PASS)",
        _GIVE.format("ones"),
    ),
    "NETWORK_WEIGHTS": (
        "start their networks from different files (NETWORK_WEIGHTS)",
        "Copy the same file to all hosts, and start them again.",
    ),
}
"""By the fact: what the hosts do, and what to do."""

_PASSWORDS = frozenset({"BASIC_AUTH_PASS", "DASHBOARD_PASS"})

_DIGESTS = _PASSWORDS | {SHARED, "NETWORK_WEIGHTS", "registry"}
"""Facts whose values tell a reader nothing: only which hosts have the same."""

_OLDER = "an older release"


def check_hosts(installation: Installation) -> Iterator[Finding]:
    """Whether all living processes work with the same, and go by the same time."""
    if not installation.ledger_sound:
        return
    since = time.time() - SILENT_AFTER_S
    alive = [each for each in installation.work.ledger.processes.all() if each.seen_at > since]
    found = [*disagreements(alive), *wrong_clocks(alive)]
    yield from found
    hosts = {each.host for each in alive}
    if not found and len(hosts) > 1:
        yield ok("hosts", f"{_listed(hosts)} work with the same, and their clocks agree.")


def disagreements(alive: Sequence[ProcessRecord]) -> Iterator[Finding]:
    """A finding for each fact that processes have differently."""
    names = dict.fromkeys(name for each in alive for name in each.facts or ())
    groups = {name: _hosts_by_value(alive, name) for name in names}
    apart = {name for name in names if len(groups[name]) > 1}
    if SHARED in apart:
        # Under different keys the same password has different fingerprints.
        apart -= _PASSWORDS
    yield from (_disagreement(name, groups[name]) for name in names if name in apart)


def _hosts_by_value(alive: Iterable[ProcessRecord], name: str) -> dict[str, set[str]]:
    """Who has what. A process that tells nothing of it disagrees with nobody, but for its code."""
    groups: dict[str, set[str]] = {}
    for each in alive:
        told = (each.facts or {}).get(name, _OLDER if name == "code" else None)
        if told is not None:
            groups.setdefault(told, set()).add(each.host)
    return groups


def _disagreement(name: str, groups: Mapping[str, set[str]]) -> Finding:
    alike = f"have different settings of {name}", f"Set {name} alike on all, and start them again."
    what, fix = _WHAT.get(name, alike)
    found = sorted(groups.items(), key=lambda group: sorted(group[1]))
    if name in _DIGESTS:
        sides = " apart from ".join(_listed(hosts) for _, hosts in found)
    else:
        sides = "; ".join(f"{value or 'none'} on {_listed(hosts)}" for value, hosts in found)
    who = "Processes of one host" if len(set.union(*groups.values())) == 1 else "Hosts"
    return error(f"hosts-{name.lower().replace('_', '-')}", f"{who} {what}: {sides}.", fix)


def wrong_clocks(alive: Iterable[ProcessRecord]) -> Iterator[Finding]:
    """A finding for each host whose clock is far from the ledger's."""
    ahead_s = {each.host: each.ahead_s for each in alive if each.ahead_s is not None}
    for host, seconds in sorted(ahead_s.items()):
        if abs(seconds) > MOST_APART_S:
            side = "ahead of" if seconds > 0 else "behind"
            yield error(
                "hosts-clock",
                f"The clock of {host} is {abs(seconds):.0f} s {side} the ledger's, so the leases "
                "of parts end too early or too late.",
                f"Let NTP set the clocks of {host} and of the ledger's server.",
            )


def _listed(names: Iterable[str]) -> str:
    *first, last = sorted(names)
    return f"{', '.join(first)} and {last}" if first else last
