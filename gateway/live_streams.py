"""Streams that last as long as somebody watches: the manager's events and the workers' logs.

A route returns a ``ManagerStream`` as its response; it forwards one GET to the manager, chunk by
chunk.
Rules: a client that disconnects closes the connection to the manager. Nothing is retried here: the
client knows what it has seen (``Last-Event-ID``). Such a stream has no end, so a gateway that stops
ends it (``gateway.server``): an open page must not delay a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.errors import ApiError
from gateway import SOURCE
from gateway.exchange import Services
from gateway.manager_client import manager_disconnected, manager_errors
from web.errors import answer_errors, error_response
from web.relay import forward_response, send_upstream
from web.request_body import RequestBody
from web.request_id import REQUEST_ID_HEADER
from web.request_record import RequestRecord, record_of

# The only request headers that the manager needs.
_FORWARDED = frozenset({b"last-event-id", b"accept", REQUEST_ID_HEADER})


class OpenStreams:
    """The open streams of one gateway."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self.ended = False

    def __repr__(self) -> str:
        return f"<OpenStreams open={len(self._tasks)} ended={self.ended}>"

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """While the block runs, this task counts as an open stream."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            # Cancelled by ``end``, unless something else cancelled the task too: a normal end.
            if not self.ended or task.uncancel() > 0:
                raise
        finally:
            self._tasks.discard(task)

    def end(self) -> None:
        """End all streams, each with an event that says why."""
        self.ended = True
        for task in self._tasks:
            task.cancel()


class ManagerStream(Response):
    """Forwards the manager's response to ``GET {path}``."""

    def __init__(self, services: Services, open_streams: OpenStreams, path: str) -> None:
        super().__init__()
        self._services = services
        self._open_streams = open_streams
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)

        async def refuse(error: ApiError) -> None:
            record.error = error.message
            await error_response(error, SOURCE)(scope, receive, send)

        async with answer_errors(record, SOURCE, refuse):
            with self._open_streams.tracked():
                async with RequestBody(receive) as request_body:
                    await request_body.while_connected(self._relay(record, scope, send))

    async def _relay(self, record: RequestRecord, scope: Scope, send: Send) -> None:
        manager = self._services.manager
        headers = [(key, value) for key, value in scope["headers"] if key in _FORWARDED]
        headers += manager.authorization
        url = f"{manager.url}{self._path}"
        with manager_errors(self._services.settings):
            response = await send_upstream(self._services.session, "GET", url, headers)
        await forward_response(
            response, send, cut_off=manager_disconnected, source=SOURCE, record=record
        )
