"""Control calls to the manager (httpx): status, load, unload. ``gateway.exchange`` proxies the
requests.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from pydantic import ValidationError

from contracts.control import ManagerStatus, ModelStatus
from contracts.errors import ManagerUnreachable
from contracts.settings import Settings
from gateway import local_network
from web.relay import UpstreamDisconnected, UpstreamUnreachable

_QUICK_S = 2.0
_STOP_S = 60.0  # a drain, then the stop signals


class ManagerClient:
    """Returns the manager's error responses unchanged; raises only when the manager is unreachable."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        token = settings.manager.token
        # The header that the manager requires, if it requires one; for proxied requests too.
        self.authorization = [(b"authorization", b"Bearer " + token.encode())] if token else []
        self.url = settings.manager_url
        self._settings = settings
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers=self.authorization,
            transport=transport,
            trust_env=False,
            verify=False,  # plain HTTP; loading certificates takes a while
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def status(self) -> httpx.Response:
        return await self._call("GET", "/status", _QUICK_S)

    async def metrics(self) -> httpx.Response:
        return await self._call("GET", "/metrics", _QUICK_S)

    async def models(self) -> dict[str, ModelStatus]:
        """The status of each alias; empty while the manager is unreachable."""
        try:
            response = await self.status()
            return ManagerStatus.model_validate_json(response.content).models
        except (ManagerUnreachable, ValidationError):
            return {}

    async def is_up(self) -> bool:
        try:
            response = await self._call("GET", "/health", _QUICK_S)
        except ManagerUnreachable:
            return False
        return response.status_code == 200

    async def spawn(self, alias: str, keep_alive: float | None) -> httpx.Response:
        """Load *alias*; *keep_alive* as ``contracts.wire.KeepAlive``."""
        # No timeout: the manager bounds a load, because it knows the progress.
        query = "" if keep_alive is None else f"?keep_alive={keep_alive!r}"
        return await self._call("POST", f"/spawn/{alias}{query}", None)

    async def stop(self, alias: str) -> httpx.Response:
        return await self._call("POST", f"/stop/{alias}", _STOP_S)

    async def _call(self, method: str, path: str, timeout_s: float | None) -> httpx.Response:
        try:
            return await self._http.request(
                method, path, timeout=httpx.Timeout(timeout_s, connect=_QUICK_S)
            )
        except httpx.TransportError as exc:
            raise manager_unreachable(self._settings, exc) from exc


@contextmanager
def manager_errors(settings: Settings) -> Iterator[None]:
    """Turn a failed connection to the manager into ``ManagerUnreachable``."""
    try:
        yield
    except UpstreamUnreachable as exc:
        raise manager_unreachable(settings, exc) from exc
    except UpstreamDisconnected as exc:
        raise manager_disconnected() from exc


def manager_unreachable(
    settings: Settings, cause: BaseException, platform: str = sys.platform
) -> ManagerUnreachable:
    hint = local_network.hint(cause, platform)
    return ManagerUnreachable(
        f"the worker manager does not answer at {settings.manager_url}; is it running? "
        "(its address: gateway.manager_host and gateway.manager_port, or WORKER_MANAGER_HOST and "
        "WORKER_MANAGER_PORT)" + (f"; {hint}" if hint else ""),
        retry_after=5,
    )


def manager_disconnected() -> ManagerUnreachable:
    return ManagerUnreachable(
        "the worker manager closed the connection; it may be restarting", retry_after=5
    )
