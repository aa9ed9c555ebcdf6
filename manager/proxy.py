"""``ANY /workers/{alias}/{path}``: one request to a worker, loaded first when need be.

Raw ASGI, because this is the path that every byte takes. Rules: an open request is a lease, given back
when its answer has ended or its client has left; a client that leaves while it waits gives up its
ticket; bodies stream both ways. A worker that ends before its answer has begun makes a 503 marked with
``x-vision-retryable``: nothing was answered, so whoever holds the body may send it once more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from contracts.errors import ApiError, InternalError, WorkerFailed
from manager.lease import Lease
from manager.pool import Pool
from web.errors import error_response
from web.inbound import ClientGone, Inbound
from web.relay import Headers, Outbound, StreamCut, UpstreamBroke, UpstreamUnreachable, relay
from web.request_id import HEADER as REQUEST_ID

if TYPE_CHECKING:
    from aiohttp import ClientSession

log = logging.getLogger(__name__)

PREFIX = "/workers/"
SOURCE = "manager"
RETRYABLE = "x-vision-retryable"
_NOTICED_WITHIN_S = 1.0
_FOR_THE_MANAGER = frozenset({b"authorization", b"x-manager-token"})


class Proxy:
    def __init__(self, pool: Pool, session: Callable[[], ClientSession]) -> None:
        self._pool = pool
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with Inbound(receive) as inbound:
            try:
                await inbound.while_here(self._serve(scope, receive, send, inbound))
            except ClientGone:
                log.info("%s: the client left", _line(scope))

    async def _serve(self, scope: Scope, receive: Receive, send: Send, inbound: Inbound) -> None:
        alias, path = split(scope["raw_path"])
        try:
            async with self._pool.lease(alias) as lease:
                await self._relay(lease, path, scope, send, inbound)
        except ApiError as exc:
            log.warning("%s: %d %s", _line(scope), exc.status, exc.message)
            response = error_response(exc, SOURCE)
            if isinstance(exc, WorkerFailed):
                response.headers[RETRYABLE] = "1"
            await response(scope, receive, send)
        except StreamCut as exc:
            # The server cuts the connection of an answer that was left unfinished.
            log.warning("%s: %s", _line(scope), exc)
        except Exception:
            log.exception("%s: a fault of the manager", _line(scope))
            # If the answer has begun, the server refuses to begin another and cuts the connection.
            error = InternalError("internal error; the log has the details")
            await error_response(error, SOURCE)(scope, receive, send)

    async def _relay(self, lease: Lease, path: str, scope: Scope, send: Send, inbound: Inbound) -> None:
        alias = lease.worker.alias
        query = scope["query_string"].decode("latin-1")
        length, has_body = _body_of(scope["headers"])
        outbound = Outbound(
            method=scope["method"],
            url=f"http://{lease.address}/{path}" + (f"?{query}" if query else ""),
            headers=[(k, v) for k, v in scope["headers"] if k not in _FOR_THE_MANAGER],
            body=inbound.chunks() if has_body else None,
            content_length=length,
        )
        queue_ms, load_ms = round(lease.queue_s * 1e3), round(lease.load_s * 1e3)
        timings = [
            (b"x-vision-queue-ms", b"%d" % queue_ms),
            (b"x-vision-load-ms", b"%d" % load_ms),
        ]
        try:
            status = await relay(
                self._session(),
                outbound,
                send,
                cut_off=lambda: WorkerFailed(f"{alias} ended while it was answering"),
                source=SOURCE,
                extra_headers=timings,
            )
        except (UpstreamUnreachable, UpstreamBroke) as exc:
            # Its end is noticed a moment later than its silence; until then a repeated request would
            # be given to the same dead process.
            ended = await lease.broken(_NOTICED_WITHIN_S)
            why = lease.worker.last_ending if ended else str(exc)
            raise WorkerFailed(f"{alias} ended before it answered: {why}", retry_after=1) from exc
        log.info("%s: %d queue_ms=%d load_ms=%d", _line(scope), status, queue_ms, load_ms)


def split(raw_path: bytes) -> tuple[str, str]:
    """``b"/workers/vlm-fast/v1/x"`` -> ``("vlm-fast", "v1/x")``."""
    alias, _, path = raw_path.decode("latin-1").removeprefix(PREFIX).partition("/")
    return alias, path


def _body_of(headers: Headers) -> tuple[int | None, bool]:
    """The length of the request's body, when it is known, and whether there is one."""
    given = dict(headers)
    length = given.get(b"content-length")
    if length is not None:  # the server has checked that it is a number
        return int(length), int(length) > 0
    return None, b"transfer-encoding" in given


def _line(scope: Scope) -> str:
    request_id = next((v for k, v in scope["headers"] if k == REQUEST_ID), b"-").decode("latin-1")
    return f"{scope['method']} {scope['path']} [{request_id}]"
