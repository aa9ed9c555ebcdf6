"""The gateway's address and API key. Pure, except for loading the settings.

Rules: the command line overrides ``VISION_HOST`` and ``VISION_KEY``, which override this machine's
settings. A key from the settings is only sent to this machine's own gateway.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

import httpx

from cli.errors import UsageError
from contracts.settings import Settings
from contracts.settings.file import SettingsError
from hostctl.health import gateway_url

DEFAULT_PORT = 8000
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_KEY = re.compile(r"[!-~]+")  # valid in a header, without spaces


@dataclass(frozen=True)
class GatewayAddress:
    """*local*: the gateway of this machine's settings."""

    url: str
    local: bool
    key: str | None = field(default=None, repr=False)


def find(
    host: str | None, key: str | None, environ: Mapping[str, str], settings: Callable[[], Settings]
) -> GatewayAddress:
    """The gateway selected by the options *host* and *key*, and by *environ*.

    *settings* loads this machine's settings; it is only called if they are needed. Raises
    ``UsageError``.
    """
    named = host or environ.get("VISION_HOST")
    given_key = key or environ.get("VISION_KEY") or environ.get("GATEWAY_API_KEY") or None
    if given_key and _KEY.fullmatch(given_key) is None:
        raise UsageError("a key consists of printable ASCII characters without spaces")
    if not named:
        try:
            mine = settings()
        except SettingsError as exc:
            raise UsageError(str(exc)) from exc
        return GatewayAddress(gateway_url(mine), True, given_key or own_key(mine))
    url = parse_host(named)
    own = _own_settings(url, settings)
    return GatewayAddress(url, own is not None, given_key or (own_key(own) if own else None))


def own_key(settings: Settings) -> str | None:
    """A key for the gateway of *settings*; None: no key is required, or keys are in a file."""
    return settings.gateway.required_key or next(iter(settings.gateway.keys.values()), None)


def parse_host(text: str) -> str:
    """The URL of ``mac``, ``mac:8000``, ``https://vision.example.org`` or an OpenAI base URL.

    Without a scheme the default port is 8000. Raises ``UsageError``.
    """
    bare = "://" not in text
    try:
        parts = urlsplit(f"http://{text}" if bare else text)
        port = parts.port
    except ValueError as exc:
        raise UsageError(f"{text!r} is not a valid host: {exc}") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(
            f"{text!r} is not a valid host: expected 'mac:8000' or 'https://mac.example.org'"
        )
    if parts.username is not None:
        raise UsageError("a host can't contain a user: use --key or VISION_KEY for the key")
    if bare and port is None:
        parts = parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{DEFAULT_PORT}")
    url = f"{parts.scheme}://{parts.netloc}{_prefix(parts)}"
    try:
        httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise UsageError(f"{text!r} is not a valid host: {exc}") from exc
    return url


def _prefix(parts: SplitResult) -> str:
    """The path before the API's own, for a gateway behind another server."""
    return parts.path.rstrip("/").removesuffix("/v1").rstrip("/")


def _own_settings(url: str, settings: Callable[[], Settings]) -> Settings | None:
    """This machine's settings if *url* is its own gateway."""
    parts = urlsplit(url)
    if parts.hostname not in _LOOPBACK:
        return None
    try:
        mine = settings()
    except SettingsError:
        return None
    return mine if parts.port == mine.gateway.port else None
