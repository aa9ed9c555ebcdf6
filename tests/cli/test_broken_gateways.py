"""With any server, a command ends with an exit status and an error message."""

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
def serving(response: bytes) -> Iterator[str]:
    """A server that sends *response* to every request, and closes the connection."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(response)
                # A close with unread data would reset the connection and drop the response.
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


def response(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (response(b"<html>welcome</html>"), "not JSON"),
        (response(b"[]"), "not a JSON object"),
        (response(b"{}"), "not a response of this API"),
        (response(b"<html>", "502 Bad Gateway"), "status 502"),
        (response(b'{"detail": "x"}', "404 Not Found"), "status 404"),
        (response(b"{}").replace(b"length: 2", b"length: 9"), "broke off"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "broke off"),
        (b"", "broke off"),
    ],
)
def test_an_invalid_response_is_reported(tmp_path: Path, sent: bytes, why: str) -> None:
    with serving(sent) as host:
        done = Vision(tmp_path)("ps", "--host", host)
    assert (done.status, done.out) == (1, "")
    assert why in done.err


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (EVENTS + CHUNK, "broke off"),
        (EVENTS + CHUNK + b'data: {"error": {"message": "it broke", "code": "c"}}\n\n', "it broke (c)"),
        (EVENTS + CHUNK + b"data: no json\n\n", "not JSON"),
        (EVENTS + CHUNK + b'data: {"x": 1}\n\n', "not a response of this API"),
    ],
)
def test_the_received_part_of_an_answer_is_printed_before_the_error(
    tmp_path: Path, sent: bytes, why: str
) -> None:
    with serving(sent) as host:
        done = Vision(tmp_path)("ask", "hello", "--host", host)
    assert done.status == 1
    assert done.out.strip() == "so"
    assert why in done.err


def test_an_invalid_image_is_reported_and_not_saved(tmp_path: Path) -> None:
    event = (
        b'data: {"type": "image_generation.completed", "b64_json": "not base64!", "created_at": 1, '
        b'"output_format": "png", "quality": "auto", "size": "1x1", "image_index": 0}\n\n'
    )
    with serving(EVENTS + event) as host:
        done = Vision(tmp_path)("draw", "x", "--host", host)
    assert done.status == 1
    assert "not base64" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_stream_without_an_image_is_reported(tmp_path: Path) -> None:
    with serving(EVENTS + b": started\n\n") as host:
        done = Vision(tmp_path)("draw", "x", "--host", host)
    assert done.status == 1
    assert "after 0 of 1 images" in done.err
    assert list(tmp_path.iterdir()) == []
