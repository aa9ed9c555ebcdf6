"""Begins the answer to a stream that is slow to begin: comments, so that no client's time runs out.

Rules: a stream that begins in time costs one timer. Once a comment has gone out the status is 200, so
whatever goes wrong afterwards has to be told by an event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from starlette.types import Send

from contracts.control import ModelStatus, WorkerState
from web import sse


class Heartbeat:
    """``async with Heartbeat(...)``: comments every *every_s* seconds, for as long as the block runs.

    *tell*: what the next comment says. ``begun``: the head of the answer has gone out.
    """

    def __init__(self, send: Send, tell: Callable[[], Awaitable[str]], *, every_s: float) -> None:
        self._send = send
        self._tell = tell
        self._every_s = every_s
        self._beating: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.begun = False

    async def __aenter__(self) -> Heartbeat:
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._begin)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._beating is not None:
            self._beating.cancel()
            # Gathered, so that its cancellation is not taken for ours.
            await asyncio.gather(self._beating, return_exceptions=True)

    def _begin(self) -> None:
        self._beating = asyncio.create_task(self._beat(), name="heartbeat")

    async def _beat(self) -> None:
        while True:
            comment = sse.comment(await self._tell())
            if not self.begun:
                await self._send({"type": "http.response.start", "status": 200, "headers": sse.HEADERS})
                self.begun = True
            with contextlib.suppress(OSError):  # who has left is noticed elsewhere
                await self._send({"type": "http.response.body", "body": comment, "more_body": True})
            await asyncio.sleep(self._every_s)


def progress_of(model: ModelStatus | None) -> str:
    """What a request for *model* waits for, in a few words; None: the manager doesn't say."""
    if model is None:
        return "waiting"
    if model.status is WorkerState.READY:
        return "waiting for its turn"
    if model.status is not WorkerState.STARTING:
        return "waiting for memory"
    download = model.download
    if model.phase != "downloading" or not download.total_bytes:
        return model.phase or "starting"
    share = f"downloading {100 * download.done_bytes // download.total_bytes} %"
    return f"{share}, about {download.eta_seconds:.0f} s" if download.eta_seconds >= 1 else share
