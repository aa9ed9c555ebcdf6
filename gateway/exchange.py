"""One proxied request: read its body, check it, relay it to the manager, watch for the client.

An ``Exchange`` is returned by a route as its response, so that one object reads ``receive`` from the
first byte of the request to the last of the answer: only so can a client that leaves be noticed.
Rules: the body is held until the answer begins, and no longer; until then it is sent once more, never
twice, when the manager says that the worker ended before it answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import aiohttp
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.control import KEEP_ALIVE_HEADER
from contracts.errors import (
    ApiError,
    InternalError,
    ManagerUnreachable,
    UnsupportedMediaType,
    WorkerFailed,
)
from contracts.settings import Settings
from gateway.checks import Checked, check_edit_form
from gateway.forms import read_form
from gateway.links import base_url, file_url, taken_out, too_large, with_urls
from gateway.pictures import NoRoom, Pictures
from web.account import CLIENT_GONE, Account, request_id
from web.errors import error_response
from web.inbound import ClientGone, Inbound
from web.relay import (
    Outbound,
    StreamCut,
    UpstreamBroke,
    UpstreamUnreachable,
    ask,
    may_be_repeated,
    pass_on,
    passed_on,
    whole,
)

log = logging.getLogger(__name__)

SOURCE = "gateway"
Check = Callable[[Settings, bytes], Checked]

# Keys are for this tier alone; cookies are nobody's; the manager is told by us what the body says.
_PRIVATE = frozenset({b"authorization", b"x-api-key", b"cookie", b"content-type", KEEP_ALIVE_HEADER})
_LARGE = 1 << 18  # bytes; parsing more than this is done off the event loop


class Exchange(Response):
    """Proxies the request to ``/workers/{alias}{path}`` of the manager, once *check* has passed it."""

    def __init__(
        self,
        settings: Settings,
        session: aiohttp.ClientSession,
        path: str,
        check: Check,
        *,
        pictures: Pictures,
        takes_forms: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._session = session
        self._path = path
        self._check = check
        self._pictures = pictures
        self._takes_forms = takes_forms
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        account = Account(self._clock())
        try:
            await self._answer(account, scope, receive, send)
        except ApiError as exc:
            await self._refuse(exc, account, scope, receive, send)
        except StreamCut as exc:
            # The server cuts the connection of an answer that was left unfinished.
            account.error = str(exc)
        except ClientGone:
            account.status = CLIENT_GONE
        except Exception:
            log.exception("[%s] a fault of the gateway", request_id(scope))
            # If the answer has begun, the server refuses to begin another and cuts the connection.
            error = InternalError("internal error; the log has the details")
            await self._refuse(error, account, scope, receive, send)
        finally:
            level = logging.WARNING if account.error else logging.INFO
            log.log(level, account.line(scope, self._clock()))

    async def _refuse(
        self, error: ApiError, account: Account, scope: Scope, receive: Receive, send: Send
    ) -> None:
        account.status = error.status
        if error.status >= 500:
            account.error = error.message
        await error_response(error, SOURCE)(scope, receive, send)

    async def _answer(self, account: Account, scope: Scope, receive: Receive, send: Send) -> None:
        async with Inbound(receive) as inbound:
            try:
                await inbound.while_here(
                    self._relay(await self._read(Headers(scope=scope), inbound), account, scope, send)
                )
            except UpstreamUnreachable as exc:
                raise manager_unreachable(self._settings) from exc
            except UpstreamBroke as exc:
                raise ManagerUnreachable(
                    "the worker manager closed the connection; it may be restarting", retry_after=5
                ) from exc

    async def _read(self, headers: Headers, inbound: Inbound) -> Checked:
        limit = self._settings.gateway.max_body_mb << 20
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type == "multipart/form-data":
            if not self._takes_forms:
                raise UnsupportedMediaType("send JSON: this route takes no multipart form")
            fields = await read_form(headers, inbound.chunks(), limit)
            return await asyncio.to_thread(check_edit_form, self._settings, fields)
        body = await inbound.body(limit)
        if len(body) > _LARGE:
            return await asyncio.to_thread(self._check, self._settings, body)
        return self._check(self._settings, body)

    async def _relay(self, checked: Checked, account: Account, scope: Scope, send: Send) -> None:
        account.alias = checked.alias
        answer = await ask(self._session, self._outbound(checked, scope))
        if may_be_repeated(answer):
            answer.close()
            # At once: the manager lets it wait until the worker may be started again.
            log.info("[%s] %s ended before it answered: sent again", request_id(scope), checked.alias)
            answer = await ask(self._session, self._outbound(checked, scope))
        wants_urls = checked.wants_urls
        del checked  # the body: a stream may last for minutes
        if wants_urls and answer.status == 200:
            await self._link(answer, account, scope, send)
            return
        await pass_on(
            answer,
            send,
            cut_off=lambda: WorkerFailed("the answer broke off: the worker manager went away"),
            source=SOURCE,
            account=account,
        )

    async def _link(
        self, answer: aiohttp.ClientResponse, account: Account, scope: Scope, send: Send
    ) -> None:
        """Keep the pictures of *answer*, and answer with their URLs."""
        pictures = self._pictures
        try:
            # Base64 takes a third more than what it stands for.
            kept, body = await whole(answer, pictures.limit * 4 // 3 + _LARGE, account)
        except UpstreamBroke as exc:
            raise WorkerFailed("the answer broke off before it was whole", retry_after=1) from exc
        if body is None:
            raise too_large(pictures.limit)
        told, taken = await asyncio.to_thread(taken_out, body)
        try:
            tokens = pictures.put(taken)
        except NoRoom as exc:
            raise too_large(pictures.limit) from exc
        # Whoever asks finds it expired in any case; this frees the memory when nobody does.
        asyncio.get_running_loop().call_later(pictures.ttl_s + 1, pictures.sweep)
        base = base_url(self._settings, scope)
        urls = [file_url(base, token, told.output_format) for token in tokens]
        raw = with_urls(told, urls)
        headers = [(k, v) for k, v in kept if k.lower() != b"content-length"]
        headers.append((b"content-length", b"%d" % len(raw)))
        account.status, account.bytes_out = 200, len(raw)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": raw})

    def _outbound(self, checked: Checked, scope: Scope) -> Outbound:
        # First what the client calls its connection's own, which ours are not.
        headers = [(k, v) for k, v in passed_on(scope["headers"]) if k not in _PRIVATE]
        headers.append((b"content-type", b"application/json"))
        if self._settings.manager.token:
            headers.append((b"authorization", b"Bearer " + self._settings.manager.token.encode()))
        if checked.keep_alive is not None:
            headers.append((KEEP_ALIVE_HEADER, repr(checked.keep_alive).encode()))
        url = f"{self._settings.manager_url}/workers/{checked.alias}{self._path}"
        return Outbound("POST", url, headers, checked.body)


def manager_unreachable(settings: Settings) -> ManagerUnreachable:
    return ManagerUnreachable(
        f"the worker manager does not answer at {settings.manager_url}; is it running? "
        "(gateway.manager_host and gateway.manager_port, or WORKER_MANAGER_HOST and "
        "WORKER_MANAGER_PORT, say where it is)",
        retry_after=5,
    )
