"""Serves ASGI apps on real sockets inside a test process, and finds free ports."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from starlette.types import ASGIApp

from web.receive_timeouts import Limits
from web.serve import DEFAULT_LIMITS, bind, make_server

# Below the range of ephemeral ports: an outgoing connection could take a port that was just free.
# Each process starts at another port, because others search at the same time.
_FIRST, _COUNT = 20000, 12000
_turns = itertools.count(os.getpid() * 1009)


def free_port() -> int:
    """A port that is free now and was not returned recently in this process."""
    for turn in itertools.islice(_turns, _COUNT):
        port = _FIRST + turn % _COUNT
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


@contextmanager
def served(app: ASGIApp, port: int = 0, limits: Limits = DEFAULT_LIMITS) -> Iterator[str]:
    """Serve *app* in a thread, with the server of the tiers; yields its URL."""
    sock = bind("127.0.0.1", port)
    server = make_server(app, graceful_s=1, limits=limits)
    started = threading.Event()
    stop: Callable[[], object]

    async def main_loop() -> None:
        # uvicorn's own loop polls every 0.1 s whether to stop, half the time of many tests.
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
