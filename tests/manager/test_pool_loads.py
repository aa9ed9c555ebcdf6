"""The pool in virtual time: one load per request burst, and the errors when a load fails."""

from __future__ import annotations

import asyncio

import pytest

from contracts.errors import LoadFailed
from manager.launcher.process import LaunchFailed
from tests.manager.virtual import Scene, story
from tests.manager.virtual_host import Behaviour

# --- loads ---------------------------------------------------------------------------------------


@story({"a": 4})
async def test_many_requests_make_one_load(scene: Scene) -> None:
    requests = [scene.ask() for _ in range(50)]
    leases = [await request.granted() for request in requests]
    assert len(scene.host.processes) == 1
    assert {lease.incarnation for lease in leases} == {1}
    assert scene.pool.worker("a").life.leases == 50


@story({"a": 4})
async def test_a_lease_has_its_queue_time_and_its_load_time(scene: Scene) -> None:
    scene.host.behaviours["a"].load_s = 10.0
    first = scene.ask()
    await asyncio.sleep(4)
    second, lease = scene.ask(), await first.granted()
    assert (lease.queue_s, lease.load_s) == pytest.approx((10, 10), abs=0.1)
    lease = await second.granted()
    assert (lease.queue_s, lease.load_s) == pytest.approx((6, 6), abs=0.1)
    lease = await scene.ask().granted()
    assert (lease.queue_s, lease.load_s) == (0, 0)


@story({"a": 8, "b": 8})
async def test_waiting_for_memory_is_not_part_of_the_load_time(scene: Scene) -> None:
    busy = scene.ask("b")
    await busy.granted()
    waiting = scene.ask("a")
    await asyncio.sleep(20)
    await busy.finish()
    lease = await waiting.granted()
    assert lease.queue_s == pytest.approx(21, abs=0.1)
    assert lease.load_s == pytest.approx(1, abs=0.1)


@story({"a": 4})
async def test_a_load_continues_when_its_client_leaves(scene: Scene) -> None:
    request = scene.ask()
    await asyncio.sleep(0.5)
    await request.leave()
    assert scene.pool.queued("a") == 0
    await asyncio.sleep(1)
    assert scene.state() == "ready"
    assert scene.pool.worker("a").life.leases == 0


@story({"a": 4})
async def test_a_client_that_leaves_just_as_it_is_granted_releases_its_lease(scene: Scene) -> None:
    request = scene.ask()
    await scene.settle(lambda: scene.pool.queued("a") == 1)
    # Runs after the grant and before the request resumes.
    next(iter(scene.pool._queue)).result.add_done_callback(lambda _: request.task.cancel())
    await asyncio.wait({request.task})
    assert request.lease is None
    assert scene.state() == "ready"
    assert scene.pool.worker("a").life.leases == 0


@story({"a": 4, "b": 4})
async def test_a_request_for_a_ready_worker_does_not_wait_for_another_s_load(scene: Scene) -> None:
    await scene.served("a")
    scene.host.behaviours["b"].load_s = 1000.0
    loading = scene.ask("b")
    await scene.settle()
    before = scene.now()
    lease = await scene.ask("a").granted()
    assert lease.queue_s == 0
    assert scene.now() == before
    assert not loading.holds


@story({"a": 4}, start_timeout_s=10, queue_timeout_s=1000)
async def test_a_slow_load_with_progress_never_times_out(scene: Scene) -> None:
    scene.host.behaviours["a"].load_s = 100.0
    lease = await scene.ask().granted()
    assert lease.load_s == pytest.approx(100, abs=1)


@story({"a": 4}, start_timeout_s=10, queue_timeout_s=1000)
async def test_a_load_without_progress_fails_and_its_process_is_reaped(scene: Scene) -> None:
    scene.host.behaviours["a"] = Behaviour(load_s=5.0, hangs=True)
    error = await scene.ask().refused()
    assert isinstance(error, LoadFailed)
    assert error.message == "a could not be loaded: no progress for 10 s while loading"
    assert scene.now() == pytest.approx(15, abs=0.2)
    assert scene.host.living() == []


# --- failures ------------------------------------------------------------------------------------


@story({"a": 4})
async def test_a_failed_load_answers_all_waiting_requests_with_the_last_line(scene: Scene) -> None:
    scene.host.behaviours["a"].fails_with = "load failed: weights are missing"
    errors = [await request.refused() for request in [scene.ask() for _ in range(3)]]
    for error in errors:
        assert isinstance(error, LoadFailed)
        assert error.message == "a could not be loaded: weights are missing (exit status 1)"
        assert error.headers() == {"retry-after": "1", "x-should-retry": "false"}
    assert len({id(error) for error in errors}) == 3
    assert len(scene.host.processes) == 1


@story({"a": 4})
async def test_during_backoff_a_request_is_refused_at_once_and_nothing_is_started(scene: Scene) -> None:
    scene.host.behaviours["a"].fails_with = "no"
    for launches, wait_s in enumerate((1, 2, 4, 8, 16, 32, 60, 60), start=1):
        assert isinstance(await scene.ask().refused(), LoadFailed)
        failed_at = scene.now()
        await asyncio.sleep(wait_s - 0.6)
        error = await scene.ask().refused()
        assert isinstance(error, LoadFailed)
        assert "no (exit status 1)" in error.message
        assert error.retry_after == 1
        assert scene.now() == pytest.approx(failed_at + wait_s - 0.6)
        assert len(scene.host.processes) == launches
        await asyncio.sleep(0.6)


@story({"a": 4})
async def test_after_its_backoff_a_model_is_loaded_again(scene: Scene) -> None:
    scene.host.behaviours["a"].fails_with = "no"
    await scene.ask().refused()
    scene.host.behaviours["a"] = Behaviour()
    await asyncio.sleep(1)
    await scene.served()
    assert scene.pool.worker("a").last_error == ""


@story({"a": 4})
async def test_a_process_that_cannot_be_launched_is_a_failed_load(scene: Scene) -> None:
    scene.host.behaviours["a"].launch_error = LaunchFailed("cannot start python: no memory")
    error = await scene.ask().refused()
    assert isinstance(error, LoadFailed)
    assert "no memory" in error.message
    assert scene.state() == "failed"


@story({"a": 4})
async def test_an_internal_error_of_the_manager_fails_the_load_and_blocks_nothing(scene: Scene) -> None:
    scene.host.behaviours["a"].launch_error = ZeroDivisionError()
    assert isinstance(await scene.ask().refused(), LoadFailed)
    scene.host.behaviours["a"].launch_error = None
    await asyncio.sleep(1)
    await scene.served()


@story({"a": 4})
async def test_after_a_crash_the_next_request_waits_for_the_backoff_and_starts_it_again(
    scene: Scene,
) -> None:
    holder = scene.ask()
    lease = await holder.granted()
    scene.host.last("a").end(-11)
    assert await lease.broken(within_s=1)
    assert scene.state() == "failed"
    assert scene.pool.worker("a").last_error == "it ended without an error message (killed by SIGSEGV)"
    crashed_at = scene.now()
    again = await scene.ask().granted()
    assert again.incarnation == 2
    assert scene.now() == pytest.approx(crashed_at + 2, abs=0.1)  # backoff, load
    await holder.finish()  # a late release
    assert scene.pool.worker("a").life.leases == 1


@story({"a": 4})
async def test_a_lease_on_a_living_process_is_not_broken(scene: Scene) -> None:
    lease = await scene.ask().granted()
    assert not await lease.broken(within_s=0.5)


# --- preload -------------------------------------------------------------------------------------


@story({"a": 4, "b": {"memory_gb": 4, "preload": True}})
async def test_a_preload_is_loaded_without_a_request(scene: Scene) -> None:
    scene.pool.start()
    await asyncio.sleep(2)
    assert (scene.state("a"), scene.state("b")) == ("stopped", "ready")


@story({"a": {"memory_gb": 13, "preload": True}})
async def test_an_impossible_preload_is_logged_and_not_fatal(scene: Scene) -> None:
    scene.pool.start()
    await asyncio.sleep(1)
    assert scene.state() == "stopped"
