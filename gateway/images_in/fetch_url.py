"""Parses an image URL: pure, from text to a ``FetchUrl``.

Rules: one parser decides, and what it parsed is what is fetched, so that no second parser can
disagree. Only http and https; no user or password. A host is a plain name or a plain address, never
one of the spellings (``0x7f.1``, ``2130706433``) that only some programs read as an address.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

import httpx

from gateway.images_in.addresses import Address

MAX_LENGTH = 8192  # characters; signed object store URLs have some thousand

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_SHOWN = 80  # characters of a host that a message repeats


class BadUrl(Exception):
    """The URL must not be fetched, wherever it leads. The message names the rule."""


@dataclass(frozen=True, slots=True)
class FetchUrl:
    """``host``: an ASCII name or an address, without brackets. ``address``: set if it is an address."""

    url: httpx.URL
    host: str
    port: int
    address: Address | None

    @property
    def authority(self) -> str:
        """The value of the ``Host`` header."""
        return self.url.netloc.decode("ascii")

    @property
    def shown(self) -> str:
        return self.host if len(self.host) <= _SHOWN else self.host[:_SHOWN] + "..."

    def follow(self, location: str) -> FetchUrl:
        """The target of a redirect to *location*. Raises ``BadUrl``."""
        try:
            return parse_fetch_url(str(self.url.join(location)))
        except (httpx.InvalidURL, ValueError) as exc:
            raise BadUrl("the URL redirects to an invalid URL") from exc


def parse_fetch_url(text: str) -> FetchUrl:
    """*text* as a ``FetchUrl``. Raises ``BadUrl``."""
    if len(text) > MAX_LENGTH:
        raise BadUrl(f"the URL has more than {MAX_LENGTH} characters")
    if not text.isprintable() or "\\" in text or " " in text:
        raise BadUrl("the URL contains an invalid character")
    try:
        url = httpx.URL(text)
        host = url.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError) as exc:
        raise BadUrl("the URL is invalid") from exc
    if url.scheme not in ("http", "https"):
        raise BadUrl("only http and https URLs are fetched")
    if url.userinfo:
        raise BadUrl("URLs with a user or a password are not fetched")
    if not host:
        raise BadUrl("the URL has no host")
    port = (443 if url.scheme == "https" else 80) if url.port is None else url.port
    if not 1 <= port <= 65535:
        raise BadUrl("the URL has an invalid port")
    return FetchUrl(url, host, port, _address(host))


def _address(host: str) -> Address | None:
    """*host* as an address; None: it is a name. Raises ``BadUrl`` if it is neither."""
    if ":" in host or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        try:
            address = ipaddress.ip_address(host)
        except ValueError as exc:
            raise BadUrl(f"the URL's host is not a plain address: {host[:_SHOWN]}") from exc
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            raise BadUrl("the URL's host is an address with a zone")
        return address
    if len(host) > 253 or _NAME.fullmatch(host) is None:
        raise BadUrl("the URL's host is neither a name nor an address")
    return None
