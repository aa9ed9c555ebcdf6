"""A worker's app over real sockets, with a fake engine."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from PIL import Image

from contracts.settings.models import ImageSettings, VlmSettings
from testkit.fakes.engine import FakeEngine
from testkit.servers import served
from workers.app import create_app

VLM = VlmSettings(kind="vlm", path="x", port=1, memory_gb=1.0, max_tokens=77)
IMAGE = ImageSettings(
    kind="image",
    family="flux1-schnell",
    path="x",
    port=1,
    memory_gb=1.0,
    edit_steps=8,
    size="64x32",
    max_pixels=64 * 64,
)
HELLO = {"messages": [{"role": "user", "content": "hi"}]}
DRAW = {"prompt": "a cat", "seed": 7}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Busan"}}\n</tool_call>'


def png(width: int = 8, height: int = 8, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.005)


@contextmanager
def worker(
    engine: FakeEngine, settings: VlmSettings | ImageSettings, *, ready: bool = True
) -> Iterator[httpx.Client]:
    app = create_app("fake", settings, engine, nonce="n0nce")
    try:
        with served(app) as url, httpx.Client(base_url=url, timeout=10) as client:
            if ready:
                wait_for(lambda: client.get("/health").status_code == 200)
            yield client
    finally:
        engine.turnstile.set()


def error_of(response: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = response.json()["error"]
    assert body.keys() == {"message", "type", "param", "code", "source"}
    assert body["source"] == "worker"
    assert response.headers["x-request-id"]
    return body
