"""Workers that die, hang or do not exit (fake workers, which are real processes)."""

from __future__ import annotations

import functools
import os
import signal
import time

from testkit.stacks import wait_for
from tests.faults.fault import Fault
from tests.faults.processes import alive
from tests.faults.world import World, eventually_answers


def _ended(pid: int) -> bool:
    return not alive(pid)


def _killed_while_idle(world: World) -> None:
    assert world.serves("chat", "a")
    world.signal_worker("a")
    calls = [world.call("chat", "a") for _ in range(5)]
    assert all(call.served for call in calls), calls
    assert world.loads("a") == 2


def _killed_while_loading(world: World) -> None:
    calls = [world.call("chat", "a") for _ in range(5)]
    wait_for(lambda: world.queued("a") == 5)
    world.signal_worker("a")
    for call in calls:
        assert call.got_error, call
        assert call.code == "load_failed", call
        assert "SIGKILL" in call.message, call
    world.flag().touch()
    eventually_answers(world, "chat", "a")


def _killed_in_mid_stream(world: World) -> None:
    stream = world.stream("a")
    silent = world.call("chat", "a")
    wait_for(lambda: world.open_requests("a") == 2)
    world.signal_worker("a")
    assert stream.got_error, stream
    assert stream.code == "worker_failed", stream
    world.flag().touch()
    assert silent.served, silent
    world.seen.append("the stream ended with an error event, the other request was sent again")


def _killed_in_mid_image(world: World) -> None:
    call = world.call("draw")
    wait_for(lambda: world.open_requests("image") == 1)
    world.signal_worker("image")
    world.flag().touch()
    assert call.served, call
    world.seen.append("sent again once, and served")


def _killed_twice(world: World) -> None:
    call = world.call("draw")
    killed: set[int] = set()

    def has_the_request() -> bool:
        # The status may still show the process that was killed before.
        return world.open_requests("image") == 1 and world.worker_pid("image") not in killed

    for _ in range(2):
        wait_for(has_the_request)
        pid = world.signal_worker("image")
        killed.add(pid)
        wait_for(functools.partial(_ended, pid))
    assert call.got_error, call
    assert call.code == "worker_failed", call
    world.flag().touch()
    eventually_answers(world, "draw")


def _killed_under_load(world: World) -> None:
    with world.load("a", "b", clients=6):
        for alias in ("a", "b") * 3:
            world.in_state(alias, "ready")
            time.sleep(0.2)
            world.signal_worker(alias)
            time.sleep(0.6)
    assert world.serves("chat", "a")


def _stopped_with_work(world: World) -> None:
    stream, silent = world.stream("a"), world.call("chat", "a")
    wait_for(lambda: world.open_requests("a") == 2)
    stopped = world.signal_worker("a", signal.SIGSTOP)
    wait_for(lambda: not alive(stopped), 15)
    world.flag().touch()
    assert stream.got_error, stream
    assert silent.served, silent


def _stopped_for_a_moment(world: World) -> None:
    assert world.serves("chat", "a")
    calls = []
    with world.load("a"):
        pid = world.signal_worker("a", signal.SIGSTOP)
        calls = [world.call("chat", "a") for _ in range(5)]
        time.sleep(1)
        os.kill(pid, signal.SIGCONT)
    assert all(call.served for call in calls), calls
    assert world.loads("a") == 1


def _stalls(world: World) -> None:
    call = world.call("chat", "a")
    stuck = world.worker_pid("a")
    assert call.served, call
    assert not alive(stuck)
    assert world.loads("a") == 2


def _ignores_sigterm(world: World) -> None:
    assert world.serves("chat", "a")
    pid = world.worker_pid("a")
    assert world.control("/stop/a").json()["was_loaded"]
    assert not alive(pid)
    assert world.serves("chat", "a")


def _ignores_sigterm_and_is_evicted(world: World) -> None:
    for model in ("a", "b", "image", "a"):
        assert world.serves("draw" if model == "image" else "chat", model)


def _leaves_children(world: World) -> None:
    assert world.serves("chat", "a")
    pid = world.worker_pid("a")
    (child,) = [p for p in world.tree() if os.getpgid(p) == pid and p != pid]
    world.signal_worker("a")
    wait_for(lambda: not alive(child), 5)
    eventually_answers(world, "chat", "a")


def _exits_0_while_loading(world: World) -> None:
    call = world.call("chat", "a")
    assert call.got_error, call
    assert (call.code, call.answer_headers["x-should-retry"]) == ("load_failed", "false")
    assert "exit status 0" in call.message, call
    assert world.state("a") == "failed"


def _exits_0_at_a_request(world: World) -> None:
    call = world.call("chat", "a")
    assert call.served, call
    assert world.loads("a") == 2


def _exits_at_every_request(world: World) -> None:
    call = world.call("chat", "a")
    assert call.got_error, call
    assert call.code == "worker_failed", call
    assert world.loads("a") == 2
    assert world.serves("chat", "b")


HOLD = {"hold": "@flag"}
ROWS = (
    Fault(
        "kill -9 of an idle worker",
        "The next requests wait for a new process and are served.",
        _killed_while_idle,
    ),
    Fault(
        "kill -9 of a loading worker",
        "Requests waiting for that load get an error with the signal; after the backoff "
        "the next load succeeds.",
        _killed_while_loading,
        options={"a": {"ready_when": "@flag"}},
    ),
    Fault(
        "kill -9 of a worker in mid-stream",
        "The stream ends with an error event; requests without a first byte are served "
        "by a new process.",
        _killed_in_mid_stream,
        options={"a": HOLD},
    ),
    Fault(
        "kill -9 of a worker in mid-image",
        "The request is sent once more, to a new process, and served.",
        _killed_in_mid_image,
        options={"image": HOLD},
    ),
    Fault(
        "kill -9 of a worker, and of its successor",
        "A request is sent a second time, never a third: then its client gets an error.",
        _killed_twice,
        options={"image": HOLD},
    ),
    Fault(
        "kill -9 of workers under load, again and again",
        "Streams end with an error event, other requests succeed or get an error; "
        "afterwards all is served.",
        _killed_under_load,
        options={"*": {"tokens": 10}},
    ),
    Fault(
        "SIGSTOP of a worker with work in hand",
        "It is killed after `stall_timeout_s`; the stream ends with an error, requests "
        "without a first byte are served again.",
        _stopped_with_work,
        options={"a": HOLD},
        settings={"manager.stall_timeout_s": 2},
    ),
    Fault(
        "SIGSTOP of a worker for a second",
        "The requests are served late, by the same process.",
        _stopped_for_a_moment,
    ),
    Fault(
        "a worker whose model hangs",
        "It is killed after `stall_timeout_s`, and the request is served by a new process.",
        _stalls,
        options={"a": {"stall": True, "times": 1}},
        settings={"manager.stall_timeout_s": 1.5},
    ),
    Fault(
        "a worker that ignores SIGTERM",
        "It is killed after `stop_timeout_s`.",
        _ignores_sigterm,
        options={"a": {"stubborn": True}},
    ),
    Fault(
        "workers that ignore SIGTERM while memory is needed",
        "The next model is started when they have exited.",
        _ignores_sigterm_and_is_evicted,
        options={"*": {"stubborn": True}},
        settings={"manager.stop_timeout_s": 0.5},
    ),
    Fault(
        "kill -9 of a worker with a child process",
        "The child process is killed too.",
        _leaves_children,
        options={"a": {"child": True}},
    ),
    Fault(
        "a worker that exits 0 while it loads",
        "That is a failed load, reported at once.",
        _exits_0_while_loading,
        options={"a": {"exit": 0}},
    ),
    Fault(
        "a worker that exits 0 at its first request",
        "The request is sent to a new process, and served.",
        _exits_0_at_a_request,
        options={"a": {"request_exit": 0, "times": 1}},
    ),
    Fault(
        "a worker that exits at every request",
        "The request is tried twice, then gets an error; other models serve.",
        _exits_at_every_request,
        options={"a": {"request_exit": 0}},
    ),
)
