"""Which addresses the gateway may fetch from: pure functions of an address.

Rules: an address is judged by what a packet to it would reach. One that carries an IPv4 address within
it (IPv4-mapped, NAT64, 6to4, Teredo, ISATAP) is no better than the one it carries. What is public is
told by IANA's registries of special addresses, written out here: ``ipaddress`` follows them differently
from one version of Python to the next. Nobody may reach the services in which clouds keep credentials.
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
        "169.254.170.2",  # AWS: tasks of containers
        "169.254.170.23",  # AWS: pods
        "168.63.129.16",  # Azure's wire server; a public address
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle, of old
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",
        "fd20:ce::254",  # Google
    )
)

# Nothing that answers HTTP: "this network", multicast, broadcast.
_NEVER_4 = tuple(map(IPv4Network, ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32")))
_NEVER_6 = tuple(map(IPv6Network, ("::/128", "ff00::/8")))

_SPECIAL_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",  # shared by the customers of a provider (CGNAT), and by Tailscale
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
# Of IPv6 this is given out for the public internet, less what stands below.
_PUBLIC_6 = IPv6Network("2000::/3")
_SPECIAL_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))

_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")  # IPv4 in IPv6 of old
_ISATAP = (0x00005EFE, 0x02005EFE)  # the upper half of an interface's id
_SUBNET_6 = 64  # bits: what one LAN has of IPv6


def may_reach(
    address: Address, fetch: Fetch, allow: Collection[Network] = (), own: Address | None = None
) -> bool:
    """Whether the settings *fetch* and *allow* let the gateway fetch from *address*.

    *own*: the address of this machine from which *address* would be reached, where it is known. What
    shares its subnet is a neighbour: the devices of a home have public IPv6 addresses.
    """
    address = _plain(address)
    if fetch == "off" or _is_never_reached(address):
        return False
    if fetch == "any" or any(address in network for network in allow):
        return True
    return is_public(address) and not _is_neighbour(address, own)


def is_public(address: Address) -> bool:
    """Whether *address*, and any that it carries, belongs to the public internet."""
    carried = list(_carried(address))
    if not all(is_public(inner) for inner in carried):
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    if carried:
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
        or any(_is_never_reached(inner) for inner in _carried(address))
    )


def _carried(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses within *address* to which its packets may be sent on."""
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
