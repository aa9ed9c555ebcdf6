"""Coalesced writes are complete, in order and sent soon; uvicorn has what the protocol overrides."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

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
    """*use* a transport in one turn of the event loop; returns the writes after the next turn."""
    recorder = Recorder()

    async def run() -> None:
        transport: Any = recorder
        use(CoalescingTransport(transport, asyncio.get_running_loop()))
        await asyncio.sleep(0)

    asyncio.run(run())
    return recorder


def test_writes_of_one_turn_are_sent_together_in_order() -> None:
    def use(transport: CoalescingTransport) -> None:
        for part in (b"head", b"body", b"end"):
            transport.write(part)

    assert recorded(use).calls == [b"headbodyend"]


def test_coalesced_data_is_dropped_when_the_client_disconnects() -> None:
    recorder = Recorder()

    async def run() -> None:
        inner: Any = recorder
        CoalescingTransport(inner, asyncio.get_running_loop()).write(b"too late")
        recorder.closed = True  # by the other side
        await asyncio.sleep(0)

    asyncio.run(run())
    assert recorder.calls == []


def test_writes_of_the_next_turn_are_sent_separately() -> None:
    recorder = Recorder()

    async def run() -> None:
        inner: Any = recorder
        transport = CoalescingTransport(inner, asyncio.get_running_loop())
        for part in (b"one", b"two"):
            transport.write(part)
            await asyncio.sleep(0)

    asyncio.run(run())
    assert recorder.calls == [b"one", b"two"]


def test_closing_flushes_coalesced_data() -> None:
    def use(transport: CoalescingTransport) -> None:
        transport.write(b"last words")
        transport.close()

    recorder = recorded(use)
    assert (recorder.calls, recorder.closed) == ([b"last words"], True)


def test_large_writes_are_not_coalesced() -> None:
    seen: list[int] = []

    def use(transport: CoalescingTransport) -> None:
        for _ in range(64):
            transport.write(bytes(1 << 14))
        seen.append(len(recorder_of(transport).calls))

    def recorder_of(transport: CoalescingTransport) -> Any:
        return transport._transport

    assert sum(len(call) for call in recorded(use).calls) == 64 << 14
    assert seen == [16]


def test_uvicorn_has_the_undocumented_names_that_the_protocol_uses() -> None:
    """After an upgrade, compare uvicorn's ``httptools_impl.py`` with ``web/http_protocol.py``; then
    update the version here.
    """
    assert uvicorn.__version__ == "0.54.0"
    config = uvicorn.Config(HttpToolsProtocol, log_config=None, lifespan="off")
    config.load()

    async def made() -> HttpToolsProtocol:
        return HttpToolsProtocol(config, ServerState(), {})

    protocol = asyncio.run(made())
    for method in (
        "_unset_keepalive_if_required",
        "connection_made",
        "connection_lost",
        "data_received",
        "on_body",
        "on_headers_complete",
        "on_message_complete",
        "send_400_response",
    ):
        assert callable(getattr(protocol, method)), method
    for attribute in ("connections", "cycle", "flow", "headers", "loop", "parser", "pipeline", "scope"):
        assert hasattr(protocol, attribute), attribute
    source = inspect.getsource(RequestResponseCycle.__init__)
    for attribute in ("disconnected", "message_event", "response_complete", "response_started"):
        assert f"self.{attribute} =" in source, attribute
