"""One file over a bad connection: its bytes are kept, and its hash is checked."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from workers.hub.resume import Blob, Damaged, Stopped, fetch

DATA = bytes(range(256)) * 64
Pieces = Callable[[int], "httpx.Response"]


class Connection:
    """An ``Open`` whose responses come from *respond*, by the first requested byte."""

    def __init__(self, respond: Pieces) -> None:
        self.starts: list[int] = []
        self._respond = respond
        self._client = httpx.Client(transport=httpx.MockTransport(self._handle))

    def __call__(self, url: str, start: int) -> AbstractContextManager[httpx.Response]:
        return self._client.stream("GET", url, headers={"x-start": str(start)})

    def _handle(self, request: httpx.Request) -> httpx.Response:
        start = int(request.headers["x-start"])
        self.starts.append(start)
        response = self._respond(start)
        if response.is_error:
            raise httpx.HTTPStatusError("refused", request=request, response=response)
        return response


def breaks_after(count: int, start: int) -> httpx.Response:
    """*count* bytes from *start*, then the connection breaks."""

    def pieces() -> Iterator[bytes]:
        yield DATA[start : start + count]
        if start + count < len(DATA):
            raise httpx.ReadError("the connection broke")

    return httpx.Response(206 if start else 200, content=pieces())


def complete(start: int) -> httpx.Response:
    return breaks_after(len(DATA), start)


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    path = tmp_path / hashlib.sha256(DATA).hexdigest()
    return Blob("maker/x/weights", "http://hub/weights", path, len(DATA))


def run(blob: Blob, connection: Connection, stopped: threading.Event | None = None) -> None:
    fetch(blob, connection, stopped or threading.Event(), pauses_s=(0.0, 0.0))


def test_a_connection_that_keeps_breaking_is_resumed_each_time(blob: Blob) -> None:
    connection = Connection(lambda start: breaks_after(3000, start))
    run(blob, connection)
    assert blob.path.read_bytes() == DATA
    assert connection.starts == list(range(0, len(DATA), 3000))
    assert not blob.partial.exists()


def test_bytes_of_an_earlier_process_are_not_downloaded_again(blob: Blob) -> None:
    blob.partial.write_bytes(DATA[:5000])
    connection = Connection(complete)
    run(blob, connection)
    assert blob.path.read_bytes() == DATA
    assert connection.starts == [5000]


def test_a_complete_partial_file_needs_no_request(blob: Blob) -> None:
    blob.partial.write_bytes(DATA)
    connection = Connection(complete)
    run(blob, connection)
    assert blob.path.read_bytes() == DATA
    assert connection.starts == []


def test_attempts_without_new_bytes_end_the_download_and_its_bytes_are_kept(blob: Blob) -> None:
    blob.partial.write_bytes(DATA[:100])
    connection = Connection(lambda start: breaks_after(0, start))
    with pytest.raises(httpx.ReadError):
        run(blob, connection)
    assert connection.starts == [100, 100, 100]
    assert blob.held() == 100


def test_only_temporary_failures_are_retried(blob: Blob) -> None:
    for status, attempts in ((404, 1), (403, 1), (503, 3), (429, 3)):
        connection = Connection(lambda start, status=status: httpx.Response(status))  # type: ignore[misc]
        with pytest.raises(httpx.HTTPStatusError):
            run(blob, connection)
        assert len(connection.starts) == attempts, status


def test_a_server_without_ranges_sends_the_whole_file(blob: Blob) -> None:
    blob.partial.write_bytes(b"x" * 5000)
    run(blob, Connection(lambda start: httpx.Response(200, content=DATA)))
    assert blob.path.read_bytes() == DATA


def test_a_partial_file_that_is_too_long_is_removed(blob: Blob) -> None:
    blob.partial.write_bytes(DATA + b"more")
    connection = Connection(complete)
    run(blob, connection)
    assert connection.starts == [0]
    assert blob.path.read_bytes() == DATA


@pytest.mark.parametrize("name", ["sha256", "git"])
def test_a_file_with_a_wrong_hash_is_removed_and_named(tmp_path: Path, name: str) -> None:
    git = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()
    etag = git if name == "git" else hashlib.sha256(DATA).hexdigest()
    blob = Blob("maker/x/weights", "http://hub/weights", tmp_path / etag, len(DATA))
    blob.partial.write_bytes(b"x")  # not how the file begins
    with pytest.raises(Damaged, match="maker/x/weights arrived damaged"):
        run(blob, Connection(complete))
    assert blob.held() == 0
    run(blob, Connection(complete))
    assert blob.path.read_bytes() == DATA


def test_an_etag_that_is_no_hash_is_not_checked(tmp_path: Path) -> None:
    blob = Blob("maker/x/weights", "http://hub/weights", tmp_path / "v1-of-a-mirror", len(DATA))
    run(blob, Connection(complete))
    assert blob.path.read_bytes() == DATA


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    blob = Blob("maker/x/empty", "http://hub/empty", tmp_path / hashlib.sha256().hexdigest(), 0)
    run(blob, Connection(complete))
    assert blob.path.read_bytes() == b""


def test_a_stopped_download_keeps_its_bytes(blob: Blob) -> None:
    stopped = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield DATA[:1000]
        stopped.set()
        yield DATA[1000:2000]

    with pytest.raises(Stopped):
        run(blob, Connection(lambda start: httpx.Response(200, content=pieces())), stopped)
    assert blob.held() == 1000
