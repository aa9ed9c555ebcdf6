"""A gateway in a container: warns when its clients may be indistinguishable.

Docker Desktop (macOS, Windows) forwards every connection from one address, so limits per client become
one limit for all clients. Engines on Linux keep the clients' IPv4 addresses. A process inside the
container can't detect which of the two it runs under.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from contracts.settings.gateway import GatewaySettings

MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))  # of Docker and of Podman


def is_contained(marks: Iterable[Path] = MARKS) -> bool:
    return any(mark.exists() for mark in marks)


def shared_limits(gateway: GatewaySettings, *, has_keys: bool, contained: bool) -> str:
    """The warning about limits that clients without keys may share; "" when there is none.

    Only values that the settings name count: the default of ``max_concurrent_per_client`` is high
    enough for a household.
    """
    named = [
        f"gateway.{name}"
        for name in ("rate_limit", "max_concurrent_per_client")
        if name in gateway.model_fields_set and getattr(gateway, name) is not None
    ]
    if has_keys or not contained or not named:
        return ""
    return (
        f"{' and '.join(named)}: without API keys, clients are distinguished by address, and behind "
        "Docker Desktop all clients have the same address, so they share one limit; set keys "
        "(GATEWAY_API_KEYS), or run the gateway without Docker (make install NATIVE=1)"
    )
