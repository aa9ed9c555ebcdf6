"""A stand-in for the manager: records requests, and responds as a test has set.

Tests share one, because starting a server takes longer than most tests. It is available below each
``conftest.py`` that imports ``manager`` and ``manager_url``, and reset before each test there.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from testkit.servers import served

MODEL: dict[str, Any] = {"path": "org/a", "kind": "vlm", "port": 18001, "memory_gb": 1}
STATUS: dict[str, Any] = {
    "status": "ok",
    "uptime_seconds": 1,
    "workers": {},
    "models": {"a": {**MODEL, "status": "ready"}},
    "memory": dict.fromkeys(
        ("total_gb", "available_gb", "used_gb", "used_percent", "usage_percent", "budget_gb"), 1
    )
    | {"models_loaded_gb": 1},
    "config": {"idle_timeout_seconds": 1, "max_requests_before_restart": 0, "safety_margin_gb": 1},
}


def images_response(images: list[bytes], form: str) -> dict[str, Any]:
    """The response of an image worker."""
    tokens: dict[str, Any] = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    details = {"image_tokens": 0, "text_tokens": 1}
    return {
        "created": 1,
        "data": [
            {"b64_json": base64.b64encode(data).decode(), "revised_prompt": "p", "seed": seed}
            for seed, data in enumerate(images)
        ],
        "output_format": form,
        "size": "16x16",
        "model": "b",
        "usage": {
            **tokens,
            "latency": 1.5,
            "seed": 0,
            "input_tokens_details": details,
            "output_tokens_details": details,
        },
    }


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class StandIn:
    """``mode``: echo, stream, hang (never responds), break (cuts an event stream), fail (a 429), images
    (``images``: the bytes of each), cut (half a response), given (see ``answer``). It waits for *slow*
    seconds first; ``model`` is the status of alias a.

    The next ``deaths`` requests get the response for a worker that ended before it responded.
    """

    mode: str = "echo"
    deaths: int = 0
    slow: float = 0.0
    model: dict[str, Any] = field(default_factory=dict)
    images: list[bytes] = field(default_factory=list)
    given: tuple[Any, int, bool] = ({}, 200, False)
    received: list[Received] = field(default_factory=list)
    client_left: threading.Event = field(default_factory=threading.Event)
    control: list[str] = field(default_factory=list)
    control_tokens: list[str] = field(default_factory=list)

    def reset(self) -> None:
        # A new event too: what still runs for an earlier test sets the old one.
        vars(self).update(vars(StandIn()))

    def answer(self, body: Any, status: int = 200, *, cut: bool = False) -> None:
        """Respond with *body*: bytes are an event stream, *cut* at its end; anything else is JSON."""
        self.mode, self.given = "given", (body, status, cut)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self._ok),
                Route("/status", self._status),
                Route("/metrics", self._metrics),
                Route("/spawn/{alias}", self._control, methods=["POST"]),
                Route("/stop/{alias}", self._control, methods=["POST"]),
                Route("/workers/{rest:path}", self._work, methods=["POST"]),
            ]
        )

    async def _ok(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _status(self, request: Request) -> Response:
        return JSONResponse({**STATUS, "models": {"a": {**MODEL, "status": "ready", **self.model}}})

    async def _metrics(self, request: Request) -> Response:
        return Response("stand_in 1\n", media_type="text/plain; version=0.0.4")

    async def _control(self, request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        self.control.append(request.url.path + query)
        self.control_tokens.append(request.headers.get("authorization", ""))
        if self.mode == "fail":
            error = {"message": "no", "type": "server_error", "param": None, "code": "load_failed"}
            return JSONResponse({"error": error}, 503, headers={"retry-after": "7", "x-secret": "1"})
        return JSONResponse({"success": True})

    async def _work(self, request: Request) -> Response:
        body = await request.body()
        self.received.append(Received(request.url.path, dict(request.headers), body))
        if self.deaths:
            self.deaths -= 1
            error = {"message": "a ended before it answered", "code": "worker_failed"}
            return JSONResponse({"error": error}, 503, headers={"x-vision-retryable": "1"})
        await asyncio.sleep(self.slow)
        if self.mode == "hang":
            await self._until_left(request)
        if self.mode in ("stream", "break"):
            return StreamingResponse(self._events(request), media_type="text/event-stream")
        if self.mode == "fail":
            return JSONResponse({"error": {"message": "busy"}}, 429, headers={"retry-after": "3"})
        if self.mode == "cut":
            return Response(b"{", headers={"content-length": "100", "connection": "close"})
        timings = {"x-vision-queue-ms": "12", "x-vision-load-ms": "5", "x-vision-model-ms": "34"}
        if self.mode == "images":
            form = json.loads(body).get("output_format", "png")
            return JSONResponse(images_response(self.images, form), headers=timings)
        if self.mode == "given":
            return self._given(timings)
        return JSONResponse({"echo": len(body)}, headers=timings)

    def _given(self, timings: dict[str, str]) -> Response:
        body, status, cut = self.given
        if not isinstance(body, bytes):
            return JSONResponse(body, status, headers=timings)

        async def events() -> AsyncIterator[bytes]:
            for at in range(0, len(body), 50):
                yield body[at : at + 50]
            if cut:
                raise RuntimeError("the manager breaks off")

        return StreamingResponse(events(), status, media_type="text/event-stream")

    async def _events(self, request: Request) -> AsyncIterator[bytes]:
        left = self.client_left
        try:
            for i in range(3):
                yield b"data: " + json.dumps({"i": i}).encode() + b"\n\n"
                await asyncio.sleep(0.05)
            if self.mode == "break":
                raise RuntimeError("the manager breaks off")
            await asyncio.sleep(30)
        finally:
            left.set()

    async def _until_left(self, request: Request) -> None:
        left = self.client_left
        while not await request.is_disconnected():  # noqa: ASYNC110 - Starlette offers no event
            await asyncio.sleep(0.02)
        left.set()
        raise ClientDisconnect


SHARED = StandIn()


@pytest.fixture(autouse=True)
def manager() -> StandIn:
    SHARED.reset()
    return SHARED


@pytest.fixture(scope="session")
def manager_url() -> Iterator[str]:
    with served(SHARED.app()) as url:
        yield url
