"""One proxied request: read its body, check it, relay it to the manager, watch for the client.

An ``Exchange`` is returned by a route as its response, so that one object reads ``receive`` from the
first byte of the request to the last of the answer: only so can a client that leaves be noticed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import aiohttp
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.errors import ManagerUnreachable, UnsupportedMediaType, WorkerFailed
from contracts.settings import Settings
from gateway.checks import Checked, check_edit_form
from gateway.forms import read_form
from web.inbound import ClientGone, Inbound
from web.relay import Outbound, UpstreamBroke, UpstreamUnreachable, relay

log = logging.getLogger(__name__)

Check = Callable[[Settings, bytes], Checked]

# Keys are for this tier alone; cookies are nobody's.
_PRIVATE = frozenset({b"authorization", b"x-api-key", b"cookie", b"content-type"})
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
        takes_forms: bool = False,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._session = session
        self._path = path
        self._check = check
        self._takes_forms = takes_forms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with Inbound(receive) as inbound:
            try:
                checked = await self._read(Headers(scope=scope), inbound)
                await inbound.while_here(self._relay(checked, scope, send))
            except ClientGone:
                log.info("%s: the client left", self._path)
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

    async def _relay(self, checked: Checked, scope: Scope, send: Send) -> None:
        headers = [(key, value) for key, value in scope["headers"] if key not in _PRIVATE]
        headers.append((b"content-type", b"application/json"))
        if self._settings.manager.token:
            headers.append((b"authorization", b"Bearer " + self._settings.manager.token.encode()))
        url = f"{self._settings.manager_url}/workers/{checked.alias}{self._path}"
        await relay(
            self._session,
            Outbound("POST", url, headers, checked.body),
            send,
            cut_off=lambda: WorkerFailed("the answer broke off: the worker manager went away"),
            source="gateway",
        )


def manager_unreachable(settings: Settings) -> ManagerUnreachable:
    return ManagerUnreachable(
        f"the worker manager does not answer at {settings.manager_url}; is it running? "
        "(gateway.manager_host and gateway.manager_port, or WORKER_MANAGER_HOST and "
        "WORKER_MANAGER_PORT, say where it is)",
        retry_after=5,
    )
