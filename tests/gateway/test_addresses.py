"""The addresses that may be fetched from: a table, and properties of every address."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from contracts.settings.images import Fetch, Network
from gateway.images_in.addresses import Address, is_public, may_reach

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.215.14", "9.255.255.255", "11.0.0.0", "100.63.255.255",
    "100.128.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0",
    "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0",
    "198.17.255.255", "198.20.0.0", "198.51.99.255", "203.0.112.255", "223.255.255.255",
    "2606:4700:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888", "2001:200::1", "2003::1",
    "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2001:0:808:808::f7f7:f7f7",
]  # fmt: skip
PRIVATE = [
    "10.0.0.0", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255",
    "127.0.0.1", "127.255.255.255", "127.0.0.2",  # loopback, all of it
    "169.254.0.1", "169.254.255.255",  # link-local
    "100.64.0.1", "100.127.255.255",  # CGNAT
    "192.0.0.1", "192.0.0.170", "192.0.2.1", "198.51.100.1", "203.0.113.1",
    "192.88.99.1", "198.18.0.1", "198.19.255.255", "240.0.0.1", "255.255.255.254",
    "::1", "fc00::1", "fdff::1", "fe80::1", "febf::1", "fec0::1",
    "100::1", "2001:db8::1", "2001:20::1", "2001:2::1", "3fff::1", "5f00::1", "4000::1", "1::1",
    "64:ff9b:1::1",  # NAT64 of this very network
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:100.64.0.1",
    "::127.0.0.1", "::10.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b::192.168.1.1",
    "2002:7f00:1::1", "2002:c0a8:101::",  # 6to4 of 127.0.0.1 and 192.168.1.1
    "2001:0:7f00:1::f7f7:f7f7",  # Teredo, its server 127.0.0.1
    "2001:0:808:808::80ff:fffe",  # Teredo, its client 127.0.0.1
    "2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:192.168.1.1",  # ISATAP
]  # fmt: skip
NEVER = [
    "169.254.169.254", "169.254.170.2", "169.254.170.23", "168.63.129.16", "100.100.100.200",
    "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
    "::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1", "::169.254.169.254",
    "2606:4700::5efe:169.254.169.254", "fd00:ec2::254%eth0",
    "0.0.0.0", "0.1.2.3", "::", "::2", "::ffff:0.0.0.0", "224.0.0.1", "239.255.255.250",
    "255.255.255.255", "ff02::1", "ff0e::1", "::ffff:224.0.0.1",
]  # fmt: skip

EVERYTHING: list[Network] = [IPv4Network("0.0.0.0/0"), IPv6Network("::/0")]


def at(text: str) -> Address:
    return ipaddress.ip_address(text)


def test_addresses_are_reached_only_as_the_settings_allow() -> None:
    """Public ones unless fetching is off, private ones if allowed, cloud metadata services never."""
    reached = {"public": (True, True, True, False), "private": (False, True, True, False)}
    reached["never"] = (False, False, False, False)
    for kind, texts in (("public", PUBLIC), ("private", PRIVATE), ("never", NEVER)):
        for text in texts:
            found = (
                may_reach(at(text), "public"),
                may_reach(at(text), "any"),
                may_reach(at(text), "public", EVERYTHING),
                may_reach(at(text), "off", EVERYTHING),
            )
            assert found == reached[kind], text


def test_an_allowed_network_allows_its_own_addresses_and_no_others() -> None:
    allow: list[Network] = [IPv4Network("192.168.1.0/24"), IPv6Network("fd12::/16")]
    for text in ("192.168.1.0", "192.168.1.255", "::ffff:192.168.1.7", "fd12::9", "fd12::9%eth0"):
        assert may_reach(at(text), "public", allow), text
    for text in ("192.168.2.0", "192.168.0.255", "10.0.0.1", "fd13::1", "2002:c0a8:101::1", "::1"):
        assert not may_reach(at(text), "public", allow), text


def test_a_neighbour_with_a_public_ipv6_address_counts_as_private() -> None:
    own = at("2a00:1450:4001:1::10")
    assert not may_reach(at("2a00:1450:4001:1:dead:beef:0:1"), "public", own=own)
    assert not may_reach(own, "public", own=own)
    assert may_reach(at("2a00:1450:4001:2::1"), "public", own=own)
    assert may_reach(at("2a00:1450:4001:1::9"), "public", [IPv6Network("2a00:1450::/32")], own)


def test_a_machine_does_not_reach_itself_by_its_public_address() -> None:
    assert not may_reach(at("8.8.8.8"), "public", own=at("8.8.8.8"))
    assert may_reach(at("8.8.8.9"), "public", own=at("8.8.8.8"))
    assert may_reach(at("8.8.8.8"), "public", own=at("2a00::1"))


FOUR = st.ip_addresses(v=4).map(lambda a: IPv4Address(int(a)))
SIX = st.ip_addresses(v=6).map(lambda a: IPv6Address(int(a)))


@given(FOUR | SIX)
def test_public_addresses_are_global_for_the_standard_library_too(address: Address) -> None:
    if is_public(address):
        assert address.is_global or isinstance(address, IPv6Address)
        assert not address.is_private
        assert not address.is_multicast
        assert not address.is_loopback
        assert not address.is_link_local


@given(FOUR)
def test_no_ipv4_address_is_public_where_the_standard_library_says_it_is_not(
    address: IPv4Address,
) -> None:
    known = {"192.0.0.0/24", "192.88.99.0/24"}  # has two global addresses; global by name only
    elsewhere = not any(address in IPv4Network(net) for net in known)
    if elsewhere and not address.is_multicast:
        assert is_public(address) == address.is_global


CARRIERS = {
    "mapped": lambda v4: IPv6Address((0xFFFF << 32) | v4),
    "compatible": lambda v4: IPv6Address(v4),
    "nat64": lambda v4: IPv6Address((0x64FF9B << 96) | v4),
    "6to4": lambda v4: IPv6Address((0x2002 << 112) | (v4 << 80) | 1),
    "teredo server": lambda v4: IPv6Address(
        (0x20010000 << 96) | (v4 << 64) | (~0x08080808 & 0xFFFFFFFF)
    ),
    "teredo client": lambda v4: IPv6Address(
        (0x20010000 << 96) | (0x08080808 << 64) | (~v4 & 0xFFFFFFFF)
    ),
    "isatap": lambda v4: IPv6Address((0x26064700 << 96) | (0x5EFE << 32) | v4),
}


@pytest.mark.parametrize("carrier", CARRIERS)
@given(address=FOUR)
def test_an_ipv6_address_is_judged_by_its_embedded_ipv4_address(
    carrier: str, address: IPv4Address
) -> None:
    assume(int(address) > 1)  # ::1 is the loopback, and carries nothing
    outer = CARRIERS[carrier](int(address))
    if not may_reach(address, "public"):
        assert not may_reach(outer, "public")
    if not may_reach(address, "any", EVERYTHING):
        assert not may_reach(outer, "any", EVERYTHING)


@given(FOUR | SIX)
def test_a_stricter_setting_never_allows_more(address: Address) -> None:
    modes: tuple[Fetch, ...] = ("off", "public", "any")
    reached = [may_reach(address, mode) for mode in modes]
    assert reached == sorted(reached)
