"""Which requests need an API key, and the limits per client.

Applies to every ``/v1/*`` request except image files, whose names are keys themselves, and to metrics
(``gateway.metrics``). ``gateway.auth`` checks the keys. A client is the name of its key, else its
address. A request with a wrong key counts against its address, so that guessing is limited too.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import ApiError, RateLimited, TooManyOpenRequests
from contracts.settings.gateway import GatewaySettings
from gateway import SOURCE
from gateway.auth import Keyring, authenticate
from gateway.images_out.links import FILES
from gateway.rate_limit import Grant, OpenRequests, TokenBuckets, duration, whole_seconds
from web.errors import error_response

PROTECTED = "/v1/"
METRICS = "/metrics"  # unless ``gateway.metrics`` is "open"
RATE_HEADERS = (
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
)
_CLIENTS = 4096  # clients whose use is remembered


class AccessControl:
    """Refuses requests without a valid key and those beyond their client's limits."""

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        settings: GatewaySettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._clock = clock
        self._guards_metrics = settings.metrics == "key"
        self._per_client = settings.max_concurrent_per_client
        self._open = OpenRequests(self._per_client) if self._per_client else None
        self._rate = settings.rate_limit
        if self._rate is not None:
            per_minute, burst = self._rate.requests_per_minute, self._rate.burst
            # Separate, so that a flood of addresses can't evict the use of a key.
            self._by_address = TokenBuckets(per_minute, burst, clients=_CLIENTS)
            self._by_name = TokenBuckets(per_minute, burst, clients=_CLIENTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._guards(scope["path"]):
            await self._app(scope, receive, send)
            return
        error: ApiError | None
        name, error = authenticate(self._keyring, scope)
        client = f"key {name}" if name is not None else _address(scope)
        if self._rate is not None:
            buckets = self._by_address if name is None else self._by_name
            grant = buckets.take(client, self._clock())
            send = _with_limits(send, self._rate.burst, grant)
            if not grant.allowed:
                error = self._too_many(grant)
        if error is None and self._open is not None and not self._open.enter(client):
            error = TooManyOpenRequests(
                f"this client already has {self._per_client} open requests "
                "(gateway.max_concurrent_per_client)",
                retry_after=1,
            )
        if error is not None:
            await error_response(error, SOURCE)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if self._open is not None:
                self._open.leave(client)

    def _guards(self, path: str) -> bool:
        return is_protected(path) or (self._guards_metrics and path.startswith(METRICS))

    def _too_many(self, grant: Grant) -> RateLimited:
        assert self._rate is not None
        wait = whole_seconds(grant.retry_after_s)
        return RateLimited(
            f"more than {self._rate.burst} requests at once or {self._rate.requests_per_minute} per "
            f"minute (gateway.rate_limit): try again in {wait} s",
            retry_after=wait,
        )


def _with_limits(send: Send, limit: int, grant: Grant) -> Send:
    """*send* with the client's rate limit headers in the response head."""
    values = (str(limit), str(grant.remaining), duration(grant.reset_s))
    limits = [(k.encode(), v.encode()) for k, v in zip(RATE_HEADERS, values, strict=True)]

    async def send_with_limits(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *limits]}
        await send(message)

    return send_with_limits


def is_protected(path: str) -> bool:
    return path.startswith(PROTECTED) and not path.startswith(FILES)


def _address(scope: Scope) -> str:
    """The client's address. A household has a whole /64 of IPv6; an IPv4-mapped address is IPv4."""
    host = scope["client"][0].partition("%")[0] if scope.get("client") else ""
    if ":" not in host:
        return f"address {host}"
    address = ipaddress.IPv6Address(host)
    if address.ipv4_mapped is not None:
        return f"address {address.ipv4_mapped}"
    return f"address {ipaddress.IPv6Network((int(address), 64), strict=False)}"
