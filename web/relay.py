"""Forwards one request to the next tier, and its response back, chunk by chunk.

Two steps: ``send_upstream`` returns with the response head, so that the caller can inspect it before
the client sees anything; ``forward_response`` sends the client that head and the body.
Rules: bytes are forwarded as they arrive, never buffered or decompressed. Hop-by-hop headers end here.
A client that disconnects closes the upstream connection at once (``RequestBody.while_connected``). If
the upstream connection breaks, the client learns it: before the response by an exception, in an event
stream by an error event, otherwise by a cut connection, which chunked framing makes visible.
Uses aiohttp's client, because httpx's pool costs several times as much per request
(docs/dev/architecture.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from http.cookies import SimpleCookie
from typing import Protocol

import aiohttp
from starlette.types import Send
from yarl import URL

from contracts.control import LOAD_HEADER, MODEL_HEADER, QUEUE_HEADER, RETRYABLE_HEADER
from contracts.errors import ApiError, ErrorBody, Unavailable
from web.errors import StreamCut
from web.request_id import REQUEST_ID_HEADER
from web.request_record import RequestRecord
from web.sse import MEDIA_TYPE as EVENT_STREAM
from web.sse import error_event

# RFC 9110 section 7.6.1, plus headers that the server of each hop writes itself.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
# Headers about a browser's page concern only the tier that the browser talks to (web.origin_guard).
_PAGE = frozenset(b"origin referer sec-fetch-site sec-fetch-mode sec-fetch-dest sec-fetch-user".split())
_REQUEST_DROPPED = _HOP_BY_HOP | _PAGE | {b"host", b"content-length", b"accept-encoding", b"expect"}
# Only the tier that holds the body may retry, which is never the client.
_RESPONSE_DROPPED = _HOP_BY_HOP | {b"date", b"server", RETRYABLE_HEADER}
_TIMINGS = {QUEUE_HEADER: "queue_ms", LOAD_HEADER: "load_ms", MODEL_HEADER: "model_ms"}
_SLICE = 1 << 18  # bytes

Headers = Iterable[tuple[bytes, bytes]]


class UpstreamUnreachable(Exception):
    """No connection could be made: the request was not received."""


class UpstreamDisconnected(Exception):
    """The connection ended before the response began: the request may have been received."""


class EventRewrite(Protocol):
    """Rewrites the events of a stream. Chunks may be cut anywhere."""

    def feed(self, chunk: bytes) -> bytes:
        """The bytes to send for *chunk*; empty: nothing yet."""

    def end(self) -> bytes:
        """The bytes to send after the last chunk."""

    def broken(self, error: ErrorBody) -> bytes:
        """The last events of a stream that broke off."""


class _NoCookies(aiohttp.DummyCookieJar):
    """Stores no cookies, and avoids building an empty jar for each request."""

    _none: SimpleCookie = SimpleCookie()

    def filter_cookies(self, request_url: URL) -> SimpleCookie:
        return self._none


def open_session() -> aiohttp.ClientSession:
    """A client session without limits or timeouts of its own; its callers set them."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    return aiohttp.ClientSession(
        auto_decompress=False,
        connector=connector,
        timeout=timeout,
        trust_env=False,
        cookie_jar=_NoCookies(),  # one client's cookies are not for the next
        skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
    )


def forwarded_headers(
    headers: Headers, *, private: frozenset[bytes] = frozenset(), response: bool = False
) -> list[tuple[bytes, bytes]]:
    """*headers* without those that belong to one hop, and without *private* ones (in lower case).

    *response*: they are the headers of a response.
    """
    dropped = _RESPONSE_DROPPED if response else _REQUEST_DROPPED
    headers = list(headers)
    for key, value in headers:
        if key.lower() == b"connection":
            # The request id is ours, whatever the client lists.
            dropped |= {token.strip().lower() for token in value.split(b",")} - {REQUEST_ID_HEADER}
    dropped |= private
    return [(key, value) for key, value in headers if key.lower() not in dropped]


async def send_upstream(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    headers: Headers,
    body: bytes | AsyncIterator[bytes] | None = None,
    *,
    length: int | None = None,
) -> aiohttp.ClientResponse:
    """Send a request and return when the response head has arrived. The caller closes the response.

    *headers*: those of ``forwarded_headers``, and new ones. *length*: of a *body* that is an iterator,
    if known. Raises ``UpstreamUnreachable`` or ``UpstreamDisconnected``. Keeps no reference to the
    body.
    """
    sent = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in headers]
    if isinstance(body, bytes):
        length = len(body)
        if length > _SLICE:
            body = _slices(body)
    if length is not None:
        sent.append(("content-length", str(length)))
    try:
        return await session.request(
            method,
            url,
            data=body,
            headers=sent,
            allow_redirects=False,
        )
    except aiohttp.ClientConnectorError as exc:
        raise UpstreamUnreachable(str(exc)) from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise UpstreamDisconnected(str(exc)) from exc


async def forward_response(
    response: aiohttp.ClientResponse,
    send: Send,
    *,
    cut_off: Callable[[], ApiError | Awaitable[ApiError]],
    source: str,
    record: RequestRecord,
    extra_headers: Headers = (),
    begun: bool = False,
    events: EventRewrite | None = None,
) -> None:
    """Forward *response* to *send* and close it; *record* is filled in.

    *begun*: the head of an event stream has been sent already. *events* rewrites such a stream.
    *cut_off* makes the error that ends a stream that breaks off. Raises ``StreamCut``.
    """
    async with response:
        streamed = response.content_type == EVENT_STREAM
        rewrite = events if streamed else None
        kept = [*forwarded_headers(response.raw_headers, response=True), *extra_headers]
        _note_timings(record, kept)
        if not begun:
            await send({"type": "http.response.start", "status": response.status, "headers": kept})
        content, ended = response.content, False
        try:
            while not ended:
                chunk = await content.readany()
                ended = content.at_eof()
                if rewrite is not None:
                    chunk = rewrite.feed(chunk) + (rewrite.end() if ended else b"")
                await send({"type": "http.response.body", "body": chunk, "more_body": not ended})
        except (aiohttp.ClientError, OSError) as exc:
            if not streamed:
                raise StreamCut("the response broke off") from exc
            made = cut_off()
            error = made if isinstance(made, ApiError) else await made
            record.error = error.message
            await end_stream(send, error.body(source), rewrite)
        except asyncio.CancelledError:
            # This server is stopping, or the client has gone and gets nothing.
            if streamed:
                stopping = Unavailable(f"the {source} is stopping")
                await end_stream(send, stopping.body(source), rewrite)
            raise


async def end_stream(send: Send, error: ErrorBody, rewrite: EventRewrite | None) -> None:
    """End an event stream that has begun with an event for *error*."""
    last = error_event(error) if rewrite is None else rewrite.broken(error)
    await send({"type": "http.response.body", "body": last, "more_body": False})


async def read_whole(
    response: aiohttp.ClientResponse, limit: int, record: RequestRecord
) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """The headers of *response* to forward, and its body; None if the body has more than *limit* bytes.

    Closes *response*. For the few responses that are rewritten. Raises ``UpstreamDisconnected``.
    """
    async with response:
        kept = forwarded_headers(response.raw_headers, response=True)
        _note_timings(record, kept)
        parts, size = [], 0
        try:
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > limit:
                    return kept, None
                parts.append(chunk)
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamDisconnected(str(exc)) from exc
        return kept, b"".join(parts)


def _note_timings(record: RequestRecord, headers: Headers) -> None:
    for key, value in headers:
        name = _TIMINGS.get(key.lower())
        if name is not None and value.isdigit():
            setattr(record, name, int(value))


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(body), _SLICE):
        yield bytes(view[start : start + _SLICE])
