"""Receiving a request: read-ahead and size are bounded, and a disconnect is always noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from starlette.types import Message, Receive

from contracts.errors import PayloadTooLarge
from tests.loops import in_loop
from web.request_body import ClientGone, RequestBody


class Source:
    """Yields ASGI messages and counts them; after the last one it waits forever."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = list(messages)
        self.taken = 0

    async def receive(self) -> Message:
        if self.taken == len(self._messages):
            await asyncio.Event().wait()
        self.taken += 1
        return self._messages[self.taken - 1]


def body(*chunks: bytes, whole: bool = True) -> list[Message]:
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    if whole:
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    return messages


GONE: Message = {"type": "http.disconnect"}


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def read(receive: Receive, limit: int = 100) -> bytes:
    async with RequestBody(receive) as request_body:
        return await request_body.read(limit)


def test_a_body_is_read_whole_and_in_order() -> None:
    assert asyncio.run(read(Source(body(b"a", b"", b"bc")).receive)) == b"abc"


def test_a_body_beyond_the_limit_is_refused_before_it_is_read_whole() -> None:
    source = Source(body(*[b"x" * 60] * 1000))
    with pytest.raises(PayloadTooLarge):
        asyncio.run(read(source.receive))


def test_a_body_that_ends_early_means_the_client_is_gone() -> None:
    with pytest.raises(ClientGone):
        asyncio.run(read(Source([*body(b"a", whole=False), GONE]).receive))


@in_loop
async def test_read_ahead_is_bounded() -> None:
    source = Source(body(*[b"x" * 10] * 50))

    async def work() -> None:
        await settle()
        assert source.taken == 3
        chunks = request_body.chunks()
        await anext(chunks)
        await settle()
        assert source.taken == 4
        assert sum([len(chunk) async for chunk in chunks]) == 490

    async with RequestBody(source.receive, read_ahead=30) as request_body:
        await request_body.while_connected(work())


@in_loop
async def test_a_disconnect_cancels_the_work() -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with RequestBody(Source([*body(b"a"), GONE]).receive) as request_body:
        await request_body.read(10)
        with pytest.raises(ClientGone):
            await request_body.while_connected(work())
    assert cancelled.is_set()


@in_loop
async def test_the_result_or_error_of_work_is_returned() -> None:
    async def fails() -> None:
        raise LookupError("x")

    async with RequestBody(Source(body()).receive) as request_body:
        assert await request_body.while_connected(asyncio.sleep(0, "done")) == "done"
        with pytest.raises(LookupError):
            await request_body.while_connected(fails())


@in_loop
async def test_nothing_is_left_running_after_the_block() -> None:
    async with RequestBody(Source([]).receive) as request_body:
        await request_body.while_connected(settle())
    assert len(asyncio.all_tasks()) == 1


@in_loop
async def test_the_body_is_read_while_work_runs() -> None:
    async with RequestBody(Source([*body(b"a", b"b"), GONE]).receive) as request_body:

        async def work() -> bytes:
            taken = b"".join([chunk async for chunk in request_body.chunks()])
            await asyncio.Event().wait()
            return taken

        with pytest.raises(ClientGone):
            await request_body.while_connected(work())


@in_loop
async def test_work_is_not_started_for_a_disconnected_client() -> None:
    async def work() -> None:
        raise AssertionError("begun")

    async with RequestBody(Source([GONE]).receive) as request_body:
        with pytest.raises(ClientGone):
            await request_body.read(10)
        with pytest.raises(ClientGone):
            await request_body.while_connected(work())


@in_loop
async def test_an_outside_cancellation_is_kept() -> None:
    async with RequestBody(Source(body()).receive) as request_body:
        serving = asyncio.ensure_future(request_body.while_connected(asyncio.Event().wait()))
        await settle()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving


@in_loop
async def test_a_disconnect_does_not_hide_an_outside_cancellation() -> None:
    leave = asyncio.Event()

    async def receive() -> Message:
        await leave.wait()
        return GONE

    async with RequestBody(receive) as request_body:
        serving = asyncio.ensure_future(request_body.while_connected(asyncio.Event().wait()))
        await settle()
        leave.set()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving


@in_loop
async def test_after_a_disconnect_the_task_is_not_cancelled() -> None:
    async with RequestBody(Source([GONE]).receive) as request_body:
        with pytest.raises(ClientGone):
            await request_body.while_connected(asyncio.Event().wait())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
