"""Settings for input images: number, size, and which URLs are fetched."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from contracts.settings.base import Seconds, Section

Fetch = Literal["off", "public", "any"]
Network = IPv4Network | IPv6Network


def _word(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


def _network(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"expected a network like '192.168.1.0/24', not {value!r}")
    network = ipaddress.ip_network(value)  # raises a clear error, also for host bits
    if network.version == 6 and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"write {value!r} as an IPv4 network")
    return network


class ImageInputSettings(Section):
    # off: fetch no URLs; public: public addresses only; any: private addresses too.
    fetch: Annotated[Fetch, BeforeValidator(_word)] = "public"
    fetch_allow: list[Annotated[Network, BeforeValidator(_network)]] = Field(default_factory=list)
    fetch_timeout_s: Seconds = 20.0  # per URL, from DNS lookup to the last byte
    max_mb: Annotated[int, Field(ge=1)] = 20  # MiB per image file
    max_per_request: Annotated[int, Field(ge=1)] = 32
