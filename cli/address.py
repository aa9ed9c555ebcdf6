"""Where the gateway is, and with which key to speak to it. Pure, but for the settings that it is given.

Rules: what is said on the command line wins over ``VISION_HOST`` and ``VISION_KEY``, those over the
settings of this machine. A key from the settings goes to this machine's own gateway and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

import httpx

from cli.failures import UsageError
from contracts.settings import Settings
from contracts.settings.file import SettingsError
from hostctl.health import gateway_url

DEFAULT_PORT = 8000
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_KEY = re.compile(r"[!-~]+")  # what a header can carry, without spaces


@dataclass(frozen=True)
class GatewayAddress:
    """*local*: it is the gateway of this machine's settings."""

    url: str
    local: bool
    key: str | None = field(default=None, repr=False)


def find(
    host: str | None, key: str | None, environ: Mapping[str, str], settings: Callable[[], Settings]
) -> GatewayAddress:
    """The gateway that *host* and *key*, of the command line, and *environ* mean.

    *settings* reads those of this machine, and is called only when they matter. Raises ``UsageError``.
    """
    named = host or environ.get("VISION_HOST")
    told = key or environ.get("VISION_KEY") or environ.get("GATEWAY_API_KEY") or None
    if told and _KEY.fullmatch(told) is None:
        raise UsageError("a key has printable ASCII characters without spaces")
    if not named:
        try:
            mine = settings()
        except SettingsError as exc:
            raise UsageError(str(exc)) from exc
        return GatewayAddress(gateway_url(mine), True, told or own_key(mine))
    url = parse_host(named)
    own = _own_settings(url, settings)
    return GatewayAddress(url, own is not None, told or (own_key(own) if own else None))


def own_key(settings: Settings) -> str | None:
    """A key that the gateway of *settings* takes; None: it wants none, or they are in a file."""
    return settings.gateway.required_key or next(iter(settings.gateway.keys.values()), None)


def parse_host(text: str) -> str:
    """``mac``, ``mac:8000``, ``https://vision.example.org`` or an OpenAI base URL, as an address.

    A name without a scheme is that of a gateway on its usual port.
    """
    bare = "://" not in text
    try:
        parts = urlsplit(f"http://{text}" if bare else text)
        port = parts.port
    except ValueError as exc:
        raise UsageError(f"{text!r} names no host: {exc}") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(
            f"{text!r} names no host: expected one like 'mac:8000' or 'https://mac.example.org'"
        )
    if parts.username is not None:
        raise UsageError("a host has no user in it: a key is given with --key or VISION_KEY")
    if bare and port is None:
        parts = parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{DEFAULT_PORT}")
    url = f"{parts.scheme}://{parts.netloc}{_prefix(parts)}"
    try:
        httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise UsageError(f"{text!r} names no host: {exc}") from exc
    return url


def _prefix(parts: SplitResult) -> str:
    """The path before the API's own: a gateway may live behind another server."""
    return parts.path.rstrip("/").removesuffix("/v1").rstrip("/")


def _own_settings(url: str, settings: Callable[[], Settings]) -> Settings | None:
    """This machine's settings when *url* is that of its own gateway."""
    parts = urlsplit(url)
    if parts.hostname not in _LOOPBACK:
        return None
    try:
        mine = settings()
    except SettingsError:
        return None
    return mine if parts.port == mine.gateway.port else None
