"""One file over a bad line: what is there is kept, what is fetched is checked."""

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


class Line:
    """An ``Open`` whose answers come from *answer*, by the first byte that is asked for."""

    def __init__(self, answer: Pieces) -> None:
        self.starts: list[int] = []
        self._answer = answer
        self._client = httpx.Client(transport=httpx.MockTransport(self._handle))

    def __call__(self, url: str, start: int) -> AbstractContextManager[httpx.Response]:
        return self._client.stream("GET", url, headers={"x-start": str(start)})

    def _handle(self, request: httpx.Request) -> httpx.Response:
        start = int(request.headers["x-start"])
        self.starts.append(start)
        response = self._answer(start)
        if response.is_error:
            raise httpx.HTTPStatusError("refused", request=request, response=response)
        return response


def breaks_after(count: int, start: int) -> httpx.Response:
    """*count* bytes from *start* on, then the line breaks."""

    def pieces() -> Iterator[bytes]:
        yield DATA[start : start + count]
        if start + count < len(DATA):
            raise httpx.ReadError("the line broke")

    return httpx.Response(206 if start else 200, content=pieces())


def whole(start: int) -> httpx.Response:
    return breaks_after(len(DATA), start)


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    path = tmp_path / hashlib.sha256(DATA).hexdigest()
    return Blob("maker/x/weights", "http://hub/weights", path, len(DATA))


def run(blob: Blob, line: Line, stopped: threading.Event | None = None) -> None:
    fetch(blob, line, stopped or threading.Event(), pauses_s=(0.0, 0.0))


def test_a_line_that_breaks_again_and_again_is_taken_up_where_it_broke(blob: Blob) -> None:
    line = Line(lambda start: breaks_after(3000, start))
    run(blob, line)
    assert blob.path.read_bytes() == DATA
    assert line.starts == list(range(0, len(DATA), 3000))
    assert not blob.partial.exists()


def test_what_an_earlier_process_fetched_is_not_fetched_again(blob: Blob) -> None:
    blob.partial.write_bytes(DATA[:5000])
    line = Line(whole)
    run(blob, line)
    assert blob.path.read_bytes() == DATA
    assert line.starts == [5000]


def test_a_file_that_only_was_not_renamed_needs_no_request(blob: Blob) -> None:
    blob.partial.write_bytes(DATA)
    line = Line(whole)
    run(blob, line)
    assert blob.path.read_bytes() == DATA
    assert line.starts == []


def test_a_line_that_brings_nothing_any_more_is_given_up_and_what_came_is_kept(blob: Blob) -> None:
    blob.partial.write_bytes(DATA[:100])
    line = Line(lambda start: breaks_after(0, start))
    with pytest.raises(httpx.ReadError):
        run(blob, line)
    assert line.starts == [100, 100, 100]
    assert blob.held() == 100


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (503, 3), (429, 3)])
def test_only_an_answer_that_may_change_is_asked_for_again(
    blob: Blob, status: int, attempts: int
) -> None:
    line = Line(lambda start: httpx.Response(status))
    with pytest.raises(httpx.HTTPStatusError):
        run(blob, line)
    assert len(line.starts) == attempts


def test_a_server_without_ranges_sends_all_again(blob: Blob) -> None:
    blob.partial.write_bytes(b"x" * 5000)
    run(blob, Line(lambda start: httpx.Response(200, content=DATA)))
    assert blob.path.read_bytes() == DATA


def test_more_bytes_than_the_file_has_are_no_beginning_of_it(blob: Blob) -> None:
    blob.partial.write_bytes(DATA + b"more")
    line = Line(whole)
    run(blob, line)
    assert line.starts == [0]
    assert blob.path.read_bytes() == DATA


@pytest.mark.parametrize("name", ["sha256", "git"])
def test_a_file_with_another_hash_is_removed_and_named(tmp_path: Path, name: str) -> None:
    git = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()
    etag = git if name == "git" else hashlib.sha256(DATA).hexdigest()
    blob = Blob("maker/x/weights", "http://hub/weights", tmp_path / etag, len(DATA))
    blob.partial.write_bytes(b"x")  # not how the file begins
    with pytest.raises(Damaged, match="maker/x/weights arrived damaged"):
        run(blob, Line(whole))
    assert blob.held() == 0
    run(blob, Line(whole))
    assert blob.path.read_bytes() == DATA


def test_an_etag_that_is_no_hash_is_taken_as_it_is(tmp_path: Path) -> None:
    blob = Blob("maker/x/weights", "http://hub/weights", tmp_path / "v1-of-a-mirror", len(DATA))
    run(blob, Line(whole))
    assert blob.path.read_bytes() == DATA


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    blob = Blob("maker/x/empty", "http://hub/empty", tmp_path / hashlib.sha256().hexdigest(), 0)
    run(blob, Line(whole))
    assert blob.path.read_bytes() == b""


def test_a_download_that_nobody_wants_any_more_ends_and_what_came_is_kept(blob: Blob) -> None:
    stopped = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield DATA[:1000]
        stopped.set()
        yield DATA[1000:2000]

    with pytest.raises(Stopped):
        run(blob, Line(lambda start: httpx.Response(200, content=pieces())), stopped)
    assert blob.held() == 1000
