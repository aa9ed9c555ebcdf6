"""The pool in virtual time: the queue, eviction, and idle timeouts."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from contracts.errors import InsufficientMemory, QueueFull, QueueTimeout
from manager.launcher.process import StopSignal
from tests.manager.virtual import Scene, story

TERMINATE, KILL = StopSignal.TERMINATE, StopSignal.KILL

# --- the queue -----------------------------------------------------------------------------------


@story({"a": 4, "b": 4}, queue_limit=2)
async def test_the_queue_of_each_alias_is_bounded(scene: Scene) -> None:
    waiting = [scene.ask("a"), scene.ask("a"), scene.ask("b")]
    error = await scene.ask("a").refused()
    assert isinstance(error, QueueFull)
    assert (error.status, error.retry_after) == (429, 5)
    for request in waiting:
        await request.granted()


@story({"a": 4}, queue_limit=1)
async def test_the_queue_limit_counts_waiting_requests_only(scene: Scene) -> None:
    await scene.served()
    for request in [scene.ask() for _ in range(10)]:
        await request.granted()


@story({"a": 4}, queue_timeout_s=30)
async def test_a_request_that_times_out_gets_an_error_and_the_load_continues(scene: Scene) -> None:
    scene.host.behaviours["a"].load_s = 40.0
    error = await scene.ask().refused()
    assert isinstance(error, QueueTimeout)
    assert "within 30 s (it is starting)" in error.message
    assert scene.now() == 30
    lease = await scene.ask().granted()
    assert lease.queue_s == pytest.approx(10, abs=0.1)
    assert len(scene.host.processes) == 1


# --- memory --------------------------------------------------------------------------------------


@story({"a": 13})
async def test_a_model_larger_than_the_whole_budget_is_refused_at_once(scene: Scene) -> None:
    error = await scene.ask().refused()
    assert isinstance(error, InsufficientMemory)
    assert error.message == "a needs 13.0 GB, more than the whole memory budget of 12.0 GB"
    assert scene.host.processes == []


@story({"a": 8, "b": {"memory_gb": 8, "pinned": True}})
async def test_a_request_blocked_by_pinned_workers_only_is_refused_naming_them(scene: Scene) -> None:
    await scene.served("b")
    error = await scene.ask("a").refused()
    assert isinstance(error, InsufficientMemory)
    assert error.message.endswith("with the pinned models: b")
    assert scene.state("b") == "ready"


@story({"a": 8, "b": 4, "c": 4, "d": 4})
async def test_the_least_recently_used_idle_workers_make_room(scene: Scene) -> None:
    for alias in "bcd":
        await scene.served(alias)
    await asyncio.sleep(1)
    await scene.served("b")  # now c is the oldest, then d
    await scene.served("a")
    assert [scene.state(alias) for alias in "abcd"] == ["ready", "ready", "stopped", "stopped"]


@story({"a": 8, "b": 8})
async def test_a_busy_worker_is_never_evicted(scene: Scene) -> None:
    busy = scene.ask("b")
    await busy.granted()
    waiting = scene.ask("a")
    await asyncio.sleep(200)
    assert scene.host.last("b").signals == []
    assert not waiting.holds
    await busy.finish()
    await waiting.granted()
    assert scene.host.last("b").signals == [TERMINATE]


@story({"a": 8, "b": 8})
async def test_memory_is_charged_until_the_process_is_reaped(scene: Scene) -> None:
    await scene.served("b")
    scene.host.behaviours["b"].stubborn = True
    scene.host.last("b").behaviour = scene.host.behaviours["b"]
    before = scene.now()
    await scene.served("a")
    assert scene.host.last("b").signals == [TERMINATE, KILL]
    assert scene.now() == pytest.approx(before + 5 + 1, abs=0.1)  # stop_timeout_s, load


@story({"a": 8, "b": 8})
async def test_a_waiting_alias_does_not_starve_behind_a_stream_of_requests_for_the_loaded_one(
    scene: Scene,
) -> None:
    running = [scene.ask("b") for _ in range(3)]
    await running[0].granted()
    waiting = scene.ask("a")
    stream = []
    for _ in range(10):  # always one more request for b before the last one ends
        stream.append(scene.ask("b"))
        await asyncio.sleep(1)
        if running:
            await running.pop().finish()
    lease = await waiting.granted()
    assert lease.queue_s < 6
    assert not any(request.holds for request in stream)
    await waiting.finish()
    for request in stream:  # now they are served, all at once
        await request.granted()
    assert len(scene.host.of("b")) == 2


@story({"a": 8, "b": 8})
async def test_a_request_blocked_by_one_whose_client_leaves_is_served_at_once(scene: Scene) -> None:
    busy = scene.ask("b")
    await busy.granted()
    waiting, held = scene.ask("a"), scene.ask("b")
    await scene.settle()
    assert not held.holds
    await waiting.leave()
    await held.granted()


@story({"a": 8, "b": 8}, queue_timeout_s=10)
async def test_a_request_blocked_by_one_that_times_out_is_served_then(scene: Scene) -> None:
    busy = scene.ask("b")
    await busy.granted()
    scene.ask("a").task.add_done_callback(lambda task: task.exception())
    await asyncio.sleep(5)
    held = scene.ask("b")
    assert (await held.granted()).queue_s == pytest.approx(5, abs=0.01)


@story({"a": 6, "b": 6, "c": 6})
async def test_loads_that_fit_together_run_concurrently(scene: Scene) -> None:
    first, second = scene.ask("a"), scene.ask("b")
    await first.granted()
    await second.granted()
    assert scene.now() == pytest.approx(1, abs=0.1)


# --- idle ----------------------------------------------------------------------------------------


@story({"a": 4}, idle_timeout_s=60)
async def test_an_idle_worker_leaves_after_its_timeout_counted_from_the_end_of_its_last_request(
    scene: Scene,
) -> None:
    request = scene.ask()
    await request.granted()
    await asyncio.sleep(500)
    await request.finish()
    await asyncio.sleep(59.9)
    assert scene.state() == "ready"
    await asyncio.sleep(0.2)
    assert scene.state() == "stopped"


@story(
    {"a": {"memory_gb": 4, "idle_timeout_s": -1}, "b": {"memory_gb": 4, "pinned": True}, "c": 1},
    idle_timeout_s=9,
)
async def test_workers_without_idle_timeout_and_pinned_ones_stay(scene: Scene) -> None:
    for alias in "abc":
        await scene.served(alias)
    await asyncio.sleep(1000)
    assert [scene.state(alias) for alias in "abc"] == ["ready", "ready", "stopped"]


@story({"a": 4}, idle_timeout_s=60)
async def test_a_touch_restarts_the_idle_time(scene: Scene) -> None:
    assert not scene.pool.touch("a")
    await scene.served()
    await asyncio.sleep(50)
    assert scene.pool.touch("a")
    await asyncio.sleep(50)
    assert scene.state() == "ready"
    await asyncio.sleep(20)
    assert scene.state() == "stopped"


# --- log lines and repr --------------------------------------------------------------------------


def test_each_transition_is_one_log_line_with_its_alias(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @story({"a": 4})
    async def lives(scene: Scene) -> None:
        await scene.served()
        await scene.pool.stop("a")

    with caplog.at_level(logging.INFO, "manager.worker"):
        lives(tmp_path)
    lines = [r.getMessage() for r in caplog.records if " -> " in r.getMessage()]
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == [
        "stopped -> starting",
        "starting -> ready",
        "ready -> stopping",
        "stopping -> stopped",
    ]
    assert all(line.startswith("a: ") for line in lines)


@story({"a": 4, "b": 4})
async def test_the_repr_of_a_pool_shows_workers_and_queue(scene: Scene) -> None:
    await scene.ask("a").granted()
    scene.ask("b")
    await asyncio.sleep(0.5)
    assert repr(scene.pool) == "<Pool [a ready 1, b starting 0, image stopped 0] queued: ['b']>"
    assert repr(scene.pool.worker("a")) == "<Worker a ready leases=1 pid=1000>"
