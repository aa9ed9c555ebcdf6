"""The pool in virtual time: processes that grow, hang, crash or serve max_requests are replaced."""

from __future__ import annotations

import asyncio

import pytest

from contracts.settings.base import GIB
from manager.launcher.process import StopSignal
from tests.manager.virtual import Scene, story

TERMINATE, KILL = StopSignal.TERMINATE, StopSignal.KILL


# --- replacement -----------------------------------------------------------------------------------


@story({"a": 4}, max_requests=3)
async def test_a_process_is_replaced_after_max_requests_without_losing_one(
    scene: Scene,
) -> None:
    requests = [scene.ask() for _ in range(5)]
    await asyncio.sleep(2)
    assert [request.holds for request in requests] == [True, True, True, False, False]
    assert scene.state() == "draining"
    await asyncio.sleep(100)  # longer than any drain that cuts requests off
    assert requests[0].holds
    for request in requests[:3]:
        await request.finish()
    for request in requests[3:]:
        await request.granted()
    assert len(scene.host.processes) == 2
    assert scene.host.processes[0].signals == [TERMINATE]


@story({"a": 4}, max_requests=1)
async def test_a_recycled_worker_is_loaded_again_without_a_request(scene: Scene) -> None:
    await scene.served()
    await asyncio.sleep(3)
    assert scene.state() == "ready"
    assert len(scene.host.processes) == 2


@story({"a": 4}, max_requests=1)
async def test_a_worker_stopped_while_it_is_recycled_stays_stopped(scene: Scene) -> None:
    request = scene.ask()
    await request.granted()
    await scene.settle()
    assert scene.state() == "draining"
    stopping = asyncio.create_task(scene.pool.stop("a"))
    await asyncio.sleep(1)
    await request.finish()
    await stopping
    await asyncio.sleep(5)
    assert scene.state() == "stopped"


@story({"a": 4})
async def test_a_worker_that_keeps_growing_is_replaced_when_its_requests_have_ended(
    scene: Scene,
) -> None:
    scene.host.behaviours["a"].footprint = 4 * GIB
    for _ in range(21):
        await scene.served()
    busy = scene.ask()
    await busy.granted()
    await asyncio.sleep(2)
    scene.host.last("a").behaviour.footprint = 7 * GIB
    await asyncio.sleep(4)
    assert scene.state() == "draining"
    assert busy.holds
    await busy.finish()
    await asyncio.sleep(4)
    assert scene.state() == "ready"
    assert len(scene.host.processes) == 2


async def grown_by(scene: Scene, share: float, requests: int) -> bool:
    """Whether the worker was replaced after it had grown by *share* since its first *requests*."""
    scene.host.behaviours["a"].footprint = 4 * GIB
    for _ in range(requests):
        await scene.served()
    await asyncio.sleep(2)
    scene.host.behaviours["a"].footprint = int(4 * GIB * (1 + share))
    await scene.served()
    await asyncio.sleep(4)
    return len(scene.host.processes) > 1


@story({"a": 4}, memory={"recycle_growth": 0.2, "recycle_after": 5})
async def test_the_allowed_growth_is_configurable(scene: Scene) -> None:
    assert not await grown_by(scene, 0.19, requests=5)
    assert await grown_by(scene, 0.21, requests=1)


@story({"a": 4}, memory={"recycle_growth": 0.2, "recycle_after": 50})
async def test_growth_of_the_first_requests_is_the_baseline(scene: Scene) -> None:
    assert not await grown_by(scene, 0.5, requests=40)


@story({"a": 4}, memory={"recycle_growth": 0, "recycle_after": 1})
async def test_with_0_any_growth_is_allowed(scene: Scene) -> None:
    assert not await grown_by(scene, 2.0, requests=5)


# --- the watchdog ----------------------------------------------------------------------------------


@story({"a": 4}, stall_timeout_s=30)
async def test_a_worker_without_progress_is_killed_and_the_next_request_starts_it(
    scene: Scene,
) -> None:
    stuck = scene.ask()
    lease = await stuck.granted()
    scene.host.last("a").behaviour.stalls = True
    assert await lease.broken(within_s=60)
    assert scene.now() == pytest.approx(31, abs=3)
    process = scene.host.last("a")
    assert process.signals == [KILL]
    assert "no token or step" in scene.pool.worker("a").last_error
    scene.host.behaviours["a"].stalls = False
    await scene.ask().granted()


@story({"a": 4}, stall_timeout_s=30)
async def test_a_worker_whose_health_does_not_respond_is_killed(scene: Scene) -> None:
    await scene.served()
    scene.host.last("a").behaviour.deaf = True
    await asyncio.sleep(40)
    assert scene.host.last("a").signals == [KILL]


@story({"a": 4}, stall_timeout_s=30, max_requests=1)
async def test_a_worker_that_is_to_be_replaced_is_watched_while_it_drains(scene: Scene) -> None:
    lease = await scene.ask().granted()
    scene.host.last("a").behaviour.stalls = True
    assert await lease.broken(within_s=60)


# --- after a crash ----------------------------------------------------------------------------------


@story({"a": {"memory_gb": 4, "preload": True}, "b": 4})
async def test_a_preloaded_model_is_loaded_again_after_a_crash(scene: Scene) -> None:
    scene.pool.start()
    await asyncio.sleep(2)
    await scene.served("b")
    scene.host.last("a").end(-9)
    scene.host.last("b").end(-9)
    await asyncio.sleep(5)
    assert (scene.state("a"), scene.state("b")) == ("ready", "failed")
