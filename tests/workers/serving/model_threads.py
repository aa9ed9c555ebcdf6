"""A model thread under test, and what waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from contracts.control import Phase
from workers.serving.model_thread import ModelThread


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a condition of another thread
            await asyncio.sleep(0.002)


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


@asynccontextmanager
async def running(
    engine: Any, *, ready: bool = True, failed: threading.Event | None = None, **fields: Any
) -> AsyncIterator[ModelThread[Any, Any]]:
    thread: ModelThread[Any, Any] = ModelThread(
        engine, on_failed=(failed or threading.Event()).set, **fields
    )
    thread.start()
    try:
        if ready:
            await until(lambda: thread.phase is Phase.READY)
        yield thread
    finally:
        engine.turnstile.set()
        engine.gate.set()
        assert thread.close(5)


async def collected(thread: ModelThread[Any, Any], job: Any) -> list[Any]:
    async with aclosing(thread.run(job)) as events:
        return [event async for event in events]
