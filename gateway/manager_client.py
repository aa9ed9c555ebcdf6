"""Control calls to the manager (httpx): status, spawn, stop. The byte path is ``gateway.exchange``."""

from __future__ import annotations

import sys

import httpx
from pydantic import ValidationError

from contracts.control import ManagerStatus, ModelStatus
from contracts.errors import ManagerUnreachable
from contracts.settings import Settings
from gateway import local_network

_QUICK_S = 2.0
_STOP_S = 60.0  # a drain and the stop ladder


class ManagerClient:
    """Errors of the manager come back as its answers; only its absence raises."""

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        headers = {}
        if settings.manager.token:
            headers["authorization"] = f"Bearer {settings.manager.token}"
        self._settings = settings
        self._http = httpx.AsyncClient(
            base_url=settings.manager_url,
            headers=headers,
            transport=transport,
            trust_env=False,
            verify=False,  # no TLS here, and loading the certificates takes a while
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def status(self) -> httpx.Response:
        return await self._call("GET", "/status", _QUICK_S)

    async def metrics(self) -> httpx.Response:
        return await self._call("GET", "/metrics", _QUICK_S)

    async def models(self) -> dict[str, ModelStatus]:
        """The status of each alias; empty when the manager is away."""
        try:
            answer = await self.status()
            return ManagerStatus.model_validate_json(answer.content).models
        except (ManagerUnreachable, ValidationError):
            return {}

    async def is_up(self) -> bool:
        try:
            answer = await self._call("GET", "/health", _QUICK_S)
        except ManagerUnreachable:
            return False
        return answer.status_code == 200

    async def spawn(self, alias: str, keep_alive: float | None) -> httpx.Response:
        """Load *alias*; *keep_alive* as ``contracts.wire.openai.KeepAlive``."""
        # A load is bounded by the manager, which knows its progress.
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


def manager_unreachable(
    settings: Settings, cause: BaseException, platform: str = sys.platform
) -> ManagerUnreachable:
    hint = local_network.hint(cause, platform)
    return ManagerUnreachable(
        f"the worker manager does not answer at {settings.manager_url}; is it running? "
        "(gateway.manager_host and gateway.manager_port, or WORKER_MANAGER_HOST and "
        "WORKER_MANAGER_PORT, say where it is)" + (f"; {hint}" if hint else ""),
        retry_after=5,
    )
