"""Relays one request to the next tier, and its answer back, chunk by chunk.

Two steps: ``ask`` returns with the head of the answer, so that it can be looked at before the client
sees anything of it; ``pass_on`` gives the client that head and the body behind it.
Rules: bytes are passed on as they come, never collected and never decompressed; hop-by-hop headers end
here; a client that leaves closes the upstream connection at once (``Inbound.while_here``); an upstream
that breaks off is told to the client: before the answer began by an exception, in a stream of events by
an error event, else by cutting the connection, which chunked framing makes visible.
aiohttp's client, since httpx's pool costs several times as much per request (docs/dev/architecture.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Protocol

import aiohttp
from starlette.types import Send
from yarl import URL

from contracts.control import LOAD_HEADER, MODEL_HEADER, QUEUE_HEADER, RETRYABLE_HEADER
from contracts.errors import ApiError, ErrorBody, Unavailable
from web.access_log import HEADER as REQUEST_ID
from web.errors import error_event
from web.request_record import Account

# RFC 9110 section 7.6.1, plus what the server of each hop writes itself.
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
# What a browser says of the page that asks is between it and the tier that it asks (web.origin_guard).
_PAGE = frozenset(b"origin referer sec-fetch-site sec-fetch-mode sec-fetch-dest sec-fetch-user".split())
_REQUEST_DROPPED = _HOP_BY_HOP | _PAGE | {b"host", b"content-length", b"accept-encoding", b"expect"}
# That an answer may be asked for again is for whoever holds the body, which is never the client.
_ANSWER_DROPPED = _HOP_BY_HOP | {b"date", b"server", RETRYABLE_HEADER}
_TIMINGS = {QUEUE_HEADER: "queue_ms", LOAD_HEADER: "load_ms", MODEL_HEADER: "model_ms"}
_SLICE = 1 << 18  # bytes
EVENT_STREAM = "text/event-stream"

Headers = Iterable[tuple[bytes, bytes]]


class UpstreamUnreachable(Exception):
    """No connection could be made: the request was not received."""


class UpstreamBroke(Exception):
    """The connection ended before the answer began: the request may have been received."""


class StreamCut(Exception):
    """The answer broke off in the middle; raised so that the server cuts the client's connection."""


class EventRewrite(Protocol):
    """Turns the events of a stream into others, whatever the pieces are in which they come."""

    def feed(self, chunk: bytes) -> bytes:
        """What is to be sent for *chunk*; empty: nothing yet."""

    def end(self) -> bytes:
        """What is to be sent after the last one."""

    def broken(self, error: ErrorBody) -> bytes:
        """The last events of a stream that broke off."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """One request to send upstream. ``body``: bytes, or an iterator with its length when known."""

    method: str
    url: str
    headers: Headers
    body: bytes | AsyncIterator[bytes] | None = None
    content_length: int | None = None


class _NoCookies(aiohttp.DummyCookieJar):
    """Keeps none, and does not make an empty jar for each request either."""

    _none: SimpleCookie = SimpleCookie()

    def filter_cookies(self, request_url: URL) -> SimpleCookie:
        return self._none


def open_session() -> aiohttp.ClientSession:
    """A client session without limits or time-outs of its own: those are decided by its callers."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    return aiohttp.ClientSession(
        auto_decompress=False,
        connector=connector,
        timeout=timeout,
        trust_env=False,
        cookie_jar=_NoCookies(),  # what one client is told is not for the next
        skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
    )


def passed_on(headers: Headers, dropped: frozenset[bytes] = _REQUEST_DROPPED) -> Headers:
    """*headers* without those that belong to one hop."""
    headers = list(headers)
    for key, value in headers:
        if key.lower() == b"connection":
            # The id is ours, whatever the client says of its own.
            dropped |= {token.strip().lower() for token in value.split(b",")} - {REQUEST_ID}
    return [(key, value) for key, value in headers if key.lower() not in dropped]


async def ask(session: aiohttp.ClientSession, outbound: Outbound) -> aiohttp.ClientResponse:
    """Send *outbound*; returns when the head of its answer is there. To be closed by the caller.

    Raises ``UpstreamUnreachable`` or ``UpstreamBroke``. Holds nothing of the body when it returns.
    """
    headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in passed_on(outbound.headers)]
    body: bytes | AsyncIterator[bytes] | None = outbound.body
    length = outbound.content_length
    if isinstance(body, bytes):
        length = len(body)
        if length > _SLICE:
            body = _slices(body)
    if length is not None:
        headers.append(("content-length", str(length)))
    try:
        return await session.request(
            outbound.method, outbound.url, data=body, headers=headers, allow_redirects=False
        )
    except aiohttp.ClientConnectorError as exc:
        raise UpstreamUnreachable(str(exc)) from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise UpstreamBroke(str(exc)) from exc


def may_be_repeated(answer: aiohttp.ClientResponse) -> bool:
    """Whether the next tier says that nothing was answered, so that the request may be sent again."""
    return answer.status == 503 and RETRYABLE_HEADER.decode() in answer.headers


async def pass_on(
    answer: aiohttp.ClientResponse,
    send: Send,
    *,
    cut_off: Callable[[], ApiError | Awaitable[ApiError]],
    source: str,
    account: Account,
    extra_headers: Headers = (),
    begun: bool = False,
    events: EventRewrite | None = None,
) -> None:
    """Give *answer* to *send*, and close it; *account* is told what passes.

    *begun*: the head of an event stream has gone out already. *events* rewrites such a stream.
    *cut_off* makes the error that it ends with when it is cut. Raises ``StreamCut``.
    """
    async with answer:
        streamed = answer.content_type == EVENT_STREAM
        rewrite = events if streamed else None
        kept = [*passed_on(answer.raw_headers, _ANSWER_DROPPED), *extra_headers]
        _note_timings(account, kept)
        if not begun:
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
        content, ended = answer.content, False
        try:
            while not ended:
                chunk = await content.readany()
                ended = content.at_eof()
                if rewrite is not None:
                    chunk = rewrite.feed(chunk) + (rewrite.end() if ended else b"")
                await send({"type": "http.response.body", "body": chunk, "more_body": not ended})
        except (aiohttp.ClientError, OSError) as exc:
            if not streamed:
                raise StreamCut("the answer broke off") from exc
            made = cut_off()
            error = made if isinstance(made, ApiError) else await made
            account.error = error.message
            await end_with(send, error.body(source), rewrite)
        except asyncio.CancelledError:
            # This server stops, or the client has left, who then gets nothing.
            if streamed:
                stopping = Unavailable(f"the {source} is stopping")
                await end_with(send, stopping.body(source), rewrite)
            raise


async def end_with(send: Send, error: ErrorBody, rewrite: EventRewrite | None) -> None:
    """End an event stream that has begun with the event that tells *error*."""
    last = error_event(error) if rewrite is None else rewrite.broken(error)
    await send({"type": "http.response.body", "body": last, "more_body": False})


async def whole(
    answer: aiohttp.ClientResponse, limit: int, account: Account
) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
    """The headers of *answer* that go on, and its body, or None when that has more than *limit* bytes.

    Closes it. For the few answers that are looked into; raises ``UpstreamBroke`` when it breaks off.
    """
    async with answer:
        kept = [*passed_on(answer.raw_headers, _ANSWER_DROPPED)]
        _note_timings(account, kept)
        parts, size = [], 0
        try:
            async for chunk in answer.content.iter_any():
                size += len(chunk)
                if size > limit:
                    return kept, None
                parts.append(chunk)
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamBroke(str(exc)) from exc
        return kept, b"".join(parts)


def _note_timings(account: Account, headers: Headers) -> None:
    for key, value in headers:
        name = _TIMINGS.get(key.lower())
        if name is not None and value.isdigit():
            setattr(account, name, int(value))


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(body), _SLICE):
        yield bytes(view[start : start + _SLICE])
