"""Fetches the pictures that a request names by URL, from where the settings let it.

Rules: a name is looked up once, every address that it has must be allowed, and the connection goes
to one of those very addresses, while Host, SNI and the certificate stay the name's; a redirect is a
new URL with all of that anew. Nothing of the client's request goes along, no proxy and no cookies
are used, nothing is decompressed. A refused, absent or silent server gives the same error, so that
a client learns nothing about a network that it can't see; the log has the reason. One exception:
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
from gateway.images_in.fetch_url import BadUrl, Target
from gateway.images_in.inputs import Link, bad_url, require_fetched, with_fetched

log = logging.getLogger(__name__)

MAX_REDIRECTS = 3
AT_A_TIME = 4  # of one request
SLOTS = 8  # of all requests
MAX_TRIES = 4  # addresses of one name
CONNECT_S = 5.0  # to one of them

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "accept": "image/*",
    "accept-encoding": "identity",
    "connection": "close",
    "user-agent": "vision-insight",
}


@cache
def _known_authorities() -> ssl.SSLContext:
    """Those that certificates must be of; it takes a while to load them."""
    return httpx.create_ssl_context()


Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Unreachable(Exception):
    """The server can't be reached, or may not be; the message is for the log alone."""


class Fetcher:
    """Fetches for all requests of a gateway; *resolve* gives the addresses of a name."""

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
        # Look-ups can't be cancelled: slow ones must not take the threads in which bodies are checked.
        self._threads = ThreadPoolExecutor(SLOTS, thread_name_prefix="look-up")
        self._resolve = resolve or self._look_up
        # No connection is used twice: it was verified for one name, and checked for one request.
        self._http = httpx.AsyncHTTPTransport(
            verify=tls or _known_authorities(),
            limits=httpx.Limits(max_connections=SLOTS, max_keepalive_connections=0),
        )

    async def close(self) -> None:
        await self._http.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def filled(self, checked: Checked) -> Checked:
        """*checked* with its links replaced by what they lead to.

        Raises ``InvalidRequest`` or ``PayloadTooLarge`` naming the field of the first that fails.
        """
        room = _Room((self._max_body - len(checked.body)) // 4 * 3, self._max_body)
        at_a_time = asyncio.Semaphore(AT_A_TIME)

        async def fetch(link: Link) -> bytes:
            async with at_a_time, self._slots:
                return await self._fetch(link, room)

        firsts = {link.url: link for link in reversed(checked.links)}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {url: group.create_task(fetch(link)) for url, link in firsts.items()}
        except ExceptionGroup as exc:
            raise exc.exceptions[0] from exc
        fetched = {url: task.result() for url, task in tasks.items()}
        body = await asyncio.to_thread(with_fetched, checked.body, checked.links, fetched)
        if len(body) > self._max_body:
            raise room.exceeded(checked.links[-1].param)
        return replace(checked, body=body, links=())

    async def _fetch(self, link: Link, room: _Room) -> bytes:
        target, begun = link.target, False

        def on_answer() -> None:
            nonlocal begun
            begun = True

        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s):
                data = await self._follow(link, room, on_answer)
        except (Unreachable, TimeoutError) as exc:
            log.info("%s: not fetched from %r: %s", link.param, target.shown, str(exc) or "too slow")
            if begun and isinstance(exc, TimeoutError):
                raise bad_url(
                    f"the image at the URL did not come within {self._settings.fetch_timeout_s:g} s"
                    " (images.fetch_timeout_s)",
                    link.param,
                ) from exc
            hint = local_network.hint(exc, self._platform)
            raise bad_url(
                f"the image can't be fetched from {target.shown}: it does not answer, or is not where"
                " images may be fetched from (images.fetch, images.fetch_allow)"
                + (f"; {hint}" if hint else ""),
                link.param,
            ) from exc
        await asyncio.to_thread(require_fetched, data, link.param)
        return data

    async def _follow(self, link: Link, room: _Room, on_answer: Callable[[], None]) -> bytes:
        target = link.target
        for _ in range(1 + MAX_REDIRECTS):
            answer = await self._ask(target)
            async with aclosing(answer):
                if answer.status_code not in _REDIRECTS:
                    on_answer()
                    return await self._read(answer, link, room)
                try:
                    target = target.follow(answer.headers.get("location", ""))
                except BadUrl as exc:
                    raise bad_url(str(exc), link.param) from exc
        raise bad_url(f"the URL redirects more than {MAX_REDIRECTS} times", link.param)

    async def _ask(self, target: Target) -> httpx.Response:
        """The head of the answer of the first address that answers; raises ``Unreachable``."""
        failure: Exception | None = None
        for address in (await self._addresses(target))[:MAX_TRIES]:
            request = httpx.Request(
                "GET",
                target.url.copy_with(host=str(address), fragment=None),
                headers={"host": target.authority, **_HEADERS},
                extensions={
                    "sni_hostname": target.host.rstrip("."),
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

    async def _addresses(self, target: Target) -> list[Address]:
        """The addresses of *target*, each of which may be reached; raises ``Unreachable``."""
        if target.address is not None:
            found: list[Address] = [target.address]
        else:
            try:
                texts = await self._resolve(target.host, target.port)
                found = [ipaddress.ip_address(text) for text in texts]
            except (OSError, ValueError) as exc:  # UnicodeError, for names beyond IDNA, is one
                raise Unreachable(f"no address: {exc}") from exc
        if not found:
            raise Unreachable("no address")
        allowed = self._settings
        for address in found:
            if not may_reach(address, allowed.fetch, allowed.fetch_allow, own_address(address)):
                raise Unreachable(f"{address} is not among what may be fetched from")
        return found

    async def _look_up(self, host: str, port: int) -> list[str]:
        def look_up() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(info[4][0]) for info in found))

        return await asyncio.get_running_loop().run_in_executor(self._threads, look_up)

    async def _read(self, answer: httpx.Response, link: Link, room: _Room) -> bytes:
        if answer.status_code != 200:
            raise bad_url(f"the server answered {answer.status_code} for the image", link.param)
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise bad_url("the server sent the image compressed, unasked", link.param)
        limit = self._settings.max_mb << 20
        told = answer.headers.get("content-length", "")
        if told.isdecimal() and int(told[:20]) > limit:
            raise image_too_large(link.param, self._settings.max_mb)
        data = bytearray()
        try:
            async for chunk in answer.aiter_raw():
                data += chunk
                room.take(len(chunk), link.param)
                if len(data) > limit:
                    raise image_too_large(link.param, self._settings.max_mb)
        except httpx.TransportError as exc:
            log.info("broke off: %r", exc)
            raise bad_url("the server broke off before the image was whole", link.param) from exc
        return bytes(data)


class _Room:
    """The bytes that the pictures of one request may still take."""

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
    """The address of this machine from which *address* would be reached; nothing is sent for it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0])
    except (OSError, ValueError):
        return None
