"""Forwarding: what ends at a hop, and how upstream failures are reported."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from aiohttp import ClientResponse, ClientSession
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from contracts.errors import WorkerFailed
from testkit.servers import free_port
from web.relay import (
    UpstreamDisconnected,
    UpstreamUnreachable,
    forward_response,
    forwarded_headers,
    open_session,
    send_upstream,
)
from web.request_record import RequestRecord

T = TypeVar("T")


_ONE_HOP = (b"Connection", b"Keep-Alive", b"Transfer-Encoding", b"Upgrade", b"TE", b"Trailer", b"Host")
_OF_A_PAGE = (b"Origin", b"Referer", b"Sec-Fetch-Site", b"sec-fetch-mode")


def test_headers_of_one_hop_of_a_page_and_private_ones_are_not_forwarded() -> None:
    headers = [(name, b"x") for name in (*_ONE_HOP, *_OF_A_PAGE, b"X-Private")]
    private = frozenset({b"x-private"})
    assert forwarded_headers([*headers, (b"X-A", b"y")], private=private) == [(b"X-A", b"y")]


def test_headers_named_by_the_connection_header_are_not_forwarded() -> None:
    headers = [(b"connection", b"close, X-Private"), (b"x-private", b"1"), (b"x-kept", b"2")]
    assert forwarded_headers(headers) == [(b"x-kept", b"2")]


@given(st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=6))
def test_nothing_is_added_and_the_order_is_kept(headers: list[tuple[bytes, bytes]]) -> None:
    kept = list(forwarded_headers(headers))
    rest = iter(headers)
    assert all(header in rest for header in kept)


async def relayed(port: int, record: RequestRecord) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async with open_session() as session:
        answer = await posted(session, port)
        await forward_response(
            answer, send, cut_off=lambda: WorkerFailed("cut"), source="test", record=record
        )
    return sent


async def posted(session: ClientSession, port: int) -> ClientResponse:
    return await send_upstream(session, "POST", f"http://127.0.0.1:{port}/x", [], b"body")


async def with_server(answer: bytes, use: Callable[[int], Awaitable[T]]) -> T:
    """*use* with the port of a raw server that reads a request, writes *answer* and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        return await use(server.sockets[0].getsockname()[1])


def relayed_from(answer: bytes, record: RequestRecord | None = None) -> list[Message]:
    record = record or RequestRecord(0)
    return asyncio.run(with_server(answer, lambda port: relayed(port, record)))


def test_no_connection_raises_upstream_unreachable() -> None:
    with pytest.raises(UpstreamUnreachable):
        asyncio.run(relayed(free_port(), RequestRecord(0)))


def test_a_connection_closed_before_the_response_raises_upstream_disconnected() -> None:
    with pytest.raises(UpstreamDisconnected):
        relayed_from(b"")


def test_an_event_stream_that_is_cut_ends_with_an_error_event() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    sent = relayed_from(head + b"9\r\ndata: {}\n\r\n")
    assert sent[0]["status"] == 200
    assert b"event: error" in sent[-1]["body"]
    assert b"worker_failed" in sent[-1]["body"]
    assert sent[-1]["more_body"] is False


def test_a_stop_of_this_server_ends_an_event_stream_with_an_error_event() -> None:
    async def run() -> list[Message]:
        sent: list[Message] = []
        begun, held, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"body")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
            await held.wait()
            writer.close()
            await writer.wait_closed()
            closed.set()

        async def send(message: Message) -> None:
            sent.append(message)
            if message.get("body"):
                begun.set()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, open_session() as session:
            answer = await posted(session, port)
            cut = WorkerFailed("cut")
            work = asyncio.create_task(
                forward_response(answer, send, cut_off=lambda: cut, source="t", record=RequestRecord(0))
            )
            await begun.wait()
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            held.set()
            await closed.wait()
        return sent

    sent = asyncio.run(run())
    assert b"the t is stopping" in sent[-1]["body"]
    assert sent[-1]["more_body"] is False


def test_any_other_cut_response_is_cut_for_the_client_too() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    with pytest.raises(Exception, match="broke off"):
        relayed_from(head)


def test_a_response_keeps_its_status_and_its_own_headers() -> None:
    head = (
        b"HTTP/1.1 418 Teapot\r\nX-A: 1\r\nConnection: close\r\nServer: s\r\ncontent-length: 2\r\n\r\n"
    )
    sent = relayed_from(head + b"{}")
    assert sent[0]["status"] == 418
    assert [(k.lower(), v) for k, v in sent[0]["headers"]] == [
        (b"x-a", b"1"),
        (b"content-length", b"2"),
    ]
    assert b"".join(message["body"] for message in sent[1:]) == b"{}"


RETRYABLE = b"HTTP/1.1 %b X\r\nx-vision-retryable: 1\r\ncontent-length: 2\r\n\r\n{}"


def test_the_retryable_mark_is_never_forwarded() -> None:
    sent = relayed_from(RETRYABLE % b"503")
    assert sent[0]["headers"] == [(b"content-length", b"2")]


def test_the_record_gets_the_timings() -> None:
    record = RequestRecord(0)
    head = b"HTTP/1.1 201 X\r\nX-Vision-Model-Ms: 7\r\nx-vision-queue-ms: 3\r\n"
    relayed_from(head + b"x-vision-load-ms: soon\r\ncontent-length: 5\r\n\r\n12345", record)
    assert (record.model_ms, record.queue_ms, record.load_ms) == (7, 3, None)


@pytest.mark.parametrize("size", [0, 5, (1 << 18) + 1])
def test_a_body_of_any_size_is_sent_whole_with_its_length(size: int) -> None:
    async def run() -> bytes:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert b"transfer-encoding" not in head
            length = int(head.partition(b"content-length: ")[2].split()[0])
            received.set_result(await reader.readexactly(length))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            writer.close()

        received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server, open_session() as session:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            async with await send_upstream(session, "POST", url, [], bytes(size)):
                return await received

    assert asyncio.run(run()) == bytes(size)
