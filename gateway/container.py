"""What a gateway in a container can't know about its clients.

Docker Desktop (macOS, Windows) forwards every connection from one address, so limits per client are
one limit for everybody. Engines on Linux keep the clients' IPv4 addresses. From inside, the two
look the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from contracts.settings.gateway import GatewaySettings

MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))  # Docker's, and podman's


def is_contained(marks: Iterable[Path] = MARKS) -> bool:
    return any(mark.exists() for mark in marks)


def shared_limits(gateway: GatewaySettings, *, has_keys: bool, contained: bool) -> str:
    """The warning about limits that clients without keys may share; "" when there is none.

    The default of ``max_concurrent_per_client`` is wide enough for a household: only a value that the
    settings name counts.
    """
    named = [
        f"gateway.{name}"
        for name in ("rate_limit", "max_concurrent_per_client")
        if name in gateway.model_fields_set and getattr(gateway, name) is not None
    ]
    if has_keys or not contained or not named:
        return ""
    return (
        f"{' and '.join(named)}: clients are told apart by address, as no API key is set, and behind "
        "Docker Desktop all clients have the same one, so all of them share one limit; give out keys "
        "(GATEWAY_API_KEYS), or run the gateway without Docker (make install NATIVE=1)"
    )
