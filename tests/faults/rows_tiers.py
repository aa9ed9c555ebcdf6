"""The death of the manager and of the gateway, clients that disconnect, a machine that sleeps."""

from __future__ import annotations

import os
import signal
import time

from testkit.stacks import wait_for
from tests.faults.calls import Ending
from tests.faults.fault import Fault
from tests.faults.processes import alive
from tests.faults.world import World, eventually_answers


def _manager_sigterm(world: World) -> None:
    stream, silent = world.stream("a"), world.call("chat", "a")
    wait_for(lambda: world.open_requests("a") == 2)
    waiting = world.call("chat", "b")
    wait_for(lambda: world.queued("b") == 1)
    world.terminate("manager")
    assert waiting.got_error, waiting
    late = world.call("chat", "a")
    assert late.got_error, late
    assert late.code in ("manager_unreachable", "unavailable"), late
    time.sleep(0.5)
    assert stream.is_alive()
    world.flag().touch()
    assert stream.served, stream
    assert silent.served, silent
    assert world.exit_status("manager") == 0
    world.start("manager")
    world.up()
    eventually_answers(world, "chat", "a")


def _manager_sigterm_under_load(world: World) -> None:
    with world.load("a", "b", clients=6):
        world.in_state("a", "ready")
        world.in_state("b", "ready")
        time.sleep(0.5)
        world.terminate("manager")
        assert world.exit_status("manager") == 0
        world.start("manager")
        time.sleep(1)
    world.up()
    assert world.serves("chat", "a")


def _manager_killed(world: World) -> None:
    with world.load("a", "b", clients=6):
        world.in_state("a", "ready")
        world.in_state("b", "ready")
        time.sleep(0.5)
        workers = world.sampler.known
        world.kill("manager")
        killed_at = time.monotonic()
        wait_for(lambda: not [pid for pid in workers if alive(pid)], 5)
        world.seen.append(f"workers exited after {time.monotonic() - killed_at:.1f} s")
        assert workers
        world.start("manager")
        time.sleep(1)
    world.up()
    assert world.serves("chat", "a")


def _gateway_killed(world: World) -> None:
    assert world.serves("chat", "a")
    worker = world.worker_pid("a")
    with world.load("a", clients=6):
        time.sleep(0.5)
        world.kill("gateway")
        wait_for(lambda: world.open_requests("a") == 0, 10)
        world.start("gateway")
        world.up()
        time.sleep(0.5)
    assert world.serves("chat", "a")
    assert world.worker_pid("a") == worker


def _left_while_queued(world: World) -> None:
    """*b* and *image* are busy and fill the budget; the clients of *a* disconnect while queued."""
    busy = [world.stream("b"), world.call("draw")]
    wait_for(lambda: world.open_requests("image") == 1)
    waiting = [world.call("chat", "a") for _ in range(10)]
    wait_for(lambda: world.queued("a") == 10)
    for call in waiting:
        call.leave()
    wait_for(lambda: world.queued("a") == 0, 5)
    world.flag().touch()
    assert all(call.served for call in busy), busy
    assert world.loads("a") == 0


def _left_while_loading(world: World) -> None:
    waiting = [world.call("chat", "a") for _ in range(10)]
    wait_for(lambda: world.queued("a") == 10)
    pid = world.worker_pid("a")
    for call in waiting:
        call.leave()
    wait_for(lambda: world.queued("a") == 0, 5)
    world.flag().touch()
    assert world.serves("chat", "a")
    assert (world.worker_pid("a"), world.loads("a")) == (pid, 1)


def _left_in_mid_stream(world: World) -> None:
    streams = [world.stream("a") for _ in range(10)]
    for stream in streams:
        stream.leave()
        assert stream.ending is Ending.LEFT
    wait_for(lambda: world.open_requests("a") == 0, 5)
    world.flag().touch()
    assert world.serves("chat", "a")
    assert world.loads("a") == 1


def _left_in_mid_image(world: World) -> None:
    calls = [world.call("draw") for _ in range(10)]
    wait_for(lambda: world.open_requests("image") == 10)
    for call in calls:
        call.leave()
    wait_for(lambda: world.open_requests("image") == 0, 5)
    world.flag().touch()
    assert world.serves("draw")
    assert world.loads("image") == 1


def _evict_under_load(world: World) -> None:
    evictions = 0
    with world.load("a", clients=6):
        for _ in range(5):
            world.in_state("a", "ready")
            time.sleep(0.2)
            evictions += world.control("/stop/a").json()["was_loaded"]
    assert evictions == 5
    assert all(call.served for call in world.calls), world.of(*world.calls)


def _stop_all_under_load(world: World) -> None:
    with world.load("a", "b", clients=6):
        for _ in range(5):
            world.in_state("a", "ready")
            world.in_state("b", "ready")
            time.sleep(0.2)
            assert set(world.control("/stop-all").json()["stopped"]) == {"a", "b"}
    assert world.serves("chat", "a")


def _sharing_under_load(world: World) -> None:
    with world.load("a", "b", "image", clients=6):
        time.sleep(12)
    assert all(call.served for call in world.calls), world.of(*world.calls)
    assert {call.model for call in world.calls} == {"a", "b", "image"}
    swaps = sum(world.loads(alias) for alias in ("a", "b", "image"))
    longest = max(call.seconds for call in world.calls)
    assert swaps >= 4
    world.seen.append(f"{swaps} loads in 12 s, the longest request took {longest:.1f} s")


def _sleep(world: World) -> None:
    stream, silent, loading = world.stream("a"), world.call("chat", "a"), world.call("chat", "b")
    wait_for(lambda: world.queued("b") == 1)
    tree = world.tree()
    for pid in tree:
        os.kill(pid, signal.SIGSTOP)
    asleep = [world.call("chat", "a") for _ in range(3)]
    time.sleep(30)
    for pid in tree:
        os.kill(pid, signal.SIGCONT)
    world.flag().touch()
    calls = [stream, silent, loading, *asleep]
    assert all(call.served for call in calls), calls
    assert (world.loads("a"), world.loads("b")) == (1, 1)


HOLD = {"hold": "@flag"}
ROWS = (
    Fault(
        "SIGTERM of the manager with work in hand",
        "Open responses complete, waiting requests get an error, new ones are refused, exit status 0.",
        _manager_sigterm,
        options={"a": HOLD, "b": {"ready_when": "@flag"}},
    ),
    Fault(
        "SIGTERM of the manager under load",
        "No response is interrupted; a new manager serves.",
        _manager_sigterm_under_load,
        options={"*": {"tokens": 10}},
    ),
    Fault(
        "kill -9 of the manager under load",
        "The gateway returns errors; the workers exit within 5 s; a new manager serves.",
        _manager_killed,
        options={"*": {"tokens": 10}},
    ),
    Fault(
        "kill -9 of the gateway under load",
        "Its clients lose their connections, which cannot be avoided; the leases end, "
        "the workers stay.",
        _gateway_killed,
        options={"*": {"tokens": 10}},
    ),
    Fault(
        "clients disconnect while they are queued",
        "They leave the queue; nothing is loaded for them.",
        _left_while_queued,
        options={"b": HOLD, "image": HOLD},
    ),
    Fault(
        "clients disconnect while their model loads",
        "The load continues, and serves the next request.",
        _left_while_loading,
        options={"a": {"ready_when": "@flag"}},
    ),
    Fault(
        "clients disconnect in mid-stream",
        "The work ends within seconds; the worker stays.",
        _left_in_mid_stream,
        options={"a": HOLD},
    ),
    Fault(
        "clients disconnect in mid-image",
        "The work ends within seconds; the worker stays.",
        _left_in_mid_image,
        options={"image": HOLD},
    ),
    Fault(
        "evict under load",
        "Open requests complete, later ones load the model again: all succeed.",
        _evict_under_load,
        options={"*": {"tokens": 10}},
    ),
    Fault(
        "stop-all under load",
        "Open requests complete; requests waiting for a stopped load get an error.",
        _stop_all_under_load,
        options={"*": {"tokens": 10}},
    ),
    Fault(
        "three models under load, room for two",
        "They take turns, and every request succeeds.",
        _sharing_under_load,
        settings={"manager.max_wait_s": 1},
    ),
    Fault(
        "sleep and wake: SIGSTOP of everything for 30 s",
        "Open requests and loads continue: all succeed.",
        _sleep,
        options={"a": HOLD, "b": {"ready_when": "@flag"}},
        settings={"manager.start_timeout_s": 120, "manager.stall_timeout_s": 10},
        slow=True,
    ),
)
