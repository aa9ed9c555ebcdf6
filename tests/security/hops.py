"""Raw bytes sent to a stack of real processes, and the requests that reach its worker.

A gateway, a manager and a fake worker that records each request as received. Rules: bytes are sent
unchanged, through a socket; responses are parsed by the standard library's client; the record shows
what the worker received.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from testkit import plain
from testkit.servers import free_port
from tests.faults.stack import Stack

PATIENCE_S = 0.3  # wait for an unexpected response
TIMEOUT_S = 15.0
CHAT = "/v1/chat/completions"
ALIAS = "a"
TIERS = ("gateway", "manager")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Outcome(NamedTuple):
    """The responses on one connection, and whether the server closed it."""

    answers: list[Answer]
    rest: bytes  # bytes that are no response
    closed: bool

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]


class Arrived(NamedTuple):
    """A request as the worker received it."""

    connection: int
    head: str
    body: str

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.split("\r\n")[1:-1]
        return [(k.lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines)]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Attacked:
    """A stack under attack. *tier*: ``gateway`` or ``manager``, whose port is attacked."""

    def __init__(self, stack: Stack, wire: Path) -> None:
        self.stack = stack
        self._wire = wire

    def port(self, tier: str) -> int:
        settings = self.stack.settings
        return settings.gateway.port if tier == "gateway" else settings.manager.port

    def url(self, tier: str, path: str | None = None) -> str:
        """*path*: by default that of chat requests."""
        return f"http://127.0.0.1:{self.port(tier)}{path or path_of(tier).decode()}"

    def arrived(self, marker: str) -> list[Arrived]:
        """The worker's requests with *marker* in their head or body."""
        lines = self._wire.read_text().splitlines() if self._wire.exists() else []
        requests = [Arrived(**json.loads(line)) for line in lines if marker in line]
        return [r for r in requests if marker in r.head or marker in r.body]

    def connection(self, tier: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port(tier)), TIMEOUT_S)

    def send(self, tier: str, data: bytes, *, expect: int = -1) -> Outcome:
        """Send *data* on a new connection and read the responses; *expect* as in ``read``."""
        with self.connection(tier) as sock:
            sock.sendall(data)
            return self.read(sock, expect)

    def read(self, sock: socket.socket, expect: int = -1) -> Outcome:
        """All responses until the server closes; after *expect* of them, wait ``PATIENCE_S`` only."""
        data, closed = b"", False
        answers: list[Answer] = []
        rest = b""
        while not closed:
            answers, rest = parsed(data, closed=False)
            sock.settimeout(PATIENCE_S if len(answers) == expect else TIMEOUT_S)
            try:
                got = sock.recv(1 << 16)
            except TimeoutError:
                return Outcome(answers, rest, closed)
            except ConnectionResetError:
                got = b""
            data += got
            closed = not got
        return Outcome(*parsed(data, closed=True), closed)

    def is_alive(self, tier: str) -> bool:
        """Whether a valid request still succeeds."""
        return plain.post(self.url(tier), json=HELLO, timeout=TIMEOUT_S).status_code == 200


HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def parsed(data: bytes, *, closed: bool) -> tuple[list[Answer], bytes]:
    """The complete responses in *data*, and the rest of it."""
    answers = []
    while b"\r\n\r\n" in data:
        stream = io.BytesIO(data)
        response = http.client.HTTPResponse(_Reader(stream))  # type: ignore[arg-type]
        try:
            response.begin()
            if response.length is None and not response.chunked and not closed:
                break  # it ends with the connection
            body = response.read()
        except (http.client.HTTPException, ValueError):
            break
        headers = {key.lower(): value for key, value in response.getheaders()}
        answers.append(Answer(response.status, headers, body))
        data = data[stream.tell() :]
    return answers, data


class _Reader:
    """Stands for the socket that ``HTTPResponse`` reads from."""

    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream

    def makefile(self, mode: str) -> Any:
        return _Unclosed(self._stream)


class _Unclosed:
    """The stream, which stays open for the next response."""

    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        pass


def path_of(tier: str) -> bytes:
    """The path of chat requests at *tier*."""
    return (CHAT if tier == "gateway" else f"/workers/{ALIAS}{CHAT}").encode()


def head(path: bytes, *fields: bytes, method: bytes = b"POST", version: bytes = b"1.1") -> bytes:
    """The head of a request with these header lines, unchanged."""
    first = b"%b %b HTTP/%b" % (method, path, version)
    return b"\r\n".join([first, b"host: localhost", *fields, b"", b""])


def request(path: bytes, body: bytes = b"", *fields: bytes, method: bytes = b"POST") -> bytes:
    """A request with valid framing."""
    framing = [b"content-length: %d" % len(body)] if method == b"POST" else []
    return head(path, *fields, *framing, method=method) + body


def body(marker: str) -> bytes:
    """A chat request that contains *marker*."""
    return json.dumps({**HELLO, "user": marker}).encode()


@contextmanager
def under_attack(folder: Path, **gateway: Any) -> Iterator[Attacked]:
    """A stack with fake models; *gateway*: keys of that settings section."""
    wire = folder / "wire"
    fake = json.dumps({"wire": str(wire)})
    image = {"kind": "image", "family": "flux1-schnell", "port": free_port(), "memory_gb": 1}
    data = {
        "gateway": {"host": "127.0.0.1", "port": free_port(), **gateway},
        "manager": {
            "port": free_port(),
            "log_dir": str(folder / "logs"),
            "state_dir": str(folder / "state"),
            "idle_timeout_s": -1.0,
            "standby": 0,
        },
        "memory": {"max_unified_memory_gb": 8.0, "safety_margin_gb": 0.0},
        "defaults": {"chat": ALIAS, "analyze": ALIAS, "generate": "image", "edit": "image"},
        "models": {
            ALIAS: {"kind": "vlm", "path": fake, "port": free_port(), "memory_gb": 1},
            "image": {**image, "path": fake},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(data))
    with Stack(folder, config, real=False) as stack:
        yield Attacked(stack, wire)
