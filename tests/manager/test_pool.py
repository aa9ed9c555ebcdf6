"""The pool in virtual time: who is granted, started, evicted and stopped when, and who is told what."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from contracts.errors import (
    InsufficientMemory,
    LoadFailed,
    ModelNotFound,
    QueueFull,
    QueueTimeout,
    Unavailable,
)
from manager.process import LaunchFailed, StopSignal
from tests.manager.virtual import Behaviour, Scene, story

TERMINATE, KILL = StopSignal.TERMINATE, StopSignal.KILL

# --- loads ---------------------------------------------------------------------------------------


@story({"a": 4})
async def test_there_is_one_load_however_many_ask(scene: Scene) -> None:
    requests = [scene.ask() for _ in range(50)]
    leases = [await request.granted() for request in requests]
    assert len(scene.host.processes) == 1
    assert {lease.incarnation for lease in leases} == {1}
    assert scene.pool.worker("a").life.leases == 50


@story({"a": 4})
async def test_a_lease_tells_how_long_it_waited_and_how_much_of_that_was_the_load(scene: Scene) -> None:
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
async def test_waiting_for_memory_is_no_part_of_the_load(scene: Scene) -> None:
    busy = scene.ask("b")
    await busy.granted()
    waiting = scene.ask("a")
    await asyncio.sleep(20)
    await busy.finish()
    lease = await waiting.granted()
    assert lease.queue_s == pytest.approx(21, abs=0.1)
    assert lease.load_s == pytest.approx(1, abs=0.1)


@story({"a": 4})
async def test_a_load_goes_on_when_the_client_that_asked_for_it_leaves(scene: Scene) -> None:
    request = scene.ask()
    await asyncio.sleep(0.5)
    await request.leave()
    assert scene.pool.queued("a") == 0
    await asyncio.sleep(1)
    assert scene.state() == "ready"
    assert scene.pool.worker("a").life.leases == 0


@story({"a": 4})
async def test_a_client_that_leaves_in_the_moment_of_its_grant_gives_the_lease_back(
    scene: Scene,
) -> None:
    request = scene.ask()
    await scene.settle(lambda: scene.pool.queued("a") == 1)
    # Runs after the grant, and before the request hears of it.
    scene.pool._queue[0].answer.add_done_callback(lambda _: request.task.cancel())
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


@story({"a": 4})
async def test_an_alias_that_is_not_configured_is_not_found(scene: Scene) -> None:
    with pytest.raises(ModelNotFound, match="no model 'x'; there are: a, image"):
        await scene.served("x")


@story({"a": 4}, start_timeout_s=10, queue_timeout_s=1000)
async def test_a_slow_load_that_gets_on_is_never_given_up(scene: Scene) -> None:
    scene.host.behaviours["a"].load_s = 500.0
    lease = await scene.ask().granted()
    assert lease.load_s == pytest.approx(500, abs=1)


@story({"a": 4}, start_timeout_s=10, queue_timeout_s=1000)
async def test_a_load_without_progress_is_given_up_and_its_process_is_gone(scene: Scene) -> None:
    scene.host.behaviours["a"] = Behaviour(load_s=5.0, hangs=True)
    error = await scene.ask().refused()
    assert isinstance(error, LoadFailed)
    assert error.message == "a could not be loaded: no progress for 10 s while loading"
    assert scene.now() == pytest.approx(15, abs=0.2)
    assert scene.host.living() == []


# --- failures ------------------------------------------------------------------------------------


@story({"a": 4})
async def test_a_failed_load_answers_all_who_wait_with_the_last_words(scene: Scene) -> None:
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
async def test_after_its_backoff_a_model_gets_another_chance(scene: Scene) -> None:
    scene.host.behaviours["a"].fails_with = "no"
    await scene.ask().refused()
    scene.host.behaviours["a"] = Behaviour()
    await asyncio.sleep(1)
    await scene.served()
    assert scene.pool.worker("a").last_error == ""


@story({"a": 4})
async def test_a_process_that_cannot_even_be_launched_is_a_failed_load(scene: Scene) -> None:
    scene.host.behaviours["a"].launch_error = LaunchFailed("cannot start python: no memory")
    error = await scene.ask().refused()
    assert isinstance(error, LoadFailed)
    assert "no memory" in error.message
    assert scene.state() == "failed"


@story({"a": 4})
async def test_a_fault_of_the_manager_fails_the_load_and_leaves_nothing_stuck(scene: Scene) -> None:
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
    assert scene.pool.worker("a").last_error == "it ended without a word (killed by SIGSEGV)"
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


@story({"a": 4})
async def test_a_process_that_ends_orderly_unasked_has_crashed_too(scene: Scene) -> None:
    await scene.served()
    scene.host.last("a").end(0)
    await scene.settle()
    assert scene.state() == "failed"


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
async def test_the_limit_is_on_those_who_wait_not_on_those_who_are_served(scene: Scene) -> None:
    await scene.served()
    for request in [scene.ask() for _ in range(10)]:
        await request.granted()


@story({"a": 4}, queue_timeout_s=30)
async def test_who_has_waited_too_long_is_told_and_the_load_goes_on(scene: Scene) -> None:
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
    assert error.message.endswith("beside what is pinned: b")
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
async def test_memory_is_owed_until_the_process_is_reaped(scene: Scene) -> None:
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
    for _ in range(10):  # there is always one more for b before the last one ends
        stream.append(scene.ask("b"))
        await asyncio.sleep(1)
        if running:
            await running.pop().finish()
    lease = await waiting.granted()
    assert lease.queue_s < 6
    assert not any(request.holds for request in stream)
    await waiting.finish()
    for request in stream:  # and now it is their turn again, all at once
        await request.granted()
    assert len(scene.host.of("b")) == 2


@story({"a": 8, "b": 8, "c": 4})
async def test_a_worker_that_is_not_in_the_way_is_served_while_another_waits_for_memory(
    scene: Scene,
) -> None:
    busy = scene.ask("b")
    await busy.granted()
    await scene.served("c")
    waiting = scene.ask("a")
    await asyncio.sleep(5)
    assert (await scene.ask("c").granted()).queue_s == 0
    assert not waiting.holds


@story({"a": 8, "b": 8})
async def test_who_is_held_back_for_a_client_that_leaves_is_served_at_once(scene: Scene) -> None:
    busy = scene.ask("b")
    await busy.granted()
    waiting, held = scene.ask("a"), scene.ask("b")
    await scene.settle()
    assert not held.holds
    await waiting.leave()
    await held.granted()


@story({"a": 8, "b": 8}, queue_timeout_s=10)
async def test_who_is_held_back_for_a_request_that_times_out_is_served_then(scene: Scene) -> None:
    busy = scene.ask("b")
    await busy.granted()
    scene.ask("a").task.add_done_callback(lambda task: task.exception())
    await asyncio.sleep(5)
    held = scene.ask("b")
    assert (await held.granted()).queue_s == pytest.approx(5, abs=0.01)


@story({"a": 6, "b": 6, "c": 6})
async def test_loads_that_fit_together_run_side_by_side(scene: Scene) -> None:
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


@story({"a": 4}, idle_timeout_s=0)
async def test_a_timeout_of_zero_stops_a_worker_as_soon_as_it_is_idle(scene: Scene) -> None:
    first, second = scene.ask(), scene.ask()
    await first.granted()
    await first.finish()
    assert scene.state() == "ready"
    await second.finish()
    await scene.settle()
    assert scene.state() in ("stopping", "stopped")


@story(
    {"a": {"memory_gb": 4, "idle_timeout_s": -1}, "b": {"memory_gb": 4, "pinned": True}, "c": 1},
    idle_timeout_s=9,
)
async def test_never_means_never_and_pinned_workers_stay(scene: Scene) -> None:
    for alias in "abc":
        await scene.served(alias)
    await asyncio.sleep(10_000)
    assert [scene.state(alias) for alias in "abc"] == ["ready", "ready", "stopped"]


@story({"a": 4}, idle_timeout_s=60)
async def test_a_touch_starts_the_idle_time_anew(scene: Scene) -> None:
    assert not scene.pool.touch("a")
    await scene.served()
    await asyncio.sleep(50)
    assert scene.pool.touch("a")
    await asyncio.sleep(50)
    assert scene.state() == "ready"
    await asyncio.sleep(20)
    assert scene.state() == "stopped"


# --- preload -------------------------------------------------------------------------------------


@story({"a": 4, "b": {"memory_gb": 4, "preload": True}})
async def test_what_is_to_be_preloaded_is_loaded_unasked(scene: Scene) -> None:
    scene.pool.start()
    await asyncio.sleep(2)
    assert (scene.state("a"), scene.state("b")) == ("stopped", "ready")


@story({"a": {"memory_gb": 13, "preload": True}})
async def test_a_preload_that_is_not_possible_is_logged_and_stops_nobody(scene: Scene) -> None:
    scene.pool.start()
    await asyncio.sleep(1)
    assert scene.state() == "stopped"


# --- stopping ------------------------------------------------------------------------------------


@story({"a": 4})
async def test_stopping_what_is_not_loaded_is_fine(scene: Scene) -> None:
    assert await scene.pool.stop("a") is False
    with pytest.raises(ModelNotFound):
        await scene.pool.stop("x")


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
async def test_a_drain_ends_when_its_time_is_up(scene: Scene) -> None:
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
async def test_requests_that_come_during_a_stop_wait_and_start_it_again(scene: Scene) -> None:
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
async def test_a_load_can_be_stopped_and_who_waits_for_it_is_told(scene: Scene) -> None:
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
    await scene.settle(lambda: scene.pool.worker("a").charged)
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
async def test_stop_all_stops_all_side_by_side_and_names_them(scene: Scene) -> None:
    for alias in "ab":
        scene.host.behaviours[alias].leaves_s = 4.0
        await scene.served(alias)
    before = scene.now()
    assert await scene.pool.stop_all() == ["a", "b"]
    assert scene.now() == pytest.approx(before + 4)


# --- the end -------------------------------------------------------------------------------------


@story({"a": 4, "b": 4, "c": 4}, drain_timeout_s=30)
async def test_closing_drains_stops_all_and_tells_who_waits(scene: Scene) -> None:
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


# --- what is said about it -----------------------------------------------------------------------


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
async def test_a_pool_shows_what_it_does(scene: Scene) -> None:
    await scene.ask("a").granted()
    scene.ask("b")
    await asyncio.sleep(0.5)
    assert repr(scene.pool) == "<Pool [a ready 1, b starting 0, image stopped 0] queued: ['b']>"
    assert repr(scene.pool.worker("a")) == "<Worker a ready leases=1 pid=1000>"
