"""Whatever is on the other end, a command ends with a status and a sentence."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.commands import Vision

pytestmark = pytest.mark.process
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHUNK = b'data: {"id":"1","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"so"}}]}\n\n'


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """A server that answers everything with *answer*, and hangs up."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(answer)
                # Closed over a body that is still to be read, it would take back what it has said.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def answer(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (answer(b"<html>welcome</html>"), "no JSON"),
        (answer(b"[]"), "no JSON object"),
        (answer(b"{}"), "not an answer of this API"),
        (answer(b"<html>", "502 Bad Gateway"), "status 502"),
        (answer(b'{"detail": "x"}', "404 Not Found"), "status 404"),
        (answer(b"{}").replace(b"length: 2", b"length: 9"), "broke off"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "broke off"),
        (b"", "broke off"),
    ],
)
def test_an_answer_that_is_none_is_told(tmp_path: Path, said: bytes, why: str) -> None:
    with saying(said) as host:
        done = Vision(tmp_path)("ps", "--host", host)
    assert (done.status, done.out) == (1, "")
    assert why in done.err


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (EVENTS + CHUNK, "broke off"),
        (EVENTS + CHUNK + b'data: {"error": {"message": "it broke", "code": "c"}}\n\n', "it broke (c)"),
        (EVENTS + CHUNK + b"data: no json\n\n", "not JSON"),
        (EVENTS + CHUNK + b'data: {"x": 1}\n\n', "not an answer of this API"),
    ],
)
def test_what_had_come_of_an_answer_is_shown_and_then_why_it_ended(
    tmp_path: Path, said: bytes, why: str
) -> None:
    with saying(said) as host:
        done = Vision(tmp_path)("ask", "hello", "--host", host)
    assert done.status == 1
    assert done.out.strip() == "so"
    assert why in done.err


def test_a_picture_that_is_none_is_told_and_not_kept(tmp_path: Path) -> None:
    event = (
        b'data: {"type": "image_generation.completed", "b64_json": "no picture", "created_at": 1, '
        b'"output_format": "png", "quality": "auto", "size": "1x1", "image_index": 0}\n\n'
    )
    with saying(EVENTS + event) as host:
        done = Vision(tmp_path)("draw", "x", "--host", host)
    assert done.status == 1
    assert "not base64" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_drawing_that_never_comes_is_told(tmp_path: Path) -> None:
    with saying(EVENTS + b": started\n\n") as host:
        done = Vision(tmp_path)("draw", "x", "--host", host)
    assert done.status == 1
    assert "0 of 1 pictures came" in done.err
    assert list(tmp_path.iterdir()) == []
