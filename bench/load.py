"""The load generator: a process that reads orders from standard input, one JSON object per line.

``{"url", "clients", "requests", "stream", "image_bytes"}`` -> ``{"ms": [...]}``: the time of each
request from its first byte sent to the last byte of its response. With ``image_bytes`` the body carries
an image of that size, otherwise a short chat message. A status other than 200 ends the run.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import uvloop

WARM_UP = 5  # requests per client
_CONTENT_TYPE = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Order:
    url: str
    clients: int
    requests: int
    stream: bool = False
    image_bytes: int = 0

    def body(self) -> bytes:
        if self.image_bytes:
            image = b"\x89PNG\r\n\x1a\n" + os.urandom(self.image_bytes - 8)
            body: dict[str, Any] = {"model": "bench", "image": base64.b64encode(image).decode()}
        else:
            messages = [{"role": "user", "content": "x" * 200}]
            body = {"model": "bench", "messages": messages, "stream": self.stream}
        return json.dumps(body).encode()


async def carry_out(session: aiohttp.ClientSession, order: Order) -> list[float]:
    """Milliseconds of each request."""
    body = order.body()
    took: list[float] = []

    async def client(requests: int, keep: bool) -> None:
        for _ in range(requests):
            began = time.perf_counter()
            data = _pieces(body) if order.image_bytes else body
            headers = {**_CONTENT_TYPE, "content-length": str(len(body))}
            async with session.post(order.url, data=data, headers=headers) as answer:
                last = b""
                async for chunk in answer.content.iter_any():
                    last = chunk
                if answer.status != 200:
                    raise SystemExit(f"{order.url}: {answer.status} {last[:300]!r}")
            if keep:
                took.append((time.perf_counter() - began) * 1e3)

    if not order.image_bytes:
        await asyncio.gather(*(client(WARM_UP, keep=False) for _ in range(order.clients)))
    each = order.requests // order.clients
    await asyncio.gather(*(client(each, keep=True) for _ in range(order.clients)))
    return took


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1 << 16):
        yield body[start : start + (1 << 16)]


async def main() -> None:
    loop = asyncio.get_running_loop()
    timeout = aiohttp.ClientTimeout(total=120)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        # New connections, made in the warm-up: some servers close connections that idle for a turn.
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            took = await carry_out(session, Order(**json.loads(line)))
        print(json.dumps({"ms": took}), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
