"""A worker without a model, as fast as such a server can be: the baseline for the cost of the hops.

It takes the arguments of ``python -m workers``. Chat returns a short text, or ``CHUNKS`` events if
the body requests a stream; every other route reads and discards its body and returns its size.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator

import uvicorn
from starlette.types import Receive, Scope, Send

from web.parent_pipe import leave_with_parent
from web.serve import bind, config_for

CHUNKS = 64
CHAT = "/v1/chat/completions"
_MODEL_MS = (b"x-vision-model-ms", b"0")
_JSON = (b"content-type", b"application/json")
_COMPLETION = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()


def _event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "bench",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


_TOKEN, _STOP = _event({"content": "tok"}), _event({}, "stop")


class FakeWorker:
    def __init__(self, alias: str, nonce: str) -> None:
        self._health = json.dumps(
            {"alias": alias, "phase": "ready", "nonce": nonce, "pid": os.getpid()}
        ).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["path"] == "/health":
            await _answer(send, self._health)
        elif scope["path"] == CHAT:
            body = b"".join([chunk async for chunk in _chunks(receive)])
            if json.loads(body).get("stream"):
                await _stream(send)
            else:
                await _answer(send, _COMPLETION)
        else:
            size = sum([len(chunk) async for chunk in _chunks(receive)])
            await _answer(send, b'{"bytes": %d}' % size)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _answer(send: Send, body: bytes) -> None:
    headers = [_JSON, _MODEL_MS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for event in [*[_TOKEN] * CHUNKS, _STOP]:
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(0)  # so that each event is a separate write, like a model's tokens
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def main() -> None:
    parse = argparse.ArgumentParser()
    for name in ("--alias", "--spec", "--host", "--nonce"):
        parse.add_argument(name, required=True)
    parse.add_argument("--port", type=int, required=True)
    parse.add_argument("--parent-pipe", action="store_true", required=True)
    args = parse.parse_args()
    leave_with_parent(1)
    sock = bind(args.host, args.port)
    uvicorn.Server(config_for(FakeWorker(args.alias, args.nonce), graceful_s=1)).run(sockets=[sock])


if __name__ == "__main__":
    main()
