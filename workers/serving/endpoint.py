"""What every route of a worker does around its work.

Rules: ASGI, because one task must read both the body and the disconnect (``web.request_body``); a
client
that leaves cancels its job, streaming or not; an error before the first byte is an answer with its
status, after it the last event of the stream; one log line per request, without what was said.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from contracts.control import MODEL_HEADER, Caches, Phase, Work, WorkerHealth
from contracts.errors import ApiError
from contracts.settings.models import ImageSettings, VlmSettings
from contracts.wire import parse_json
from web import sse
from web.access_log import HEADER
from web.errors import answer_errors, error_response, internal_error, sse_error
from web.request_body import RequestBody
from web.request_record import record_of
from workers.backend import runtime
from workers.engine import Hosted, Job, Telling
from workers.image.progress import Progress
from workers.serving.answers import Identity
from workers.serving.model_thread import ModelThread, Timing

SOURCE = "worker"
MAX_BODY = 256 << 20  # bytes; the gateway has its own, smaller limit
SMALL_BODY = 64 << 10  # bytes; what takes no noticeable time to parse
PREPARED = 4  # jobs whose pictures may be decoded at a time; the others wait as they came

log = logging.getLogger(__name__)
Parsed = TypeVar("Parsed", bound=BaseModel)


@dataclass
class Worker:
    """The state of this process that its routes share. Touched on the event loop alone."""

    alias: str
    settings: VlmSettings | ImageSettings
    thread: ModelThread[Any, Any]
    nonce: str
    pid: int
    started: float = field(default_factory=time.monotonic)
    active: int = 0
    count: int = 0
    progress: Progress | None = None  # of the drawing that the model is at
    telling: Telling | None = None  # the engine, if it counts what it does
    hosted: Hosted | None = None  # the engine, if its model may be on the Hub
    prepared: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PREPARED))

    def health(self) -> WorkerHealth:
        return WorkerHealth(
            alias=self.alias,
            phase=self.thread.phase,
            detail=self.thread.detail,
            nonce=self.nonce,
            pid=self.pid,
            active_requests=self.active,
            request_count=self.count,
            uptime_seconds=round(time.monotonic() - self.started, 3),
            jobs=self.thread.jobs,
            progress=self.thread.progress,
            device=runtime.device_memory(),
            work=self.telling.work() if self.telling else Work(),
            caches=self.telling.caches() if self.telling else Caches(),
            download=self.thread.download,
            drawing=None if self.progress is None else self.progress.drawing,
            revision=self.hosted.located.commit if self.hosted else "",
            newer_revision=self.hosted.located.newer if self.hosted else "",
        )

    def identity(self, prefix: str, request_id: str) -> Identity:
        return Identity(f"{prefix}-{request_id}", int(time.time()), self.alias)

    @asynccontextmanager
    async def running(
        self, prepare: Callable[[], Job], exchange: Exchange
    ) -> AsyncIterator[tuple[Job, AsyncIterator[Any]]]:
        """The job that *prepare* makes (in a thread: it decodes pictures), and its events.

        At the end *exchange* is told how long the model took.
        """
        async with self.prepared:
            job = await asyncio.to_thread(prepare)
            timing = Timing()
            try:
                async with aclosing(self.thread.run(job, timing)) as events:
                    yield job, events
            finally:
                exchange.model_s = timing.seconds(self.thread.clock())


@dataclass
class Exchange:
    """One request: its id, its body, and what the log line will say.

    ``model_s``: seconds that the model took, its queue excluded; known once the job is done.
    """

    request_id: str
    body: bytes
    notes: dict[str, int] = field(default_factory=dict)
    model_s: float = 0.0

    @property
    def model_ms(self) -> int:
        return round(self.model_s * 1000)

    async def parsed(self, cls: type[Parsed]) -> Parsed:
        if len(self.body) <= SMALL_BODY:
            return parse_json(cls, self.body)
        return await asyncio.to_thread(parse_json, cls, self.body)


Answer = bytes | AsyncGenerator[bytes, None]  # a whole JSON body, or server-sent events
Handler = Callable[[Exchange], Awaitable[Answer]]


class Stopwatch:
    """Seconds since the model began; it begins with the first event."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def restart(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


class Endpoint:
    """An ASGI app around a *handle* that turns an exchange into an answer."""

    def __init__(self, worker: Worker, handle: Handler) -> None:
        self._worker = worker
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker = self._worker
        headers = dict(scope["headers"])
        exchange = Exchange(headers.get(HEADER, b"-").decode("latin-1"), b"")
        record = record_of(scope)
        began = time.monotonic()
        worker.active += 1
        worker.count += 1

        async def refuse(error: ApiError) -> None:
            await error_response(error, SOURCE)(scope, receive, send)

        try:
            async with answer_errors(record, SOURCE, refuse), RequestBody(receive) as request_body:
                if worker.thread.phase is not Phase.READY:
                    raise worker.thread.unavailable()
                exchange.body = await request_body.read(MAX_BODY)
                await request_body.while_connected(self._answer(exchange, send))
        finally:
            worker.active -= 1
            log.info(
                "alias=%s request=%s %s %s status=%d ms=%d model_ms=%d%s",
                worker.alias,
                exchange.request_id,
                scope["method"],
                scope["path"],
                record.status,
                (time.monotonic() - began) * 1000,
                exchange.model_ms,
                "".join(f" {key}={value}" for key, value in exchange.notes.items()),
            )

    async def _answer(self, exchange: Exchange, send: Send) -> None:
        answer = await self._handle(exchange)
        if isinstance(answer, bytes):
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(answer)).encode()),
                (MODEL_HEADER, str(exchange.model_ms).encode()),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})
            return
        await self._stream(answer, send)

    async def _stream(self, chunks: AsyncGenerator[bytes, None], send: Send) -> None:
        async with aclosing(chunks):
            first = await anext(chunks)  # what fails before it, fails with a status of its own
            await send({"type": "http.response.start", "status": 200, "headers": sse.HEADERS})
            await _send_chunk(send, first)
            try:
                async for chunk in chunks:
                    await _send_chunk(send, chunk)
            except ApiError as exc:
                log.warning("a stream ends with an error: %s", exc.message)
                await _send_chunk(send, sse_error(exc, SOURCE))
            except Exception:
                log.exception("a stream ends with a fault")
                await _send_chunk(send, sse_error(internal_error(), SOURCE))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_chunk(send: Send, chunk: bytes) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": True})
