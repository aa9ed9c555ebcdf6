"""Clients of a chat server: a process that reads orders from standard input, one per line.

``{"url", "clients": [[body, ...], ...]}`` -> ``{"wall_s", "answers": [[...], ...]}``: every client
sends its bodies one after the other; the clients run concurrently. An answer is ``{"first_s",
"total_s", "tokens", "text"}``: seconds to the first text and to the end. An incomplete answer ends
the run.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
import uvloop


class Answer:
    """One streamed completion, parsed as it arrives."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None
        self._text = ""
        self._deltas = 0
        self._tokens: int | None = None

    def line(self, line: bytes) -> None:
        if not line.startswith(b"data: {"):
            return
        event = json.loads(line[6:])
        if "error" in event:
            raise SystemExit(f"a stream ended with an error: {event}")
        usage = event.get("usage") or {}
        # OpenAI's name for it, and the name that some servers use.
        self._tokens = usage.get("completion_tokens", usage.get("output_tokens", self._tokens))
        for choice in event.get("choices") or ():
            if text := (choice.get("delta") or {}).get("content"):
                self._deltas += 1
                self._text += text
                if self._first is None:
                    self._first = time.perf_counter()

    def result(self) -> dict[str, Any]:
        if self._first is None:
            raise SystemExit("a completion without text")
        return {
            "first_s": self._first - self._began,
            "total_s": time.perf_counter() - self._began,
            "tokens": self._deltas if self._tokens is None else self._tokens,
            "text": self._text,
        }


async def ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(body).encode()  # before the clock starts
    answer = Answer()
    async with session.post(url, data=data, headers={"content-type": "application/json"}) as response:
        if response.status != 200:
            raise SystemExit(f"{url}: {response.status} {await response.text()}")
        async for line in response.content:
            answer.line(line)
    return answer.result()


async def carry_out(url: str, clients: list[list[dict[str, Any]]]) -> dict[str, Any]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, read_bufsize=1 << 20
    ) as session:

        async def client(bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [await ask(session, url, body) for body in bodies]

        began = time.perf_counter()
        answers = await asyncio.gather(*(client(bodies) for bodies in clients))
        return {"wall_s": time.perf_counter() - began, "answers": answers}


async def main() -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        print(json.dumps(await carry_out(order["url"], order["clients"])), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
