"""The pool in virtual time: stopping workers, and shutdown."""

from __future__ import annotations

import asyncio

import pytest

from contracts.errors import Unavailable
from manager.launcher.process import StopSignal
from tests.manager.virtual import Scene, story

TERMINATE, KILL = StopSignal.TERMINATE, StopSignal.KILL

# --- stopping ------------------------------------------------------------------------------------


@story({"a": 4}, drain_timeout_s=30)
async def test_a_stop_lets_open_requests_finish(scene: Scene) -> None:
    request = scene.ask()
    lease = await request.granted()
    stop = asyncio.create_task(scene.pool.stop("a"))
    await asyncio.sleep(20)
    assert (scene.state(), scene.host.last("a").signals) == ("draining", [])
    await request.finish()
    assert await stop is True
    assert scene.state() == "stopped"
    assert scene.now() == pytest.approx(21, abs=0.1)
    assert await lease.broken(within_s=0)


@story({"a": 4}, drain_timeout_s=30)
async def test_a_drain_ends_at_the_drain_timeout(scene: Scene) -> None:
    request = scene.ask()
    await request.granted()
    assert await scene.pool.stop("a")
    assert scene.now() == pytest.approx(31, abs=0.1)
    assert scene.pool.worker("a").last_ending == "it was stopped"
    await request.finish()


@story({"a": 4}, stop_timeout_s=5)
async def test_the_stop_ladder_ends_with_a_kill(scene: Scene) -> None:
    scene.host.behaviours["a"].stubborn = True
    await scene.served()
    before = scene.now()
    await scene.pool.stop("a")
    assert scene.host.last("a").signals == [TERMINATE, KILL]
    assert scene.now() == pytest.approx(before + 5)


@story({"a": 4})
async def test_requests_during_a_stop_wait_and_start_it_again(scene: Scene) -> None:
    request = scene.ask()
    await request.granted()
    stop = asyncio.create_task(scene.pool.stop("a"))
    await scene.settle()
    late = scene.ask()
    await asyncio.sleep(3)
    assert not late.holds
    await request.finish()
    assert (await late.granted()).incarnation == 2
    assert await stop is True


@story({"a": 4})
async def test_a_stopped_load_answers_its_waiting_requests(scene: Scene) -> None:
    scene.host.behaviours["a"].load_s = 100.0
    request = scene.ask()
    await asyncio.sleep(1)
    assert await scene.pool.stop("a") is True
    error = await request.refused()
    assert isinstance(error, Unavailable)
    assert (error.code, error.headers()) == ("stopped", {"x-should-retry": "false"})
    assert scene.state() == "stopped"
    assert scene.now() == 1
    scene.host.behaviours["a"].load_s = 1.0
    await scene.served()


@story({"a": 8, "b": 8})
async def test_a_load_that_still_waits_for_its_memory_can_be_stopped(scene: Scene) -> None:
    await scene.served("b")
    scene.host.last("b").behaviour.leaves_s = 3.0
    request = scene.ask("a")
    await scene.settle()
    assert scene.pool.worker("a").phase == "waiting for memory"
    await scene.pool.stop("a")
    assert isinstance(await request.refused(), Unavailable)
    assert scene.host.of("a") == []


@story({"a": 4})
async def test_a_stop_during_the_launch_leaves_no_process(scene: Scene) -> None:
    request = scene.ask()
    await scene.settle(lambda: scene.pool.worker("a").process is not None)
    assert scene.host.processes == []  # it is being launched
    await scene.pool.stop("a")
    await request.refused()
    assert len(scene.host.processes) == 1
    assert scene.host.living() == []


@story({"a": 4}, drain_timeout_s=30)
async def test_a_crash_while_draining_ends_the_stop(scene: Scene) -> None:
    request = scene.ask()
    await request.granted()
    stop = asyncio.create_task(scene.pool.stop("a"))
    await asyncio.sleep(1)
    scene.host.last("a").end(-9)
    assert await stop is True
    assert scene.state() == "failed"
    await request.finish()


@story({"a": 4, "b": 4, "c": 4})
async def test_stop_all_stops_all_workers_concurrently_and_lists_them(scene: Scene) -> None:
    for alias in "ab":
        scene.host.behaviours[alias].leaves_s = 4.0
        await scene.served(alias)
    before = scene.now()
    assert await scene.pool.stop_all() == ["a", "b"]
    assert scene.now() == pytest.approx(before + 4)


# --- shutdown ------------------------------------------------------------------------------------


@story({"a": 4, "b": 4, "c": 4}, drain_timeout_s=30)
async def test_closing_drains_and_stops_all_and_refuses_waiting_requests(scene: Scene) -> None:
    busy = scene.ask("a")
    await busy.granted()
    await scene.served("b")
    loading = scene.ask("c")
    await asyncio.sleep(0.5)
    closing = asyncio.create_task(scene.pool.close())
    error = await loading.refused()
    assert isinstance(error, Unavailable)
    assert "shutting down" in error.message
    await asyncio.sleep(5)
    assert [p.alias for p in scene.host.living()] == ["a"]
    assert isinstance(await scene.ask("b").refused(), Unavailable)
    await busy.finish()
    await closing
    assert scene.host.living() == []
    assert scene.now() < 10


@story({"a": 4}, drain_timeout_s=30)
async def test_a_hurried_close_waits_for_no_request(scene: Scene) -> None:
    request = scene.ask()
    await request.granted()
    closing = asyncio.create_task(scene.pool.close())
    await asyncio.sleep(2)
    await scene.pool.close(hurry=True)
    await closing
    assert scene.now() == pytest.approx(3, abs=0.1)
    await request.finish()


@story({"a": {"memory_gb": 4, "preload": True}})
async def test_closing_during_a_preload_leaves_nothing(scene: Scene) -> None:
    scene.pool.start()
    await scene.settle()
    await scene.pool.close()
    assert scene.host.living() == []
