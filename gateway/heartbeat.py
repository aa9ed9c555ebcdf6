"""Begins a stream that is slow to begin: sends comments, so that no client times out.

Rules: a stream that begins in time costs one timer. Once a comment is sent the status is 200, so later
errors become an event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from starlette.types import Send

from contracts.control import ModelStatus, WorkerState
from web import sse


class Heartbeat:
    """``async with Heartbeat(...)``: a comment every *every_s* seconds while the block runs.

    *describe*: the text of the next comment. ``begun``: the response head has been sent.
    """

    def __init__(self, send: Send, describe: Callable[[], Awaitable[str]], *, every_s: float) -> None:
        self._send = send
        self._describe = describe
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
            # Gathered, so that its cancellation is not mistaken for this task's.
            await asyncio.gather(self._beating, return_exceptions=True)

    def _begin(self) -> None:
        self._beating = asyncio.create_task(self._beat(), name="heartbeat")

    async def _beat(self) -> None:
        while True:
            comment = sse.comment(await self._describe())
            if not self.begun:
                await self._send({"type": "http.response.start", "status": 200, "headers": sse.HEADERS})
                self.begun = True
            with contextlib.suppress(OSError):  # a disconnect is noticed elsewhere
                await self._send({"type": "http.response.body", "body": comment, "more_body": True})
            await asyncio.sleep(self._every_s)


def progress_of(model: ModelStatus | None) -> str:
    """What a request for *model* waits for, in a few words. None: the manager does not report it."""
    if model is None:
        return "waiting"
    if model.status is WorkerState.READY:
        return "waiting for its turn"
    if model.status is not WorkerState.STARTING:
        return "waiting for memory"
    download = model.download
    if not model.phase.startswith("downloading") or not download.total_bytes:
        return model.phase or "starting"
    share = f"downloading {100 * download.done_bytes // download.total_bytes} %"
    return f"{share}, about {download.eta_seconds:.0f} s" if download.eta_seconds >= 1 else share
