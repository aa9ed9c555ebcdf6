"""Targets for byte streams: event streams that are cut off, and requests on a connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Self
from zlib import crc32

import aiohttp
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from contracts.control import KEEP_ALIVE_HEADER
from contracts.errors import InvalidRequest, WorkerFailed
from contracts.wire import read_keep_alive
from gateway.auth import given_key
from gateway.images_out.links import base_url
from manager.events import BusEvent, event_of, last_event_id
from manager.proxy import split
from tests.fuzz.seeds import SETTINGS_READ as SETTINGS
from web.access_log import AccessLog
from web.http_protocol import protocol_class
from web.logs import printable
from web.origin_guard import OriginPolicy
from web.receive_timeouts import Limits
from web.relay import forward_response, forwarded_headers
from web.request_record import RequestRecord, record_of

# --- an event stream ------------------------------------------------------------------------------


class Upstream:
    """A response that delivers *data* in pieces, and breaks off if *cut*."""

    status = 200
    raw_headers = ((b"content-type", b"text/event-stream"),)
    content_type = "text/event-stream"

    def __init__(self, data: bytes, *, cut: bool) -> None:
        size = crc32(data) % 97 + 1 + len(data) // 64
        self._pieces = [data[at : at + size] for at in range(0, len(data), size)]
        self._cut = cut
        self.content = self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def readany(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._cut:
            raise aiohttp.ClientPayloadError("cut")
        return b""

    def at_eof(self) -> bool:
        return not self._pieces and not self._cut


def cut_stream(data: bytes) -> None:
    """A stream passes unchanged; if it is cut, the client's last event is the error."""
    for cut in (False, True):
        sent: list[Message] = []

        async def send(message: Message, sent: list[Message] = sent) -> None:
            sent.append(message)

        upstream: Any = Upstream(data, cut=cut)
        relay = forward_response(
            upstream, send, cut_off=lambda: WorkerFailed("cut"), source="t", record=RequestRecord(0)
        )
        try:
            relay.send(None)
        except StopIteration:
            pass
        else:
            raise AssertionError("it waits")
        out = b"".join(message.get("body", b"") for message in sent)
        assert sent[-1]["more_body"] is False
        assert out.startswith(data)
        if cut:
            assert out != data
            name, text = events(out)[-1]
            assert (name, json.loads(text)["error"]["code"]) == ("error", "worker_failed")
        else:
            assert out == data
    text = data.decode("utf-8", "replace")
    event = BusEvent("progress", {"alias": text, text: [text]}, 7)
    ((name, line),) = events(event_of(event))
    assert (name, json.loads(line)) == ("progress", event.data)


def events(data: bytes) -> list[tuple[str, str]]:
    """Names and data of the events in *data*, parsed according to the HTML standard."""
    found: list[tuple[str, str]] = []
    name, lines = "message", list[str]()
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        key, _, value = line.partition(":")
        if not line:
            if lines:
                found.append((name, "\n".join(lines)))
            name, lines = "message", []
        elif key == "event":
            name = value.removeprefix(" ")
        elif key == "data":
            lines.append(value.removeprefix(" "))
    return found


# --- requests on a connection ---------------------------------------------------------------------

Read = tuple[str, bytes, bytes, tuple[tuple[bytes, bytes], ...], bytes]


class Connection(asyncio.Transport):
    """The server's end of a connection without a client."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Recorder:
    """An app that examines and records each request."""

    def __init__(self) -> None:
        self.read: list[Read] = []
        self.faults: list[Exception] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        try:
            examine(scope)
        except Exception as exc:  # the server would log it
            self.faults.append(exc)
        headers = tuple(scope["headers"][:-1])  # the last is the request id, which may be generated
        self.read.append((scope["method"], scope["raw_path"], scope["query_string"], headers, body))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def examine(scope: Scope) -> None:
    """Run all code that parses a request head, on both tiers, and check its results."""
    headers = scope["headers"]
    for key, value in headers:
        assert not set(b"\r\n\0") & set(key + value)
        assert key == key.lower()
    assert headers[-1][0] == b"x-request-id"
    names = {key for key, _ in forwarded_headers(headers)}
    assert not names & {b"connection", b"transfer-encoding", b"content-length", b"upgrade", b"host"}
    assert b"x-request-id" in names
    assert len([value for key, value in headers if key == b"content-length"]) <= 1
    record = record_of(scope)
    record.alias = split(scope["raw_path"])[0]
    assert printable(str(record)).isprintable()
    assert record.path.isprintable()
    if _POLICY.refusal(scope) is None:
        assert base_url(SETTINGS, scope).isprintable()
    given_key(headers)
    with contextlib.suppress(InvalidRequest):
        text = dict(headers).get(KEEP_ALIVE_HEADER)
        assert text is None or read_keep_alive(text.decode("latin-1")) >= -1
    last_event_id(dict(headers).get(b"last-event-id", b"").decode("latin-1"))


_RECORDER = Recorder()
_POLICY = OriginPolicy("gateway")
_CONFIG = uvicorn.Config(
    AccessLog(_RECORDER, "fuzz"), log_config=None, access_log=False, lifespan="off"
)
_PROTOCOL = protocol_class(Limits(), "fuzz")
_RUNNER = asyncio.Runner()


def heads(data: bytes) -> None:
    """The pieces in which bytes arrive do not change the requests; their parsed values are safe."""
    whole, refused = requests_in([data])
    size = crc32(data) % 13 + 1 + len(data) // 32
    in_pieces, refused_too = requests_in([data[at : at + size] for at in range(0, len(data), size)])
    if refused or refused_too:
        # Requests before the fault may or may not have been read when it was found.
        shorter = min(len(whole), len(in_pieces))
        assert whole[:shorter] == in_pieces[:shorter]
    else:
        assert whole == in_pieces


def requests_in(pieces: list[bytes]) -> tuple[list[Read], bool]:
    """The requests that a server reads from *pieces*, and whether it refused one."""
    _RECORDER.read, _RECORDER.faults = [], []
    refused = _RUNNER.run(_serve(pieces))
    if _RECORDER.faults:
        raise _RECORDER.faults[0]
    return _RECORDER.read, refused


async def _serve(pieces: list[bytes]) -> bool:
    state = ServerState()
    protocol = _PROTOCOL(_CONFIG, state, {}, asyncio.get_running_loop())
    connection = Connection()
    protocol.connection_made(connection)
    for piece in pieces:
        if connection.closed:
            break
        protocol.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(500):
        if not state.tasks:
            break
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.gather(*state.tasks)
    return b"HTTP/1.1 4" in connection.written
