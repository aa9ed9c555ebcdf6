"""A small real worker process: implements the worker contract over HTTP, and misbehaves on request.

It uses only the standard library, so that it starts at once. It takes the arguments of
``python -m workers``; the model's path is a JSON object with options:

    ``journal``      file to which each event is appended: "EVENT ALIAS PID DETAIL"
    ``say``          text for stdout at the start, repeated ``say_times``
    ``phases``       [[phase, detail, seconds], ...] before it is ready
    ``ready_when``   a file that must exist before it is ready
    ``stuck``        stays in its last phase
    ``deaf``         does not listen and never becomes ready
    ``nonce``        a wrong nonce to report
    ``exit``         status to exit with after the phases
    ``exit_times``   number of first launches that exit (needs the journal)
    ``last_words``   output before it exits
    ``says_failed``  reports the phase "failed" and keeps running
    ``stubborn``     ignores SIGTERM
    ``child``        starts a child process
    ``allocate_mb``  memory that it allocates and touches while loading
    ``device_mb``    memory of a separate device that it reports as used

and for the routes of the public API:

    ``answer_s``     seconds until the response
    ``tokens``       tokens of a stream, one every ``step_s``
    ``hold``         no response ends before this file exists; a stream stops after its first token
    ``stall``        neither responds nor makes progress
    ``request_exit`` status to exit with when a request arrives
    ``times``        limits ``stall`` and ``request_exit`` to the first launches (needs the journal)
    ``grow_mb``      memory that each request leaves allocated
    ``drawing``      the image progress in /health while a request is open
    ``wire``         file to which each raw request is appended: {"connection", "head", "body"}
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qs, urlsplit

POLL_S = 0.01
TICK_S = 0.05  # between two steps of progress
EXIT_PORT = 3
API = ("/v1/chat/completions", "/v1/vision/analyze", "/v1/images/generations", "/v1/images/edits")
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


class Request(NamedTuple):
    method: str
    target: str
    headers: list[list[str]]
    body: bytes
    head: bytes  # raw


class FakeWorker:
    def __init__(self, argv: list[str]) -> None:
        parser = argparse.ArgumentParser()
        for name in ("--alias", "--spec", "--host", "--nonce"):
            parser.add_argument(name, required=True)
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--parent-pipe", action="store_true", required=True)
        self.arguments = parser.parse_args(argv)
        path = json.loads(self.arguments.spec)["path"]
        self.options: dict[str, Any] = json.loads(path) if path.startswith("{") else {}
        self.phase, self.detail = "importing", ""
        self.jobs = self.progress = self.requests = 0
        self.connections = 0
        self.held: list[bytearray] = []
        self.misbehaves = False

    def note(self, event: str, detail: str = "") -> None:
        if journal := self.options.get("journal"):
            with Path(journal).open("a") as file:
                file.write(f"{event} {self.arguments.alias} {os.getpid()} {detail}\n")

    def leave(self, status: int) -> NoReturn:
        sys.stdout.write(self.options.get("last_words", ""))
        sys.stdout.flush()
        os._exit(status)

    async def run(self) -> None:
        threading.Thread(target=_leave_with_parent, daemon=True).start()
        self.note("launched")
        loop = asyncio.get_running_loop()
        if self.options.get("stubborn"):
            loop.add_signal_handler(signal.SIGTERM, lambda: self.note("ignored"))
        else:
            loop.add_signal_handler(signal.SIGTERM, self.terminate)
        if self.options.get("child"):
            child = await asyncio.create_subprocess_exec("sleep", "600")
            self.note("child", str(child.pid))
        sys.stdout.write(self.options.get("say", "") * self.options.get("say_times", 1))
        sys.stdout.flush()
        if self.options.get("deaf"):
            await asyncio.Event().wait()
        try:
            server = await asyncio.start_server(
                self.connection, self.arguments.host, self.arguments.port, backlog=512
            )
        except OSError as exc:
            sys.stdout.write(f"cannot listen on {self.arguments.port}: {exc.strerror}\n")
            sys.stdout.flush()
            os._exit(EXIT_PORT)
        async with server:
            await self.load()
            await asyncio.Event().wait()

    def terminate(self) -> None:
        self.note("terminated")
        os._exit(0)

    async def load(self) -> None:
        for phase, detail, seconds in self.options.get("phases", [["loading", "", 0]]):
            self.phase, self.detail = phase, detail
            await asyncio.sleep(seconds)
        self.take(self.options.get("allocate_mb", 0))
        if "ready_when" in self.options:
            await _exists(self.options["ready_when"])
        if self.options.get("stuck"):
            await asyncio.Event().wait()
        if "exit" in self.options and self._launches() <= self.options.get("exit_times", 1 << 30):
            self.leave(self.options["exit"])
        if self.options.get("says_failed"):
            self.phase, self.detail = "failed", "weights are missing"
            await asyncio.Event().wait()
        if "times" in self.options:
            self.misbehaves = self._launches() <= self.options["times"]
        else:
            self.misbehaves = True
        self.phase, self.detail = "ready", ""
        self.note("ready")

    def take(self, megabytes: float) -> None:
        if megabytes:
            self.held.append(bytearray(b"\x01") * int(megabytes * (1 << 20)))

    def _launches(self) -> int:
        journal = Path(self.options["journal"]).read_text().splitlines()
        return sum(line.startswith(f"launched {self.arguments.alias} ") for line in journal)

    # --- HTTP ------------------------------------------------------------------------------------

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while request := await _read(reader):
                self.record(number, request)
                await self.answer(request, reader, writer)
                await writer.drain()
        writer.close()

    def record(self, connection: int, request: Request) -> None:
        if (wire := self.options.get("wire")) and not request.target.startswith("/health"):
            head, body = request.head.decode("latin-1"), request.body.decode("latin-1")
            line = json.dumps({"connection": connection, "head": head, "body": body})
            with Path(wire).open("a") as file:
                file.write(line + "\n")

    async def answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        url = urlsplit(request.target)
        if url.path == "/health":
            self.health(writer)
            return
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.note("begin", request.target)
        work = asyncio.create_task(self.work(url.path, query, request, writer))
        # The client sends nothing while it waits for the response, so any data means disconnection.
        left = asyncio.create_task(reader.read(1))
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            self.note("gone", request.target)
            raise ConnectionResetError
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        self.note("end", request.target)
        work.result()

    def health(self, writer: asyncio.StreamWriter) -> None:
        body = {
            "alias": self.arguments.alias,
            "phase": self.phase,
            "detail": self.detail,
            "nonce": self.options.get("nonce", self.arguments.nonce),
            "pid": os.getpid(),
            "active_requests": self.jobs,
            "request_count": self.requests,
            "jobs": self.jobs,
            "progress": self.progress,
        }
        if device_mb := self.options.get("device_mb"):
            held = device_mb << 20
            body["device"] = {"active": held, "cache": 0, "peak": held, "unified": False}
        if self.jobs and "drawing" in self.options:
            body["drawing"] = self.options["drawing"]
        _respond(writer, 200 if self.phase == "ready" else 503, body)

    async def work(
        self, path: str, query: dict[str, str], request: Request, writer: asyncio.StreamWriter
    ) -> None:
        known: dict[str, Callable[[], Any]] = {
            "/die": lambda: self.leave(7),
            "/hang-up": writer.close,
            "/wait": lambda: self._wait(query, writer),
            "/sse": lambda: self._sse(query, writer),
            "/blob": lambda: self._blob(query, writer),
            **dict.fromkeys(API, lambda: self._api(request, writer)),
        }
        if path not in known:
            digest = hashlib.sha256(request.body).hexdigest()
            answer = {**request._asdict(), "body": len(request.body), "sha256": digest}
            del answer["head"]
            _respond(writer, int(query.get("status", 200)), answer)
        elif (outcome := known[path]()) is not None:
            await outcome

    async def _api(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Respond in the format of the public API, or misbehave as the options say."""
        options = self.options
        self.requests += 1
        self.take(options.get("grow_mb", 0))
        if "request_exit" in options and self.misbehaves:
            self.leave(options["request_exit"])
        self.jobs += 1
        ticking = asyncio.create_task(self._tick())
        try:
            if options.get("stall") and self.misbehaves:
                ticking.cancel()
                await asyncio.Event().wait()
                return
            body = json.loads(request.body)
            if body.get("stream"):
                await self._tokens(writer)
            else:
                await asyncio.sleep(options.get("answer_s", 0))
                if "hold" in options:
                    await _exists(options["hold"])
                answer = {"result": "from a fake", "pid": os.getpid(), "user": body.get("user")}
                _respond(writer, 200, answer)
        finally:
            ticking.cancel()
            self.jobs -= 1

    async def _tick(self) -> None:
        while True:
            self.progress += 1
            await asyncio.sleep(TICK_S)

    async def _tokens(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_STREAM_HEAD)
        for number in range(self.options.get("tokens", 5)):
            delta = {"choices": [{"index": 0, "delta": {"content": f"{number} "}}]}
            _chunk(writer, f"data: {json.dumps(delta)}\n\n".encode())
            await writer.drain()
            if number == 0 and "hold" in self.options:
                await _exists(self.options["hold"])
            await asyncio.sleep(self.options.get("step_s", 0))
        _chunk(writer, b"data: [DONE]\n\n")
        _chunk(writer, b"")

    async def _wait(self, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        await _exists(query["until"])
        _respond(writer, 200, {"waited": True})

    async def _sse(self, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        """*n* events, then the end, which waits *until* a file exists; or *die*."""
        writer.write(_STREAM_HEAD)
        for number in range(int(query["n"])):
            _chunk(writer, f"data: {number}\n\n".encode())
            await writer.drain()
        if "die" in query:
            await asyncio.sleep(0.05)  # so that the events are sent
            self.leave(7)
        if "until" in query:
            await _exists(query["until"])
        _chunk(writer, b"data: [DONE]\n\n")
        _chunk(writer, b"")

    async def _blob(self, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        """*bytes* zero bytes; with *die* only half of them."""
        size = int(query["bytes"])
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode())
        for _ in range(size // 2 if "die" in query else size, 0, -(1 << 16)):
            writer.write(bytes(min(_, 1 << 16)))
            await writer.drain()
        if "die" in query:
            await asyncio.sleep(0.05)
            self.leave(7)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    line = await reader.readline()
    if not line:
        return None
    head = line
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers = []
    while (line := await reader.readline()) not in (b"\r\n", b""):
        head += line
        key, _, value = line.decode("latin-1").partition(":")
        headers.append([key.lower(), value.strip()])
    named = dict(headers)
    body = b""
    if "content-length" in named:
        body = await reader.readexactly(int(named["content-length"]))
    elif named.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    return Request(method, target, headers, body, head)


def _respond(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def _exists(path: str) -> None:
    while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240 - there is no event to wait for
        await asyncio.sleep(POLL_S)


def _leave_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(FakeWorker(sys.argv[1:]).run())
