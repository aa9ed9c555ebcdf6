"""Control calls to the manager (httpx): status, spawn, stop. The byte path is ``gateway.exchange``."""

from __future__ import annotations

from typing import Any

import httpx

from contracts.errors import ManagerUnreachable
from contracts.settings import Settings
from gateway.exchange import manager_unreachable

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
            base_url=settings.manager_url, headers=headers, transport=transport, trust_env=False
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def status(self) -> httpx.Response:
        return await self._call("GET", "/status", _QUICK_S)

    async def states(self) -> dict[str, str]:
        """The state of each alias; empty when the manager is away."""
        try:
            answer = await self.status()
        except ManagerUnreachable:
            return {}
        if answer.status_code != 200:
            return {}
        models: dict[str, dict[str, Any]] = answer.json()["models"]
        return {alias: str(model["status"]) for alias, model in models.items()}

    async def is_up(self) -> bool:
        try:
            answer = await self._call("GET", "/health", _QUICK_S)
        except ManagerUnreachable:
            return False
        return answer.status_code == 200

    async def spawn(self, alias: str, keep_alive: float | None) -> httpx.Response:
        """Load *alias*; *keep_alive* as ``contracts.openai.KeepAlive``."""
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
            raise manager_unreachable(self._settings) from exc
