"""One proxied request: read its body, check it, relay it to the manager, watch for the client.

An ``Exchange`` is returned by a route as its response, so that one object reads ``receive`` from the
first byte of the request to the last of the answer: only so can a client that leaves be noticed.
Rules: the body is held until the answer begins, and no longer; until then it is sent once more, never
twice, when the manager says that the worker ended before it answered. A stream that is slow to begin is
begun here (``gateway.heartbeat``); what goes wrong after that is told by its last event.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.control import KEEP_ALIVE_HEADER
from contracts.errors import (
    ApiError,
    ErrorBody,
    InternalError,
    ManagerUnreachable,
    Unavailable,
    UnsupportedMediaType,
    UpstreamError,
    WorkerFailed,
)
from contracts.settings import Settings
from gateway.checks import Checked, check_edit_form
from gateway.forms import read_form
from gateway.heartbeat import Heartbeat, progress_of
from gateway.images_in.fetching import Fetcher
from gateway.images_out.links import Links, base_url
from gateway.images_out.store import Pictures
from gateway.manager_client import ManagerClient, manager_unreachable
from gateway.response_rewrite import Rewrite
from gateway.unknown import UnknownFields
from web.errors import error_response
from web.relay import (
    EventRewrite,
    Outbound,
    StreamCut,
    UpstreamBroke,
    UpstreamUnreachable,
    ask,
    end_with,
    may_be_repeated,
    pass_on,
    passed_on,
    whole,
)
from web.request_body import ClientGone, Inbound
from web.request_record import CLIENT_GONE, Account, account_of
from web.sse import MEDIA_TYPE

log = logging.getLogger(__name__)

SOURCE = "gateway"
Check = Callable[[Settings, bytes], Checked]

# Keys are for this tier alone; cookies are nobody's; the manager is told by us what the body says.
_PRIVATE = frozenset({b"authorization", b"x-api-key", b"cookie", b"content-type", KEEP_ALIVE_HEADER})
_LARGE = 1 << 18  # bytes; parsing more than this is done off the event loop
_ERROR_LIMIT = 1 << 20  # bytes of an error that are looked into


@dataclass(frozen=True, slots=True)
class Services:
    """What all exchanges share."""

    settings: Settings
    session: aiohttp.ClientSession
    manager: ManagerClient
    fetcher: Fetcher
    pictures: Pictures
    unknown: UnknownFields = field(default_factory=UnknownFields)


class Exchange(Response):
    """Proxies the request to ``/workers/{alias}{path}`` of the manager, once *check* has passed it."""

    def __init__(
        self,
        services: Services,
        path: str,
        check: Check,
        *,
        takes_forms: bool = False,
    ) -> None:
        super().__init__()
        self._services = services
        self._settings = services.settings
        self._path = path
        self._check = check
        self._takes_forms = takes_forms
        self._heartbeat: Heartbeat | None = None  # of a stream that has not begun by itself
        self._events: EventRewrite | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        account = account_of(scope)
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
            log.exception("[%s] a fault of the gateway", account.request_id)
            # If the answer has begun, the server refuses to begin another and cuts the connection.
            error = InternalError("internal error; the log has the details")
            await self._refuse(error, account, scope, receive, send)

    async def _refuse(
        self, error: ApiError, account: Account, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if error.status >= 500:
            account.error = error.message
        if self._begun:
            await end_with(send, error.body(SOURCE), self._events)
        else:
            await error_response(error, SOURCE)(scope, receive, send)
        account.status = error.status

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
        account.alias, account.prompt = checked.alias, checked.prompt
        account.streamed = checked.stream
        if checked.unknown:
            self._services.unknown.note(scope["path"], checked.unknown)
        rewrite = self._rewrite(checked, scope)
        if checked.stream:
            self._events = rewrite.events() if rewrite is not None else None
            self._heartbeat = self._heartbeat_of(checked.alias, send)
            try:
                async with self._heartbeat:
                    answer = await self._asked(checked, scope)
            except asyncio.CancelledError:
                if self._begun:
                    stopping = Unavailable(f"the {SOURCE} is stopping")
                    await end_with(send, stopping.body(SOURCE), self._events)
                raise
        else:
            answer = await self._asked(checked, scope)
        del checked  # the body: a stream may last for minutes
        if answer.content_type == MEDIA_TYPE or (rewrite is None and not self._begun):
            await pass_on(
                answer,
                send,
                cut_off=lambda: WorkerFailed("the answer broke off: the worker manager went away"),
                source=SOURCE,
                account=account,
                begun=self._begun,
                events=self._events,
            )
        else:
            await self._rewritten(answer, rewrite, account, send)

    @property
    def _begun(self) -> bool:
        return self._heartbeat is not None and self._heartbeat.begun

    def _rewrite(self, checked: Checked, scope: Scope) -> Rewrite | None:
        if checked.wants_urls:
            return Links(self._services.pictures, base_url(self._settings, scope))
        return checked.rewrite

    def _heartbeat_of(self, alias: str, send: Send) -> Heartbeat:
        async def tell() -> str:
            return progress_of((await self._services.manager.models()).get(alias))

        return Heartbeat(send, tell, every_s=self._settings.gateway.heartbeat_s)

    async def _asked(self, checked: Checked, scope: Scope) -> aiohttp.ClientResponse:
        session = self._services.session
        if checked.links:
            checked = await self._services.fetcher.filled(checked)
        answer = await ask(session, self._outbound(checked, scope))
        if may_be_repeated(answer):
            answer.close()
            account_of(scope).repeated += 1
            # At once: the manager lets it wait until the worker may be started again.
            log.info(
                "[%s] %s ended before it answered: sent again",
                account_of(scope).request_id,
                checked.alias,
            )
            answer = await ask(session, self._outbound(checked, scope))
        return answer

    async def _rewritten(
        self,
        answer: aiohttp.ClientResponse,
        rewrite: Rewrite | None,
        account: Account,
        send: Send,
    ) -> None:
        """Take *answer* whole, and send what becomes of it."""
        status = answer.status
        looked_into = rewrite is not None and status == 200
        limit = rewrite.limit if rewrite is not None and looked_into else _ERROR_LIMIT
        try:
            kept, body = await whole(answer, limit, account)
        except UpstreamBroke as exc:
            raise WorkerFailed("the answer broke off before it was whole", retry_after=1) from exc
        if body is None:
            raise rewrite.too_large() if rewrite is not None and looked_into else _no_answer()
        if rewrite is not None:
            body = await rewrite.whole(body) if looked_into else rewrite.refused(body)
        if self._begun:
            await end_with(send, _told_by(body), self._events)
            account.status = status
            return
        headers = [(k, v) for k, v in kept if k.lower() != b"content-length"]
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

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


def _told_by(body: bytes) -> ErrorBody:
    """The error in the JSON *body* of an answer that came where a stream was asked for."""
    try:
        error = json.loads(body)["error"]
        return {"error": {"message": str(error["message"]), **error}}
    except (ValueError, KeyError, TypeError):
        return _no_answer().body(SOURCE)


def _no_answer() -> UpstreamError:
    return UpstreamError("the worker's answer can't be read")
