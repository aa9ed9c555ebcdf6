"""Runs ASGI apps over real sockets inside a test process, and finds free ports."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from starlette.types import ASGIApp

from web.intake import Limits
from web.serve import DEFAULT_LIMITS, bind, make_server

_given: set[int] = set()


def free_port() -> int:
    """One that is free now, and that nobody in this process was given before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


@contextmanager
def served(app: ASGIApp, port: int = 0, limits: Limits = DEFAULT_LIMITS) -> Iterator[str]:
    """Serve *app* in a thread, as its tier would; yields its URL."""
    sock = bind("127.0.0.1", port)
    server = make_server(app, graceful_s=1, limits=limits)
    started = threading.Event()
    stop: Callable[[], object]

    async def main_loop() -> None:
        # uvicorn's own looks every 0.1 s whether it is to stop, which makes half of many a test.
        nonlocal stop
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        stop = partial(loop.call_soon_threadsafe, stopping.set)
        await server.on_tick(0)
        started.set()
        await stopping.wait()

    server.main_loop = main_loop  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        assert started.wait(10), "the server did not start"
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        if started.is_set():
            stop()
        thread.join(15)
        sock.close()
        assert not thread.is_alive(), "the server did not stop"
