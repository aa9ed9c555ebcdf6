"""``ANY /workers/{alias}/{path}``: forwards a request to a worker, which is loaded first if necessary.

Raw ASGI, because every byte passes here.

Rules: an open request is a lease; it is released when the response has ended or the client has left. A
client that leaves while it waits gives up its ticket. Bodies stream in both directions. If a worker
ends before its response has begun, the response is a 503 marked with ``x-vision-retryable``: the
gateway may send the request once more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from contracts.control import KEEP_ALIVE_HEADER, LOAD_HEADER, QUEUE_HEADER, RETRYABLE_HEADER
from contracts.errors import ApiError, WorkerFailed
from contracts.wire import read_keep_alive
from manager.lease import Lease
from manager.pool import Pool
from web.errors import answer_errors, error_response
from web.relay import (
    UpstreamDisconnected,
    UpstreamUnreachable,
    forward_response,
    forwarded_headers,
    send_upstream,
)
from web.request_body import RequestBody
from web.request_record import RequestRecord, record_of

if TYPE_CHECKING:
    from aiohttp import ClientSession

PREFIX = "/workers/"
SOURCE = "manager"
_NOTICED_WITHIN_S = 1.0
_FOR_THE_MANAGER = frozenset({b"authorization", b"x-manager-token", KEEP_ALIVE_HEADER})
_SMALL = 1 << 16  # bytes


class Proxy:
    """``session``: opened by the app while it runs."""

    def __init__(self, pool: Pool) -> None:
        self.session: ClientSession | None = None
        self._pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)

        async def refuse(error: ApiError) -> None:
            record.error = error.message
            response = error_response(error, SOURCE)
            if isinstance(error, WorkerFailed):
                response.headers[RETRYABLE_HEADER.decode()] = "1"
            await response(scope, receive, send)

        async with answer_errors(record, SOURCE, refuse), RequestBody(receive) as request_body:
            await request_body.while_connected(self._serve(record, scope, send, request_body))

    async def _serve(
        self, record: RequestRecord, scope: Scope, send: Send, request_body: RequestBody
    ) -> None:
        record.alias, path = split(scope["raw_path"])
        text = dict(scope["headers"]).get(KEEP_ALIVE_HEADER)
        keep_alive = None if text is None else read_keep_alive(text.decode("latin-1"))
        async with self._pool.lease(record.alias, keep_alive=keep_alive) as lease:
            await self._relay(lease, path, record, scope, send, request_body)

    async def _relay(
        self,
        lease: Lease,
        path: str,
        record: RequestRecord,
        scope: Scope,
        send: Send,
        request_body: RequestBody,
    ) -> None:
        alias = lease.worker.alias
        query = scope["query_string"].decode("latin-1")
        length, body = await _body_of(dict(scope["headers"]), request_body)
        url = f"http://{lease.address}/{path}" + (f"?{query}" if query else "")
        record.queue_ms, record.load_ms = round(lease.queue_s * 1e3), round(lease.load_s * 1e3)
        try:
            assert self.session is not None, "the app was not started"
            answer = await send_upstream(
                self.session,
                scope["method"],
                url,
                forwarded_headers(scope["headers"], private=_FOR_THE_MANAGER),
                body,
                length=length,
            )
        except (UpstreamUnreachable, UpstreamDisconnected) as exc:
            # The end of a process is noticed a little later than the broken connection. Until then, a
            # retry would get the same dead process.
            ended = await lease.broken(_NOTICED_WITHIN_S)
            why = lease.worker.last_ending if ended else str(exc)
            raise WorkerFailed(f"{alias} ended before it responded: {why}", retry_after=1) from exc

        async def cut_off() -> WorkerFailed:
            why = f": {lease.worker.last_ending}" if await lease.broken(_NOTICED_WITHIN_S) else ""
            return WorkerFailed(f"{alias} ended while it was responding{why}")

        await forward_response(
            answer,
            send,
            cut_off=cut_off,
            source=SOURCE,
            record=record,
            extra_headers=[
                (QUEUE_HEADER, b"%d" % record.queue_ms),
                (LOAD_HEADER, b"%d" % record.load_ms),
            ],
        )


def split(raw_path: bytes) -> tuple[str, str]:
    """``b"/workers/vlm-fast/v1/x"`` -> ``("vlm-fast", "v1/x")``."""
    alias, _, path = raw_path.decode("latin-1").removeprefix(PREFIX).partition("/")
    return alias, path


async def _body_of(
    headers: Mapping[bytes, bytes], request_body: RequestBody
) -> tuple[int | None, bytes | AsyncIterator[bytes] | None]:
    """The request body, and its length in bytes if known. No body: ``(None, None)``.

    A small body is bytes, which saves the HTTP client a task; any other is a stream.
    """
    text = headers.get(b"content-length")
    if text is None:
        return None, request_body.chunks() if b"transfer-encoding" in headers else None
    length = int(text)  # the server has checked that it is a number
    if length > _SMALL:
        return length, request_body.chunks()
    return length, await request_body.read(length) if length else None
