"""One proxied request: receive its body, check it, forward it to the manager, watch for the client.

A route returns an ``Exchange`` as its response, so that one object uses ``receive`` from the first
byte of the request to the last byte of the response. This is the only way to notice a client that
disconnects.
Rules: the body is held until the response begins, and no longer. Until then it is sent once more,
never twice, when the manager reports that the worker ended before it answered. A stream that is slow
to begin is begun here (``gateway.heartbeat``); an error after that becomes the stream's last event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.control import KEEP_ALIVE_HEADER, RETRYABLE_HEADER
from contracts.errors import (
    ApiError,
    Unavailable,
    UnsupportedMediaType,
    UpstreamError,
    WorkerFailed,
)
from contracts.settings import Settings
from gateway import SOURCE
from gateway.checks import Checked, check_edit_form
from gateway.forms import read_form
from gateway.heartbeat import Heartbeat, progress_of
from gateway.images_in.fetching import Fetcher
from gateway.images_out.links import UrlRewrite, base_url
from gateway.images_out.store import ImageStore
from gateway.manager_client import ManagerClient, manager_errors
from gateway.response_rewrite import Rewrite, error_in
from web.errors import answer_errors, error_response
from web.relay import (
    EventRewrite,
    UpstreamDisconnected,
    end_stream,
    forward_response,
    forwarded_headers,
    read_whole,
    send_upstream,
)
from web.request_body import RequestBody
from web.request_record import RequestRecord, record_of
from web.sse import MEDIA_TYPE

log = logging.getLogger(__name__)

Check = Callable[[Settings, bytes], Checked]

# Keys are for this tier only; cookies for none. The other two are set from the checked body.
_PRIVATE = frozenset({b"authorization", b"x-api-key", b"cookie", b"content-type", KEEP_ALIVE_HEADER})
_LARGE = 1 << 18  # bytes; larger bodies are parsed off the event loop
_ERROR_LIMIT = 1 << 20  # bytes of an error response that is read whole


@dataclass(frozen=True, slots=True)
class Services:
    """What all exchanges share."""

    settings: Settings
    session: aiohttp.ClientSession
    manager: ManagerClient
    fetcher: Fetcher
    images: ImageStore


class Exchange(Response):
    """Forwards the request to the manager's ``/workers/{alias}{path}`` once *check* has accepted it."""

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
        self._heartbeat: Heartbeat | None = None  # while a stream has not begun
        self._events: EventRewrite | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)

        async def refuse(error: ApiError) -> None:
            if error.status >= 500:
                record.error = error.message
            if self._begun:
                await end_stream(send, error.body(SOURCE), self._events)
            else:
                await error_response(error, SOURCE)(scope, receive, send)
            record.status = error.status

        async with answer_errors(record, SOURCE, refuse), RequestBody(receive) as request_body:
            await request_body.while_connected(self._answer(record, scope, send, request_body))

    async def _answer(
        self, record: RequestRecord, scope: Scope, send: Send, request_body: RequestBody
    ) -> None:
        with manager_errors(self._settings):
            # Nested, so that only ``_relay`` refers to the body.
            await self._relay(await self._read(Headers(scope=scope), request_body), record, scope, send)

    async def _read(self, headers: Headers, request_body: RequestBody) -> Checked:
        limit = self._settings.gateway.max_body_mb << 20
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type == "multipart/form-data":
            if not self._takes_forms:
                raise UnsupportedMediaType("send JSON: this route accepts no multipart form")
            fields = await read_form(headers, request_body.chunks(limit), limit)
            return await asyncio.to_thread(check_edit_form, self._settings, fields)
        body = await request_body.read(limit)
        if len(body) > _LARGE:
            return await asyncio.to_thread(self._check, self._settings, body)
        return self._check(self._settings, body)

    async def _relay(self, checked: Checked, record: RequestRecord, scope: Scope, send: Send) -> None:
        record.alias, record.prompt = checked.alias, checked.prompt
        record.streamed = checked.stream
        rewrite = checked.rewrite
        if checked.wants_urls:
            rewrite = UrlRewrite(self._services.images, base_url(self._settings, scope))
        if checked.stream:
            self._events = rewrite.events() if rewrite is not None else None
            self._heartbeat = self._heartbeat_of(checked.alias, send)
            try:
                async with self._heartbeat:
                    response = await self._send(checked, scope)
            except asyncio.CancelledError:
                if self._begun:
                    stopping = Unavailable(f"the {SOURCE} is stopping")
                    await end_stream(send, stopping.body(SOURCE), self._events)
                raise
        else:
            response = await self._send(checked, scope)
        del checked  # frees the body: a stream may last for minutes
        if response.content_type == MEDIA_TYPE or (rewrite is None and not self._begun):
            await forward_response(
                response,
                send,
                cut_off=lambda: WorkerFailed("the response broke off: the worker manager went away"),
                source=SOURCE,
                record=record,
                begun=self._begun,
                events=self._events,
            )
        else:
            await self._send_rewritten(response, rewrite, record, send)

    @property
    def _begun(self) -> bool:
        return self._heartbeat is not None and self._heartbeat.begun

    def _heartbeat_of(self, alias: str, send: Send) -> Heartbeat:
        async def describe() -> str:
            return progress_of((await self._services.manager.models()).get(alias))

        return Heartbeat(send, describe, every_s=self._settings.gateway.heartbeat_s)

    async def _send(self, checked: Checked, scope: Scope) -> aiohttp.ClientResponse:
        if checked.linked_images:
            checked = await self._services.fetcher.fetch_all(checked)
        response = await self._send_once(checked, scope)
        if is_retryable(response):
            response.close()
            record = record_of(scope)
            record.repeated += 1
            # No delay here: the manager queues it until the worker may start again.
            log.info("[%s] %s ended before it answered: sent again", record.request_id, checked.alias)
            response = await self._send_once(checked, scope)
        return response

    async def _send_rewritten(
        self,
        response: aiohttp.ClientResponse,
        rewrite: Rewrite | None,
        record: RequestRecord,
        send: Send,
    ) -> None:
        """Read *response* whole, rewrite it and send it."""
        status = response.status
        rewritten = rewrite is not None and status == 200
        limit = rewrite.limit if rewrite is not None and rewritten else _ERROR_LIMIT
        try:
            kept, body = await read_whole(response, limit, record)
        except UpstreamDisconnected as exc:
            raise WorkerFailed("the response broke off before it was complete", retry_after=1) from exc
        if body is None:
            raise rewrite.too_large() if rewrite is not None and rewritten else _invalid_response()
        if rewrite is not None:
            body = await rewrite.whole(body) if rewritten else rewrite.refused(body)
        if self._begun:
            error = error_in(body)
            problem = _invalid_response().body(SOURCE) if error is None else {"error": error}
            await end_stream(send, problem, self._events)
            record.status = status
            return
        headers = [(k, v) for k, v in kept if k.lower() != b"content-length"]
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _send_once(self, checked: Checked, scope: Scope) -> aiohttp.ClientResponse:
        services = self._services
        headers = forwarded_headers(scope["headers"], private=_PRIVATE)
        headers += [(b"content-type", b"application/json"), *services.manager.authorization]
        if checked.keep_alive is not None:
            headers.append((KEEP_ALIVE_HEADER, repr(checked.keep_alive).encode()))
        url = f"{services.manager.url}/workers/{checked.alias}{self._path}"
        return await send_upstream(services.session, "POST", url, headers, checked.body)


def is_retryable(response: aiohttp.ClientResponse) -> bool:
    """Whether the manager reports that nothing was answered, so the request may be sent again."""
    return response.status == 503 and RETRYABLE_HEADER.decode() in response.headers


def _invalid_response() -> UpstreamError:
    return UpstreamError("the worker returned an invalid response")
