"""Which addresses the gateway may fetch from: pure functions of an address.

Rules: an address is judged by what a packet to it would reach. One that embeds an IPv4 address
(IPv4-mapped, NAT64, 6to4, Teredo, ISATAP) is judged by that address too. What is public follows IANA's
special-purpose registries, listed here because ``ipaddress`` changes from one Python version to the
next. The services in which clouds keep credentials are never reachable.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from contracts.settings.images import Fetch, Network

Address = IPv4Address | IPv6Address

_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, DigitalOcean, Oracle, OpenStack and others
        "169.254.170.2",  # AWS: container tasks
        "169.254.170.23",  # AWS: pods
        "168.63.129.16",  # Azure's wire server; a public address
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle, formerly
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",
        "fd20:ce::254",  # Google
    )
)

# Never an HTTP server: "this network", multicast, broadcast.
_NEVER_4 = tuple(map(IPv4Network, ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32")))
_NEVER_6 = tuple(map(IPv6Network, ("::/128", "ff00::/8")))

_SPECIAL_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT, and Tailscale
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
# The IPv6 range assigned to the public internet, minus the special ranges below.
_PUBLIC_6 = IPv6Network("2000::/3")
_SPECIAL_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))

_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")  # deprecated IPv4-compatible addresses
_ISATAP = (0x00005EFE, 0x02005EFE)  # upper half of the interface id
_SUBNET_6 = 64  # prefix length of one LAN


def may_reach(
    address: Address, fetch: Fetch, allow: Collection[Network] = (), own: Address | None = None
) -> bool:
    """Whether the settings *fetch* and *allow* permit fetching from *address*.

    *own*: the address of this machine that would connect to *address*, if known. Addresses in its
    subnet are neighbours: devices at home have public IPv6 addresses.
    """
    address = _plain(address)
    if fetch == "off" or _is_never_reached(address):
        return False
    if fetch == "any" or any(address in network for network in allow):
        return True
    return is_public(address) and not _is_neighbour(address, own)


def is_public(address: Address) -> bool:
    """Whether *address*, and each address embedded in it, belongs to the public internet."""
    embedded = list(_embedded(address))
    if not all(is_public(inner) for inner in embedded):
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    if embedded:
        return True
    return address in _PUBLIC_6 and not any(address in network for network in _SPECIAL_6)


def _plain(address: Address) -> Address:
    """*address* without a zone, and as IPv4 where the system would use IPv4."""
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def _is_never_reached(address: Address) -> bool:
    never = _NEVER_4 if isinstance(address, IPv4Address) else _NEVER_6
    return (
        address in _METADATA
        or any(address in network for network in never)
        or any(_is_never_reached(inner) for inner in _embedded(address))
    )


def _embedded(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses embedded in *address*, to which its packets may be forwarded."""
    if isinstance(address, IPv4Address):
        return
    low = int(address) & 0xFFFFFFFF
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address in _NAT64 or (address in _COMPATIBLE and low > 1):  # neither :: nor ::1
        yield IPv4Address(low)
    elif address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None:
        yield from address.teredo
    elif (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        yield IPv4Address(low)


def _is_neighbour(address: Address, own: Address | None) -> bool:
    if own is None:
        return False
    own = _plain(own)
    if isinstance(address, IPv4Address) or isinstance(own, IPv4Address):
        return address == own
    return int(address) >> (128 - _SUBNET_6) == int(own) >> (128 - _SUBNET_6)
