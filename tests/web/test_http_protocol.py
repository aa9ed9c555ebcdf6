"""Gathering writes: nothing is lost, nothing changes its order, nothing is held back for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from web.http_protocol import CoalescingTransport


class Recorder:
    """A transport that keeps what is written, call by call."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.calls.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


def recorded(use: Callable[[Any], Any]) -> Recorder:
    """*use* a transport in one turn of the event loop; what has been written after the next."""
    recorder = Recorder()

    async def run() -> None:
        transport: Any = recorder
        use(CoalescingTransport(transport, asyncio.get_running_loop()))
        await asyncio.sleep(0)

    asyncio.run(run())
    return recorder


def test_what_one_turn_writes_leaves_in_one_call_in_its_order() -> None:
    def use(transport: CoalescingTransport) -> None:
        for part in (b"head", b"body", b"end"):
            transport.write(part)

    assert recorded(use).calls == [b"headbodyend"]


def test_what_is_gathered_when_the_client_goes_is_dropped() -> None:
    recorder = Recorder()

    async def run() -> None:
        inner: Any = recorder
        CoalescingTransport(inner, asyncio.get_running_loop()).write(b"too late")
        recorder.closed = True  # by the other side
        await asyncio.sleep(0)

    asyncio.run(run())
    assert recorder.calls == []


def test_what_the_next_turn_writes_leaves_by_itself() -> None:
    recorder = Recorder()

    async def run() -> None:
        inner: Any = recorder
        transport = CoalescingTransport(inner, asyncio.get_running_loop())
        for part in (b"one", b"two"):
            transport.write(part)
            await asyncio.sleep(0)

    asyncio.run(run())
    assert recorder.calls == [b"one", b"two"]


def test_closing_sends_first_what_was_gathered() -> None:
    def use(transport: CoalescingTransport) -> None:
        transport.write(b"last words")
        transport.close()

    recorder = recorded(use)
    assert (recorder.calls, recorder.closed) == ([b"last words"], True)


def test_much_is_not_gathered_so_that_flow_control_sees_it() -> None:
    seen: list[int] = []

    def use(transport: CoalescingTransport) -> None:
        for _ in range(64):
            transport.write(bytes(1 << 14))
        seen.append(len(recorder_of(transport).calls))

    def recorder_of(transport: CoalescingTransport) -> Any:
        return transport._transport

    assert sum(len(call) for call in recorded(use).calls) == 64 << 14
    assert seen == [16]


def test_everything_else_is_the_transport_s() -> None:
    recorder: Any = Recorder()

    async def run() -> Any:
        return CoalescingTransport(recorder, asyncio.get_running_loop()).get_extra_info("socket")

    assert asyncio.run(run()) == "the socket"
