"""``ANY /workers/{alias}/{path}``: forwards a request to a worker, which is loaded first if necessary.

Raw ASGI, because every byte passes here.

Rules: an open request is a lease; it is released when the response has ended or the client has left. A
client that leaves while it waits gives up its ticket. Bodies stream in both directions. If a worker
ends before its response has begun, the response is a 503 marked with ``x-vision-retryable``: the
gateway may send the request once more.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from contracts.control import KEEP_ALIVE_HEADER, LOAD_HEADER, QUEUE_HEADER, RETRYABLE_HEADER
from contracts.errors import ApiError, InternalError, WorkerFailed
from contracts.wire.openai import read_keep_alive
from manager.lease import Lease
from manager.pool import Pool
from web.errors import error_response
from web.relay import (
    Headers,
    Outbound,
    StreamCut,
    UpstreamBroke,
    UpstreamUnreachable,
    ask,
    pass_on,
)
from web.request_body import ClientGone, Inbound
from web.request_record import CLIENT_GONE, Account, account_of

if TYPE_CHECKING:
    from aiohttp import ClientSession

log = logging.getLogger(__name__)

PREFIX = "/workers/"
SOURCE = "manager"
_NOTICED_WITHIN_S = 1.0
_FOR_THE_MANAGER = frozenset({b"authorization", b"x-manager-token", KEEP_ALIVE_HEADER})
_SMALL = 1 << 16  # bytes


class Proxy:
    def __init__(self, pool: Pool, session: Callable[[], ClientSession]) -> None:
        self._pool = pool
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        account = account_of(scope)
        try:
            async with Inbound(receive) as inbound:
                await inbound.while_here(self._serve(account, scope, receive, send, inbound))
        except ClientGone:
            account.status = CLIENT_GONE

    async def _serve(
        self, account: Account, scope: Scope, receive: Receive, send: Send, inbound: Inbound
    ) -> None:
        account.alias, path = split(scope["raw_path"])
        try:
            keep_alive = keep_alive_of(scope["headers"])
            async with self._pool.lease(account.alias, keep_alive=keep_alive) as lease:
                await self._relay(lease, path, account, scope, send, inbound)
        except ApiError as exc:
            account.error = exc.message
            response = error_response(exc, SOURCE)
            if isinstance(exc, WorkerFailed):
                response.headers[RETRYABLE_HEADER.decode()] = "1"
            await response(scope, receive, send)
        except StreamCut as exc:
            # The server closes the connection of an unfinished response.
            account.error = str(exc)
        except ClientGone:
            raise
        except Exception:
            log.exception("[%s] internal error of the manager", account.request_id)
            # If the response has begun, the server refuses another one and closes the connection.
            error = InternalError("internal error; the log has the details")
            account.error = error.message
            await error_response(error, SOURCE)(scope, receive, send)

    async def _relay(
        self, lease: Lease, path: str, account: Account, scope: Scope, send: Send, inbound: Inbound
    ) -> None:
        alias = lease.worker.alias
        query = scope["query_string"].decode("latin-1")
        outbound = Outbound(
            method=scope["method"],
            url=f"http://{lease.address}/{path}" + (f"?{query}" if query else ""),
            headers=[(k, v) for k, v in scope["headers"] if k not in _FOR_THE_MANAGER],
            body=await _body_of(scope["headers"], inbound),
            content_length=_length_of(scope["headers"]),
        )
        account.queue_ms, account.load_ms = round(lease.queue_s * 1e3), round(lease.load_s * 1e3)
        try:
            answer = await ask(self._session(), outbound)
        except (UpstreamUnreachable, UpstreamBroke) as exc:
            # The end of a process is noticed a little later than the broken connection. Until then, a
            # retry would get the same dead process.
            ended = await lease.broken(_NOTICED_WITHIN_S)
            why = lease.worker.last_ending if ended else str(exc)
            raise WorkerFailed(f"{alias} ended before it responded: {why}", retry_after=1) from exc

        async def cut_off() -> WorkerFailed:
            why = f": {lease.worker.last_ending}" if await lease.broken(_NOTICED_WITHIN_S) else ""
            return WorkerFailed(f"{alias} ended while it was responding{why}")

        await pass_on(
            answer,
            send,
            cut_off=cut_off,
            source=SOURCE,
            account=account,
            extra_headers=[
                (QUEUE_HEADER, b"%d" % account.queue_ms),
                (LOAD_HEADER, b"%d" % account.load_ms),
            ],
        )


def keep_alive_of(headers: Headers) -> float | None:
    """The ``keep_alive`` of the request in seconds; raises ``InvalidRequest``."""
    for key, value in headers:
        if key == KEEP_ALIVE_HEADER:
            return read_keep_alive(value.decode("latin-1"))
    return None


def split(raw_path: bytes) -> tuple[str, str]:
    """``b"/workers/vlm-fast/v1/x"`` -> ``("vlm-fast", "v1/x")``."""
    alias, _, path = raw_path.decode("latin-1").removeprefix(PREFIX).partition("/")
    return alias, path


def _length_of(headers: Headers) -> int | None:
    """The length of the request body in bytes; None: it is chunked, or there is none."""
    for key, value in headers:
        if key == b"content-length":  # the server has checked that it is a number
            return int(value)
    return None


async def _body_of(headers: Headers, inbound: Inbound) -> bytes | AsyncIterator[bytes] | None:
    """A small body as bytes, which saves the HTTP client a task; any other as a stream; None: none."""
    length = _length_of(headers)
    if length is None:
        chunked = any(key == b"transfer-encoding" for key, _ in headers)
        return inbound.chunks() if chunked else None
    if length > _SMALL:
        return inbound.chunks()
    return await inbound.body(length) if length else None
