"""The checks of the fault suite find what they should, and the document is up to date."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testkit.document import section
from tests.faults.calls import Call, Ending, lost
from tests.faults.processes import Sample, Sampler
from tests.faults.table import DOCUMENT, FAULTS


@contextmanager
def server_that_sends(*pieces: bytes) -> Iterator[int]:
    """Responds to one request with *pieces* and closes; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 20)
                for piece in pieces:
                    connection.sendall(piece)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def ending_of(*pieces: bytes) -> Call:
    with server_that_sends(*pieces) as port:
        call = Call(port, "draw")
        call.start()
        return call.ended()


def whole(status: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


ERROR = b'{"error": {"message": "m", "type": "t", "code": "c"}}'
EVENTS = "text/event-stream"


def test_a_request_is_lost_unless_it_got_a_whole_response_or_a_clear_error() -> None:
    for response, ending in (
        (whole("200 OK", b"{}"), Ending.SERVED),
        (whole("503 X", ERROR), Ending.ERROR),
        (whole("503 X", b'{"detail": "something"}'), Ending.LOST),
        (whole("503 X", b"Internal Server Error"), Ending.LOST),
        (whole("200 OK", b"{}")[:-1], Ending.LOST),
        (b"", Ending.LOST),
        (whole("200 OK", b"data: {}\n\ndata: [DONE]\n\n", EVENTS), Ending.SERVED),
        (whole("200 OK", b"data: {}\n\nevent: error\ndata: " + ERROR + b"\n\n", EVENTS), Ending.ERROR),
        (whole("200 OK", b"data: {}\n\n", EVENTS), Ending.LOST),
    ):
        call = ending_of(response)
        assert call.ending is ending, (response, call)
        assert lost([call]) == ([call] if ending is Ending.LOST else [])


def test_a_request_whose_client_disconnected_is_not_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        call = Call(listener.getsockname()[1], "draw")
        call.start()
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            call.leave()
    assert call.ending is Ending.LEFT
    assert lost([call]) == []


def test_the_time_over_the_budget_is_the_longest_breach() -> None:
    sampler = Sampler(set)
    sampler.samples = [Sample(at, used) for at, used in enumerate([5, 11, 12, 9, 11, 11, 11, 3])]
    assert sampler.longest_over(10) == 2
    assert sampler.longest_over(11, since=3) == 0
    assert sampler.longest_over(11) > 0
    assert sampler.peak == 12


@pytest.mark.process
def test_memory_that_moved_between_processes_is_not_counted_twice() -> None:
    leaves, stays = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    pids = {leaves.pid, stays.pid}

    def read(pid: int) -> int:
        if leaves.poll() is None:  # it ends during the first sample
            leaves.kill()
            leaves.wait()
        return 10

    try:
        sampler = Sampler(lambda: pids, read=read)
        assert sampler.sample() is None
        again = sampler.sample()
        assert again is not None
        assert again.used == 10
    finally:
        stays.kill()
        stays.wait()


def test_a_sample_has_the_time_of_its_start() -> None:
    def slowly(pid: int) -> int:
        time.sleep(0.05)
        return 1

    sampler = Sampler(lambda: {os.getpid()}, read=slowly)
    began = time.monotonic()
    sample = sampler.sample()
    assert sample is not None
    assert sample.at - began < 0.05


def test_every_fault_is_in_the_document() -> None:
    table = section(DOCUMENT.read_text(), "faults")
    missing = [fault.name for fault in FAULTS if f"| {fault.name}" not in table]
    assert missing == []
    assert table.count("\n| ") == len(FAULTS), "a fault of the document is no longer tested"


def test_fault_names_are_unique() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
