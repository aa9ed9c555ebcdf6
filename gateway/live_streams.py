"""Streams that last for as long as somebody looks at them: the manager's events and the workers' logs.

A ``Watch`` is returned by a route as its response, and relays one GET to the manager, chunk by chunk.
Rules: a client that leaves closes the manager's side; nothing is asked for anew here, since the reader
knows best what it has seen (``Last-Event-ID``). Such a stream never ends by itself, so a gateway that
stops ends it (``Watchers``): a page left open must not hold up a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from contracts.errors import ApiError, ManagerUnreachable
from contracts.settings import Settings
from gateway.exchange import SOURCE, Services
from gateway.manager_client import manager_unreachable
from web.access_log import HEADER as REQUEST_ID
from web.errors import error_response
from web.relay import Outbound, StreamCut, UpstreamBroke, UpstreamUnreachable, ask, pass_on
from web.request_body import ClientGone, Inbound
from web.request_record import CLIENT_GONE, Account, account_of

# All that the manager needs to know of the request.
_TOLD = frozenset({b"last-event-id", b"accept", REQUEST_ID})


class Watchers:
    """The streams that are open."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self.ended = False

    def __repr__(self) -> str:
        return f"<Watchers open={len(self._tasks)} ended={self.ended}>"

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def one(self) -> Iterator[None]:
        """For as long as the block runs, this task is one of them."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            # Ours, unless somebody else has asked for it as well: the stream is over, and well.
            if not self.ended or task.uncancel() > 0:
                raise
        finally:
            self._tasks.discard(task)

    def end(self) -> None:
        """End all of them, each with an event that says why."""
        self.ended = True
        for task in self._tasks:
            task.cancel()


class Watch(Response):
    """Passes on what the manager answers to ``GET {path}``."""

    def __init__(self, services: Services, watchers: Watchers, path: str) -> None:
        super().__init__()
        self._services = services
        self._watchers = watchers
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        account = account_of(scope)
        try:
            with self._watchers.one():
                async with Inbound(receive) as inbound:
                    await inbound.while_here(self._relay(account, scope, send))
        except ClientGone:
            account.status = CLIENT_GONE
        except StreamCut as exc:
            # The server cuts the connection of an answer that was left unfinished.
            account.error = str(exc)
        except ApiError as exc:
            account.error = exc.message
            await error_response(exc, SOURCE)(scope, receive, send)

    async def _relay(self, account: Account, scope: Scope, send: Send) -> None:
        try:
            answer = await ask(self._services.session, self._outbound(scope))
        except UpstreamUnreachable as exc:
            raise manager_unreachable(self._services.settings, exc) from exc
        except UpstreamBroke as exc:
            raise _gone() from exc
        await pass_on(answer, send, cut_off=_gone, source=SOURCE, account=account)

    def _outbound(self, scope: Scope) -> Outbound:
        settings: Settings = self._services.settings
        headers = [(key, value) for key, value in scope["headers"] if key in _TOLD]
        if settings.manager.token:
            headers.append((b"authorization", b"Bearer " + settings.manager.token.encode()))
        return Outbound("GET", f"{settings.manager_url}{self._path}", headers)


def _gone() -> ManagerUnreachable:
    return ManagerUnreachable(
        "the worker manager closed the connection; it may be restarting", retry_after=5
    )
