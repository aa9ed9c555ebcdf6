"""Loads that are slow, fail, or find a stranger on their port; full disks and damaged files."""

from __future__ import annotations

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

from contracts.control import Phase, WorkerHealth
from tests.faults.fault import Fault
from tests.faults.world import World, eventually_answers


def _slow_but_progressing(world: World) -> None:
    calls = [world.call("chat", "a") for _ in range(10)]
    assert all(call.served for call in calls), calls
    assert world.loads("a") == 1


def _hangs(world: World) -> None:
    calls = [world.call("chat", "a") for _ in range(5)]
    for call in calls:
        assert call.got_error, call
        assert call.code == "load_failed", call
        assert "no progress for 4 s while loading" in call.message, call
    assert world.serves("chat", "b")


def _fails(world: World) -> None:
    calls = [world.call("chat", "a") for _ in range(5)]
    for call in calls:
        assert call.got_error, call
        assert call.code == "load_failed", call
        assert "the weights are torn" in call.message, call
        assert 1 <= int(call.answer_headers["retry-after"]) <= 59, call
    assert world.serves("chat", "b")
    eventually_answers(world, "chat", "a")


def _fails_always(world: World) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        assert world.call("chat", "a").got_error
        time.sleep(0.05)
    assert world.loads("a") in (2, 3), world.loads("a")  # the backoff doubles from a second
    world.seen.append(f"{world.loads('a')} loads in 5 s")


class _Liar(BaseHTTPRequestHandler):
    """Claims to be worker *a*, and ready."""

    def do_GET(self) -> None:
        lie = WorkerHealth(alias="a", phase=Phase.READY, nonce="0" * 32, pid=os.getpid())
        body = lie.model_dump_json().encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def _health_lies(world: World) -> None:
    port = world.settings.models["a"].port
    with HTTPServer(("127.0.0.1", port), _Liar) as stranger:
        threading.Thread(target=stranger.serve_forever, args=(0.05,), daemon=True).start()
        call = world.call("chat", "a")
        assert call.got_error, call
        assert call.code == "load_failed", call
        assert world.serves("chat", "b")
        stranger.shutdown()
    eventually_answers(world, "chat", "a")


def _wrong_nonce(world: World) -> None:
    call = world.call("chat", "a")
    assert call.got_error, call
    assert "another process responds on its port" in call.message, call


def _port_taken(world: World) -> None:
    sock = world.occupy("a")
    call = world.call("chat", "a")
    assert call.got_error, call
    assert call.code == "load_failed", call
    assert str(world.settings.models["a"].port) in call.message, call
    assert world.serves("chat", "b")
    sock.close()
    eventually_answers(world, "chat", "a")


def _log_folder_full(world: World) -> None:
    for _ in range(3):
        assert world.serves("chat", "a")
        assert world.serves("chat", "b")
        world.control("/stop-all")
    assert "output cannot be stored" in world.log("manager")


def _state_damaged(world: World) -> None:
    """The file is damaged while the manager is stopped, each time in another way."""
    state = world.folder / "state" / "peaks.json"
    state.parent.mkdir(exist_ok=True)
    damages = (b"", b"\xff\x00nonsense", b'{"version": 1, "checksum": "0", "peaks": {"x": 3}}')
    for damage in damages:
        world.terminate("manager")
        assert world.exit_status("manager") == 0
        state.write_bytes(damage)
        world.start("manager")
        world.up()
        assert world.serves("chat", "a"), damage
    assert world.log("manager").count("damaged, moved to") == len(damages)


def _state_folder_is_a_file(world: World) -> None:
    assert world.serves("chat", "a")
    assert world.serves("chat", "b")


def _200_at_once(world: World) -> None:
    together = threading.Barrier(200)

    def ask() -> None:
        together.wait()
        world.call("chat", "a").ended()

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(world.calls) == 200
    assert all(call.served for call in world.calls), world.of(*world.calls)
    assert world.loads("a") == 1
    world.seen.append("1 load")


SLOW = [["loading", f"{step}", 0.7] for step in range(12)]
ROWS = (
    Fault(
        "a slow load that makes progress",
        "Requests keep waiting, well beyond `start_timeout_s`.",
        _slow_but_progressing,
        options={"a": {"phases": SLOW}},
        settings={"manager.start_timeout_s": 5},
    ),
    Fault(
        "a load that hangs",
        "It fails after `start_timeout_s` without progress; waiting requests get an error.",
        _hangs,
        options={"a": {"stuck": True}},
        settings={"manager.start_timeout_s": 4},
    ),
    Fault(
        "a load that fails once",
        "Waiting requests get the worker's last line as error; after the backoff the "
        "next load succeeds.",
        _fails,
        options={"a": {"exit": 1, "exit_times": 1, "last_words": "the weights are torn\n"}},
    ),
    Fault(
        "a load that always fails",
        "Every request gets an error at once; loads are retried with growing pauses.",
        _fails_always,
        options={"a": {"exit": 1, "last_words": "the weights are torn\n"}},
    ),
    Fault(
        "a foreign process that claims to be the worker",
        "It is not accepted as the worker and gets no request.",
        _health_lies,
    ),
    Fault(
        "a worker that shows a wrong nonce",
        "It is not accepted as the worker, and the load fails.",
        _wrong_nonce,
        options={"a": {"nonce": "x"}},
        settings={"manager.start_timeout_s": 4},
    ),
    Fault(
        "a worker's port is taken",
        "The error names the port; once the port is free, requests are served.",
        _port_taken,
        settings={"manager.start_timeout_s": 3},
    ),
    Fault(
        "the log folder is full",
        "Log output that cannot be written is dropped; nothing else changes.",
        _log_folder_full,
        options={"*": {"say": "nothing of importance\n", "say_times": 5000}},
        small_disk=True,
    ),
    Fault(
        "the state file is damaged",
        "Learned peaks are lost; the manager starts and serves.",
        _state_damaged,
    ),
    Fault(
        "the state folder can't be written",
        "Peaks are not saved; nothing else changes.",
        _state_folder_is_a_file,
        settings={"manager.state_dir": "/dev/null/state"},
    ),
    Fault(
        "200 cold requests at once",
        "One load serves all 200.",
        _200_at_once,
        options={"a": {"phases": [["loading", "", 1]]}},
    ),
)
