"""Which networks Label Studio is kept from."""

from __future__ import annotations

import ast
import ipaddress

import pytest

from backend.local.label_studio_guard import RESERVED, banned_networks, guard_environment
from tests.live.harness.servers import LABEL_STUDIO_ENV


def is_banned(address: str, url: str) -> bool:
    listed = guard_environment(url)["LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS"].split(",")
    # As Label Studio compares them.
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(net) for net in listed)


@pytest.mark.parametrize(
    ("url", "reached"),
    [
        ("http://127.0.0.1:9090", "127.0.0.1"),
        ("http://10.1.2.3:9090", "10.1.2.3"),
        ("http://[::1]:9090", "::1"),
        ("http://[fd00::7]", "fd00::7"),
    ],
)
def test_of_all_reserved_networks_one_address_is_left_out(url: str, reached: str) -> None:
    assert not is_banned(reached, url)
    for address in (
        *("127.0.0.2", "127.255.255.255", "10.1.2.2", "10.1.2.4", "192.168.1.1", "172.31.255.255"),
        *("169.254.169.254", "0.0.0.0", "::ffff:127.0.0.1", "fe80::1", "64:ff9b::1", "fd00::8"),
    ):
        assert is_banned(address, url)
    assert not is_banned("8.8.8.8", url)


def test_a_public_or_unknown_address_opens_nothing() -> None:
    assert banned_networks([ipaddress.ip_address("8.8.8.8")]) == banned_networks([])
    assert is_banned("127.0.0.1", "http://no-such-host.invalid:9090")


def test_a_name_opens_every_address_that_it_leads_to() -> None:
    assert not is_banned("127.0.0.1", "http://localhost:9090")


def test_what_is_left_out_is_one_address() -> None:
    whole = sum(ipaddress.ip_network(text).num_addresses for text in RESERVED)
    left = banned_networks([ipaddress.ip_address("172.30.90.10")])
    assert whole - sum(network.num_addresses for network in left) == 1


def test_the_networks_are_those_that_label_studio_bans_by_itself() -> None:
    (found,) = LABEL_STUDIO_ENV.glob("lib/python*/site-packages/label_studio/core/utils/io.py")
    (listed,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(found.read_text()))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "default_banned_subnets"
    )
    networks = {ipaddress.ip_network(text) for text in listed}
    covered = {ipaddress.ip_network(text) for text in RESERVED}
    # The limited broadcast is within 240.0.0.0/4.
    assert networks - covered == {ipaddress.ip_network("255.255.255.255/32")}
