"""What an image URL says: pure, from text to a ``Target``.

Rules: one reading decides, and what is fetched is what was read, so that no second reader can be told
something else. Only http and https; no user or password; a host is a plain name or a plain address,
never one of the spellings (``0x7f.1``, ``2130706433``) that only some programs take for an address.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

import httpx

from gateway.images_in.addresses import Address

MAX_LENGTH = 8192  # characters; signed URLs of object stores have some thousand

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_SHOWN = 80  # characters of a host in a message


class BadUrl(Exception):
    """The URL may not be fetched, whatever is behind it; the message says which rule it breaks."""


@dataclass(frozen=True, slots=True)
class Target:
    """``host``: a name in ASCII or an address, without brackets; ``address``: set when it is one."""

    url: httpx.URL
    host: str
    port: int
    address: Address | None

    @property
    def authority(self) -> str:
        """What the ``Host`` header says."""
        return self.url.netloc.decode("ascii")

    @property
    def shown(self) -> str:
        return self.host if len(self.host) <= _SHOWN else self.host[:_SHOWN] + "..."

    def follow(self, location: str) -> Target:
        """Where a redirect to *location* leads; raises ``BadUrl``."""
        try:
            return read_target(str(self.url.join(location)))
        except (httpx.InvalidURL, ValueError) as exc:
            raise BadUrl("the URL redirects to what is no URL") from exc


def read_target(text: str) -> Target:
    """*text* as a ``Target``; raises ``BadUrl``."""
    if len(text) > MAX_LENGTH:
        raise BadUrl(f"the URL has more than {MAX_LENGTH} characters")
    if not text.isprintable() or "\\" in text or " " in text:
        raise BadUrl("the URL has a character that belongs in no URL")
    try:
        url = httpx.URL(text)
        host = url.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError) as exc:
        raise BadUrl("the URL can't be read") from exc
    if url.scheme not in ("http", "https"):
        raise BadUrl("only http and https URLs are fetched")
    if url.userinfo:
        raise BadUrl("the URL has a user or a password in it, which is not sent on")
    if not host:
        raise BadUrl("the URL has no host")
    port = (443 if url.scheme == "https" else 80) if url.port is None else url.port
    if not 1 <= port <= 65535:
        raise BadUrl("the URL has a port that there can't be")
    return Target(url, host, port, _address(host))


def _address(host: str) -> Address | None:
    """The address that *host* is; None: a name. Raises ``BadUrl`` for what is neither."""
    if ":" in host or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        try:
            address = ipaddress.ip_address(host)
        except ValueError as exc:
            raise BadUrl(f"the URL's host is no plain address: {host[:_SHOWN]}") from exc
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            raise BadUrl("the URL's host is an address with a zone")
        return address
    if len(host) > 253 or _NAME.fullmatch(host) is None:
        raise BadUrl("the URL's host is neither a name nor an address")
    return None
