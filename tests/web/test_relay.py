"""Relaying: what ends at a hop, and how a failure of the upstream is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from contracts.errors import WorkerFailed
from tests.servers import free_port
from web.relay import Outbound, UpstreamBroke, UpstreamUnreachable, open_session, passed_on, relay


@pytest.mark.parametrize(
    "name", [b"Connection", b"Keep-Alive", b"Transfer-Encoding", b"Upgrade", b"TE", b"Trailer", b"Host"]
)
def test_hop_by_hop_headers_end_here(name: bytes) -> None:
    assert passed_on([(name, b"x"), (b"X-Other", b"y")]) == [(b"X-Other", b"y")]


def test_headers_that_the_connection_header_names_end_here_too() -> None:
    headers = [(b"connection", b"close, X-Private"), (b"x-private", b"1"), (b"x-kept", b"2")]
    assert passed_on(headers) == [(b"x-kept", b"2")]


@given(st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=6))
def test_nothing_is_added_and_the_order_is_kept(headers: list[tuple[bytes, bytes]]) -> None:
    kept = list(passed_on(headers))
    rest = iter(headers)
    assert all(header in rest for header in kept)


async def relayed(port: int, method: str = "POST") -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async with open_session() as session:
        outbound = Outbound(method, f"http://127.0.0.1:{port}/x", [], b"body")
        await relay(session, outbound, send, cut_off=lambda: WorkerFailed("cut"), source="test")
    return sent


async def with_server(answer: bytes) -> Any:
    """Relay to a raw server that reads a request, writes *answer* and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        return await relayed(server.sockets[0].getsockname()[1])


def test_no_connection_is_told_as_unreachable() -> None:
    with pytest.raises(UpstreamUnreachable):
        asyncio.run(relayed(free_port()))


def test_a_connection_that_ends_without_an_answer_is_told_as_broken() -> None:
    with pytest.raises(UpstreamBroke):
        asyncio.run(with_server(b""))


def test_an_event_stream_that_is_cut_ends_with_an_error_event() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    sent = asyncio.run(with_server(head + b"9\r\ndata: {}\n\r\n"))
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
            outbound = Outbound("POST", f"http://127.0.0.1:{port}/x", [], b"body")
            cut = WorkerFailed("cut")
            work = asyncio.create_task(relay(session, outbound, send, cut_off=lambda: cut, source="t"))
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


def test_another_answer_that_is_cut_is_cut_for_the_client_too() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    with pytest.raises(Exception, match="broke off"):
        asyncio.run(with_server(head))


def test_an_answer_passes_with_its_status_and_its_own_headers() -> None:
    head = (
        b"HTTP/1.1 418 Teapot\r\nX-A: 1\r\nConnection: close\r\nServer: s\r\ncontent-length: 2\r\n\r\n"
    )
    sent = asyncio.run(with_server(head + b"{}"))
    assert sent[0]["status"] == 418
    assert [(k.lower(), v) for k, v in sent[0]["headers"]] == [
        (b"x-a", b"1"),
        (b"content-length", b"2"),
    ]
    assert b"".join(message["body"] for message in sent[1:]) == b"{}"
