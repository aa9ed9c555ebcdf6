"""Memory: pressure, wrong estimates, workers that grow; and clocks that jump."""

from __future__ import annotations

import time

from testkit.stacks import wait_for
from tests.faults.fault import Fault
from tests.faults.world import World, eventually_answers

DAY_S = 86_400.0
FIRST_MEASUREMENT_S = 2.5  # a worker is measured once a second; the rest allows for a busy machine


def _pressure_is(world: World, level: str) -> None:
    wait_for(lambda: world.status()["memory"]["pressure"] == level, 40)


def _pressure_warning(world: World) -> None:
    assert world.serves("chat", "b")
    assert world.serves("draw")
    stream = world.stream("a")  # evicts b
    assert world.state("b") == "stopped"
    world.pull(pressure=1)
    world.in_state("image", "stopped", timeout_s=5)
    time.sleep(1.5)
    assert world.state("a") == "ready"  # busy
    world.flag().touch()
    assert stream.served, stream
    world.in_state("a", "stopped", timeout_s=5)
    assert world.serves("chat", "b")


def _pressure_critical(world: World) -> None:
    stream, image = world.stream("a"), world.call("draw")
    wait_for(lambda: world.open_requests("image") == 1)
    queued = world.call("chat", "b")
    wait_for(lambda: world.queued("b") == 1)
    world.pull(pressure=2)
    _pressure_is(world, "critical")
    refused = world.call("chat", "b")
    assert refused.got_error, refused
    assert refused.status == 503, refused
    assert 1 <= int(refused.answer_headers["retry-after"]) <= 59, refused
    ready = world.call("chat", "a")
    wait_for(lambda: world.open_requests("a") == 2)
    world.flag().touch()
    assert all(call.served for call in (stream, image, ready)), (stream, image, ready)
    for alias in ("a", "image"):
        world.in_state(alias, "stopped", timeout_s=6)
    assert (world.queued("b"), world.state("b")) == (1, "stopped")
    world.pull(pressure=0)
    assert queued.served, queued
    world.seen.append(f"the queued request was served {queued.seconds:.0f} s later")


def _clock_jumps_ahead(world: World) -> None:
    assert world.serves("draw")
    stream = world.stream("a")
    loading = world.call("chat", "b")
    wait_for(lambda: world.status()["models"]["b"]["phase"] == "loading")
    world.pull(clock_offset_s=DAY_S)
    time.sleep(2.5)
    assert world.state("a") == "ready"
    world.flag().touch()
    assert stream.served, stream
    assert loading.served, loading
    assert world.serves("draw")
    assert world.loads("b") == 1


def _clock_jumps_back(world: World) -> None:
    assert world.serves("draw")
    stream = world.stream("a")
    world.pull(clock_offset_s=-3600)
    time.sleep(2.5)
    world.flag().touch()
    assert stream.served, stream
    for route, model in (("chat", "b"), ("draw", "image"), ("chat", "a")):
        assert world.serves(route, model)
    world.signal_worker("a")
    eventually_answers(world, "chat", "a")


def _estimate_wrong(world: World) -> None:
    assert world.serves("chat", "b")
    assert world.serves("chat", "a")  # fits next to b by declared memory
    world.in_state("b", "stopped", timeout_s=5)
    learned_at = time.monotonic()
    over = world.sampler.longest_over(world.budget)
    world.seen.append(f"over the budget for {over:.1f} s until it was measured, never again")
    charged = world.status()["models"]["a"]
    assert charged["memory_gb"] > 0.29 > charged["declared_gb"], charged
    for alias in ("b", "a", "b", "a"):
        assert world.serves("chat", alias)
    world.terminate("manager")
    assert world.exit_status("manager") == 0
    world.start("manager")
    world.up()
    assert world.serves("chat", "b")
    assert world.serves("chat", "a")
    assert world.state("b") == "stopped"
    assert world.sampler.longest_over(world.budget, since=learned_at) == 0


def _device_memory(world: World) -> None:
    assert world.serves("chat", "b")
    assert world.serves("chat", "a")
    world.in_state("b", "stopped", timeout_s=5)
    assert world.state("a") == "ready"
    assert world.status()["models"]["a"]["measured_gb"] > 0.3


def _grows(world: World) -> None:
    assert world.serves("chat", "a")
    first = world.worker_pid("a")
    with world.load("a", clients=2, pause_s=0.3):
        wait_for(lambda: world.loads("a") >= 2, 40)
    assert all(call.served for call in world.calls), world.of(*world.calls)
    assert world.worker_pid("a") != first
    world.seen.append(f"replaced after about {len(world.calls)} requests")


def _served_its_time(world: World) -> None:
    with world.load("a", clients=6):
        wait_for(lambda: world.loads("a") >= 4, 40)
    assert all(call.served for call in world.calls), world.of(*world.calls)


HOLD = {"hold": "@flag"}
ROWS = (
    Fault(
        "memory pressure: warning",
        "Idle workers are unloaded one after the other, busy ones stay, loads continue.",
        _pressure_warning,
        options={"a": HOLD},
    ),
    Fault(
        "memory pressure: critical",
        "Nothing is loaded (503 with Retry-After), ready workers serve, queued requests keep waiting.",
        _pressure_critical,
        options={"a": HOLD, "image": HOLD},
        slow=True,
    ),
    Fault(
        "the clock jumps a day ahead",
        "Running and loading workers stay; idle ones may be unloaded.",
        _clock_jumps_ahead,
        options={"a": HOLD, "b": {"ready_when": "@flag"}},
        settings={"manager.idle_timeout_s": 3600, "memory.max_unified_memory_gb": 0.65},
    ),
    Fault(
        "the clock jumps an hour back",
        "Everything is served as before.",
        _clock_jumps_back,
        options={"a": HOLD},
        settings={"manager.idle_timeout_s": 3600},
    ),
    Fault(
        "a memory estimate that is wrong by 3x",
        "The first measurement shows it, and idle workers are unloaded; from then on the measured "
        "size is charged, "
        "also after a restart. The budget may be exceeded until that measurement, once.",
        _estimate_wrong,
        options={"a": {"allocate_mb": 300}},
        settings={"models.a.memory_gb": 0.1},
        over_budget_s=FIRST_MEASUREMENT_S,
    ),
    Fault(
        "a worker with memory on a device of its own",
        "Device memory counts too: idle workers are unloaded.",
        _device_memory,
        options={"a": {"device_mb": 200}},
    ),
    Fault(
        "a worker that grows with every request",
        "It is replaced when it has outgrown its baseline; no request is interrupted.",
        _grows,
        options={"a": {"grow_mb": 3, "tokens": 3}},
        settings={"memory.recycle_after": 3, "memory.recycle_growth": 0.1},
    ),
    Fault(
        "max_requests under load",
        "Each process is replaced after its number of requests; no request is interrupted.",
        _served_its_time,
        settings={"manager.max_requests": 8},
    ),
)
