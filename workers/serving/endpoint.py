"""The common part of all routes of a worker: body, disconnect, errors, log line.

Rules: plain ASGI, because one task must read both body and disconnect (``web.request_body``). A client
that disconnects cancels its job, streaming or not. An error before the first byte is a response with
its own status; after it, the last event of the stream. One log line per request, without its content.
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

from contracts.control import MODEL_HEADER, ImageProgress, Phase, WorkerHealth
from contracts.errors import ApiError
from contracts.settings.models import ImageSettings, VlmSettings
from contracts.wire import parse_json
from web import sse
from web.errors import answer_errors, error_response, internal_error, sse_error
from web.request_body import RequestBody
from web.request_id import REQUEST_ID_HEADER
from web.request_record import record_of
from workers.backend import runtime
from workers.engine import AnyEngine, Job
from workers.serving.model_thread import ModelThread, Timing

SOURCE = "worker"
MAX_BODY = 256 << 20  # bytes; the gateway has its own, smaller limit
SMALL_BODY = 64 << 10  # bytes; parsed on the event loop in no noticeable time
PREPARED = 4  # jobs that may hold decoded images at once; others wait, first come, first served

log = logging.getLogger(__name__)
Parsed = TypeVar("Parsed", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Identity:
    """What all parts of one response share."""

    id: str
    created: int
    model: str


@dataclass
class Worker:
    """The state of this process that its routes share. Used on the event loop only."""

    alias: str
    settings: VlmSettings | ImageSettings
    engine: AnyEngine
    thread: ModelThread[Any, Any]
    nonce: str
    pid: int
    started: float = field(default_factory=time.monotonic)
    active: int = 0
    count: int = 0
    drawing: ImageProgress | None = None  # progress of the image job that the model is running
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
            work=self.engine.work(),
            caches=self.engine.caches(),
            download=self.thread.download,
            drawing=self.drawing,
            revision=self.engine.located.commit,
            newer_revision=self.engine.located.newer,
        )

    def identity(self, prefix: str, request_id: str) -> Identity:
        return Identity(f"{prefix}-{request_id}", int(time.time()), self.alias)

    @asynccontextmanager
    async def running(
        self, prepare: Callable[[], Job], exchange: Exchange
    ) -> AsyncIterator[tuple[Job, AsyncIterator[Any]]]:
        """The job that *prepare* returns (called in a thread: it decodes images), and its events.

        Sets ``exchange.model_s`` at the end.
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
    """One request: its id, its body, and ``notes`` for its log line.

    ``model_s``: seconds that the model took, without the queue; set when the job ends.
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


Answer = bytes | AsyncGenerator[bytes, None]  # a JSON body, or server-sent events
Handler = Callable[[Exchange], Awaitable[Answer]]


class Stopwatch:
    """Seconds since the start or the last restart."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def restart(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started


class Endpoint:
    """An ASGI app for one route; *handle* turns the exchange into the response."""

    def __init__(self, worker: Worker, handle: Handler) -> None:
        self._worker = worker
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker = self._worker
        headers = dict(scope["headers"])
        exchange = Exchange(headers.get(REQUEST_ID_HEADER, b"-").decode("latin-1"), b"")
        record = record_of(scope)
        watch = Stopwatch()
        worker.active += 1
        worker.count += 1

        async def refuse(error: ApiError) -> None:
            await error_response(error, SOURCE)(scope, receive, send)

        try:
            async with answer_errors(record, SOURCE, refuse), RequestBody(receive) as request_body:
                if worker.thread.phase is not Phase.READY:
                    raise worker.thread.unavailable()
                exchange.body = await request_body.read(MAX_BODY)
                await request_body.while_connected(self._respond(exchange, send))
        finally:
            worker.active -= 1
            log.info(
                "alias=%s request=%s %s %s status=%d ms=%d model_ms=%d%s",
                worker.alias,
                exchange.request_id,
                scope["method"],
                scope["path"],
                record.status,
                watch.seconds * 1000,
                exchange.model_ms,
                "".join(f" {key}={value}" for key, value in exchange.notes.items()),
            )

    async def _respond(self, exchange: Exchange, send: Send) -> None:
        response = await self._handle(exchange)
        if isinstance(response, bytes):
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(response)).encode()),
                (MODEL_HEADER, str(exchange.model_ms).encode()),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": response})
            return
        await self._stream(response, send)

    async def _stream(self, chunks: AsyncGenerator[bytes, None], send: Send) -> None:
        async with aclosing(chunks):
            first = await anext(chunks)  # an error before it becomes a response with its own status
            await send({"type": "http.response.start", "status": 200, "headers": sse.HEADERS})
            await _send_chunk(send, first)
            try:
                async for chunk in chunks:
                    await _send_chunk(send, chunk)
            except ApiError as exc:
                log.warning("stream ended with an error: %s", exc.message)
                await _send_chunk(send, sse_error(exc, SOURCE))
            except Exception:
                log.exception("stream ended with an unexpected error")
                await _send_chunk(send, sse_error(internal_error(), SOURCE))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_chunk(send: Send, chunk: bytes) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": True})
