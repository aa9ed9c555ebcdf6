"""Fetches the images that a request names by URL, from where the settings allow it.

Rules: a name is resolved once, all its addresses must be allowed, and the connection goes to one of
those addresses, while Host, SNI and the certificate keep the name. A redirect is a new URL with the
same checks. Nothing of the client's request is sent along, no proxy and no cookies are used, nothing
is decompressed. Blocked, missing and silent servers cause the same error, so that a client learns
nothing about a network that it can't see; the log has the reason. Exception:
where macOS may block the local network for the whole gateway, the error says so.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import cache

import httpx

from contracts.errors import PayloadTooLarge
from contracts.media import image_too_large
from contracts.settings import Settings
from gateway import local_network
from gateway.checks import Checked
from gateway.images_in.addresses import Address, may_reach
from gateway.images_in.fetch_url import BadUrl, FetchUrl
from gateway.images_in.inputs import LinkedImage, bad_url, require_fetched, with_fetched

log = logging.getLogger(__name__)

MAX_REDIRECTS = 3
PER_REQUEST = 4  # concurrent fetches of one request
SLOTS = 8  # concurrent fetches of all requests
MAX_TRIES = 4  # addresses tried per name
CONNECT_S = 5.0  # per address

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "accept": "image/*",
    "accept-encoding": "identity",
    "connection": "close",
    "user-agent": "vision-insight",
}


@cache
def _default_tls() -> ssl.SSLContext:
    """The default certificate authorities; loading them takes a while."""
    return httpx.create_ssl_context()


Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Unreachable(Exception):
    """The server can't be reached, or is not allowed. The message is for the log only."""


class Fetcher:
    """Fetches for all requests of a gateway. *resolve* returns the addresses of a name."""

    def __init__(
        self,
        settings: Settings,
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        platform: str = sys.platform,
    ) -> None:
        self._settings = settings.images
        self._platform = platform
        self._max_body = settings.gateway.max_body_mb << 20
        self._slots = asyncio.Semaphore(SLOTS)
        # Name lookups can't be cancelled: slow ones must not block the threads that check bodies.
        self._threads = ThreadPoolExecutor(SLOTS, thread_name_prefix="look-up")
        self._resolve = resolve or self._look_up
        # Connections are not reused: each was verified for one name and checked for one request.
        self._http = httpx.AsyncHTTPTransport(
            verify=tls or _default_tls(),
            limits=httpx.Limits(max_connections=SLOTS, max_keepalive_connections=0),
        )

    async def close(self) -> None:
        await self._http.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def fetch_all(self, checked: Checked) -> Checked:
        """*checked* with its linked images replaced by their data.

        Raises ``InvalidRequest`` or ``PayloadTooLarge`` naming the field of the first one that fails.
        """
        budget = _ByteBudget((self._max_body - len(checked.body)) // 4 * 3, self._max_body)
        per_request = asyncio.Semaphore(PER_REQUEST)

        async def fetch(link: LinkedImage) -> bytes:
            async with per_request, self._slots:
                return await self._fetch(link, budget)

        firsts = {link.url: link for link in reversed(checked.linked_images)}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {url: group.create_task(fetch(link)) for url, link in firsts.items()}
        except ExceptionGroup as exc:
            raise exc.exceptions[0] from exc
        fetched = {url: task.result() for url, task in tasks.items()}
        body = await asyncio.to_thread(with_fetched, checked.body, checked.linked_images, fetched)
        if len(body) > self._max_body:
            raise budget.exceeded(checked.linked_images[-1].param)
        return replace(checked, body=body, linked_images=())

    async def _fetch(self, link: LinkedImage, budget: _ByteBudget) -> bytes:
        fetch_url, started = link.fetch_url, False

        def on_response() -> None:
            nonlocal started
            started = True

        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s):
                data = await self._follow(link, budget, on_response)
        except (Unreachable, TimeoutError) as exc:
            log.info("%s: not fetched from %r: %s", link.param, fetch_url.shown, str(exc) or "too slow")
            if started and isinstance(exc, TimeoutError):
                raise bad_url(
                    f"the image at the URL did not arrive within {self._settings.fetch_timeout_s:g} s"
                    " (images.fetch_timeout_s)",
                    link.param,
                ) from exc
            hint = local_network.hint(exc, self._platform)
            raise bad_url(
                f"can't fetch the image from {fetch_url.shown}: the server does not answer, or"
                " fetching from it is not allowed (images.fetch, images.fetch_allow)"
                + (f"; {hint}" if hint else ""),
                link.param,
            ) from exc
        await asyncio.to_thread(require_fetched, data, link.param)
        return data

    async def _follow(
        self, link: LinkedImage, budget: _ByteBudget, on_response: Callable[[], None]
    ) -> bytes:
        fetch_url = link.fetch_url
        for _ in range(1 + MAX_REDIRECTS):
            response = await self._get(fetch_url)
            async with aclosing(response):
                if response.status_code not in _REDIRECTS:
                    on_response()
                    return await self._read(response, link, budget)
                try:
                    fetch_url = fetch_url.follow(response.headers.get("location", ""))
                except BadUrl as exc:
                    raise bad_url(str(exc), link.param) from exc
        raise bad_url(f"the URL redirects more than {MAX_REDIRECTS} times", link.param)

    async def _get(self, fetch_url: FetchUrl) -> httpx.Response:
        """The response head of the first address that answers. Raises ``Unreachable``."""
        failure: Exception | None = None
        for address in (await self._addresses(fetch_url))[:MAX_TRIES]:
            request = httpx.Request(
                "GET",
                fetch_url.url.copy_with(host=str(address), fragment=None),
                headers={"host": fetch_url.authority, **_HEADERS},
                extensions={
                    "sni_hostname": fetch_url.host.rstrip("."),
                    "timeout": {"connect": CONNECT_S},
                },
            )
            try:
                return await self._http.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
                failure = exc
            except httpx.TransportError as exc:
                raise Unreachable(f"{address}: {exc!r}") from exc
        raise Unreachable(repr(failure)) from failure

    async def _addresses(self, fetch_url: FetchUrl) -> list[Address]:
        """The addresses of *fetch_url*, all of them allowed. Raises ``Unreachable``."""
        if fetch_url.address is not None:
            found: list[Address] = [fetch_url.address]
        else:
            try:
                texts = await self._resolve(fetch_url.host, fetch_url.port)
                found = [ipaddress.ip_address(text) for text in texts]
            except (OSError, ValueError) as exc:  # a UnicodeError for names beyond IDNA is a ValueError
                raise Unreachable(f"no address: {exc}") from exc
        if not found:
            raise Unreachable("no address")
        allowed = self._settings
        for address in found:
            if not may_reach(address, allowed.fetch, allowed.fetch_allow, own_address(address)):
                raise Unreachable(f"{address} is not allowed")
        return found

    async def _look_up(self, host: str, port: int) -> list[str]:
        def look_up() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(info[4][0]) for info in found))

        return await asyncio.get_running_loop().run_in_executor(self._threads, look_up)

    async def _read(self, response: httpx.Response, link: LinkedImage, budget: _ByteBudget) -> bytes:
        if response.status_code != 200:
            raise bad_url(f"the server returned {response.status_code} for the image", link.param)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise bad_url("the server sent the image compressed, which was not requested", link.param)
        limit = self._settings.max_mb << 20
        declared = response.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise image_too_large(link.param, self._settings.max_mb)
        data = bytearray()
        try:
            async for chunk in response.aiter_raw():
                data += chunk
                budget.take(len(chunk), link.param)
                if len(data) > limit:
                    raise image_too_large(link.param, self._settings.max_mb)
        except httpx.TransportError as exc:
            log.info("the connection broke: %r", exc)
            raise bad_url("the connection broke before the image was complete", link.param) from exc
        return bytes(data)


class _ByteBudget:
    """The bytes that the images of one request may still take."""

    def __init__(self, left: int, max_body: int) -> None:
        self._left = left
        self._max_body = max_body

    def take(self, size: int, param: str) -> None:
        self._left -= size
        if self._left < 0:
            raise self.exceeded(param)

    def exceeded(self, param: str) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the request is larger than {self._max_body >> 20} MiB with its images"
            " (gateway.max_body_mb)",
            param=param,
        )


def own_address(address: Address) -> Address | None:
    """The address of this machine that would connect to *address*. Sends nothing."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0])
    except (OSError, ValueError):
        return None
