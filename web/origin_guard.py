"""Refuses requests from foreign web pages, and requests that use a foreign host name (DNS rebinding).

Browsers on the network can reach this machine, and they run pages written by strangers. Two headers
reveal such requests: ``Origin`` is the site of the page, and ``Host`` is the name under which the
browser found this machine; with rebinding, that is a name in the attacker's DNS. curl and the SDKs send
no ``Origin``.
Rules: the decision needs only the request head and is made first. It is one pass, because every request
takes it. A refusal names the setting that would allow the request. A body whose ``Content-Length`` is
too large is refused here too, unread (``web.request_body``).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.errors import ApiError, ForeignHost, ForeignOrigin, InvalidRequest
from web.errors import error_response
from web.request_body import SMALL_BODY, declared_too_large

ANY = "*"  # in ``origins``: every page, except those without an origin ("null")

_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_OWN = frozenset({"localhost", "host.docker.internal"})
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})  # methods that change nothing
_SHOWN = 80  # characters of a client's value that an error repeats
_LONGEST = 300  # characters of a Host; a name has at most 253
_REMEMBERED = 256  # values of Host


def is_own_host(host: str, allowed: Collection[str] = ()) -> bool:
    """Whether *host*, ``NAME[:PORT]``, can only mean this machine.

    A stranger's DNS server can't answer for an address, a single label or ``*.local``. Other names must
    be in *allowed*, where ``*.example.org`` allows all names below it.
    """
    match = _HOST.fullmatch(host.lower())
    if match is None:
        return False
    address, name = match.groups()
    if address is not None:
        return _is_address(ipaddress.IPv6Address, address)
    if name in _OWN or name in allowed or _is_address(ipaddress.IPv4Address, name):
        return True
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        return False
    if len(labels) == 1 or labels[-1] == "local":
        return True
    return any(f"*.{'.'.join(labels[at:])}" in allowed for at in range(1, len(labels)))


def _is_address(kind: Callable[[str], object], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def is_same_site(origin: bytes, host: bytes) -> bool:
    """Whether a page of *origin* was loaded from *host*, port included.

    The scheme is not compared: a proxy that ends TLS may forward plain HTTP.
    """
    scheme, _, place = origin.lower().partition(b"://")
    port = _DEFAULT_PORTS.get(scheme)
    return port is not None and place.removesuffix(port) == host.lower().removesuffix(port) != b""


class OriginPolicy:
    """The rules of one tier. Refusals name its settings *section*; a worker has none.

    *origins* may send requests from other sites. *public_url* adds one more name of this machine.
    """

    def __init__(
        self,
        section: str | None,
        *,
        allowed_hosts: Collection[str] = (),
        origins: Collection[str] = (),
        public_url: str = "",
        body_limit: Callable[[str], int | None] = lambda path: SMALL_BODY,
    ) -> None:
        self._section = section
        self._allowed = {name.lower() for name in allowed_hosts}
        self._origins = {origin.lower().rstrip("/").encode() for origin in origins}
        self._body_limit = body_limit
        self._known: dict[bytes, bool] = {}
        if public_url:
            url = urlsplit(public_url.lower())
            self._allowed.add(url.hostname or "")
            self._origins.add(f"{url.scheme}://{url.netloc}".encode())

    def refusal(self, scope: Scope) -> ApiError | None:
        """Why the request of *scope* is refused; None: it is allowed."""
        headers = scope["headers"]
        found = dict(headers)
        host = found.get(b"host")
        if host is None:
            return InvalidRequest("the request has no Host header")
        if len(found) < len(headers):
            for key in (b"host", b"origin", b"content-length"):
                if key in found and sum(name == key for name, _ in headers) > 1:
                    return InvalidRequest(f"the request has two {key.decode().title()} headers")
        if not self._is_own(host):
            return ForeignHost(
                f"unknown host name {_shown(host)}"
                + self._hint("add it to {}.allowed_hosts if it is this machine's")
            )
        origin = found.get(b"origin")
        if origin is not None:
            if not self._may_send(origin, host):
                return self._foreign(f"pages from {_shown(origin)} may not send requests here")
        elif found.get(b"sec-fetch-site") == b"cross-site" and scope["method"] not in _SAFE:
            return self._foreign("a page from another site, which hides its origin, sent this request")
        limit = self._body_limit(scope["path"])
        return None if limit is None else declared_too_large(found.get(b"content-length"), limit)

    def _is_own(self, host: bytes) -> bool:
        if len(host) > _LONGEST:
            return False
        known = self._known.get(host)
        if known is None:
            known = is_own_host(host.decode("latin-1"), self._allowed)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()  # too many invented names; real ones are added again
            self._known[host] = known
        return known

    def _may_send(self, origin: bytes, host: bytes) -> bool:
        if origin == b"null":
            return False
        return (
            is_same_site(origin, host)
            or origin.lower() in self._origins
            or ANY.encode() in self._origins
        )

    def _foreign(self, what: str) -> ForeignOrigin:
        return ForeignOrigin(what + self._hint("add its origin to gateway.cors_origins to allow it"))

    def _hint(self, what: str) -> str:
        return "" if self._section is None else f": {what.format(self._section)}"


def _shown(value: bytes) -> str:
    text = value.decode("latin-1")
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


class OriginGuard:
    """Responds to requests that *policy* refuses, and passes the others to *app*."""

    def __init__(self, app: ASGIApp, policy: OriginPolicy, *, source: str) -> None:
        self._app = app
        self._policy = policy
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._policy.refusal(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
        else:
            await error_response(error, self._source)(scope, receive, send)
