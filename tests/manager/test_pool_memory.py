"""The pool in virtual time: memory that is measured, turns, and processes that are replaced."""

from __future__ import annotations

import asyncio
import logging

import pytest

from contracts.control import Download
from contracts.errors import InsufficientMemory, LoadFailed, Unavailable
from contracts.settings_base import GIB
from manager.housekeeping import SETTLE_S
from manager.peaks import peak_key
from manager.pressure import Pressure
from manager.process import StopSignal
from tests.manager.virtual import Scene, story

TERMINATE, KILL = StopSignal.TERMINATE, StopSignal.KILL


def learn(scene: Scene, alias: str, gib: float) -> None:
    """As if an earlier run of *alias* had been seen to need so much."""
    scene.peaks.learn(peak_key(scene.pool.worker(alias).model), int(gib * GIB))


# --- the charge ------------------------------------------------------------------------------------


@story({"a": 4})
async def test_the_charge_is_the_declared_estimate_until_more_is_measured(scene: Scene) -> None:
    scene.host.behaviours["a"].footprint = 3 * GIB
    async with scene.pool.lease("a", counts=False):
        worker = scene.pool.worker("a")
    await asyncio.sleep(2)
    assert (worker.memory, worker.footprint) == (4 * GIB, 3 * GIB)
    scene.host.behaviours["a"].footprint = 5 * GIB
    await asyncio.sleep(2)
    assert (worker.memory, worker.footprint) == (5 * GIB, 5 * GIB)


@story({"a": 8, "b": 8})
async def test_what_a_model_was_seen_to_need_takes_the_place_of_what_was_declared(scene: Scene) -> None:
    scene.host.behaviours["a"].footprint = 3 * GIB
    await scene.served("a")
    await asyncio.sleep(2)
    await scene.pool.stop("a")
    assert scene.pool.worker("a").memory == 3 * GIB
    await scene.served("b")
    await scene.served("a")  # now both fit
    assert (scene.state("a"), scene.state("b")) == ("ready", "ready")


@story({"a": 4})
async def test_the_last_measurement_is_taken_before_the_end_of_a_short_life(scene: Scene) -> None:
    scene.host.behaviours["a"].footprint = 6 * GIB
    await scene.served("a")
    await scene.pool.stop("a")
    assert scene.pool.worker("a").memory == 6 * GIB


@story({"a": 4})
async def test_a_process_that_served_nothing_teaches_nothing(scene: Scene) -> None:
    scene.host.behaviours["a"].footprint = 1 * GIB
    request = scene.ask()
    await asyncio.sleep(0.5)
    await request.leave()
    await asyncio.sleep(5)
    assert scene.state() == "ready"
    assert scene.pool.worker("a").learned is None


@story({"a": 4, "b": 4, "c": 4})
async def test_idle_workers_leave_for_one_that_has_grown(scene: Scene) -> None:
    for alias in "bca":
        await scene.served(alias)
    busy = scene.ask("a")
    await busy.granted()
    scene.host.behaviours["a"].footprint = 7 * GIB
    await asyncio.sleep(3)
    assert [scene.state(alias) for alias in "abc"] == ["ready", "stopped", "ready"]
    scene.host.peak = 0  # what it was until the growth was noticed
    scene.host.count()
    await busy.finish()


@story({"a": 4, "b": 4})
async def test_a_model_that_was_seen_to_need_more_than_the_budget_runs_alone_with_a_warning(
    scene: Scene,
) -> None:
    learn(scene, "a", 15)
    await scene.served("b")
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("manager.pool").addHandler(handler)
    await scene.served("a")
    logging.getLogger("manager.pool").removeHandler(handler)
    assert (scene.state("a"), scene.state("b")) == ("ready", "stopped")
    assert "a was measured to need 15.0 GB and there are 12.0 GB: it is loaded alone" in said[0]
    await asyncio.sleep(5)
    assert scene.state("a") == "ready", "one that is alone is in nobody's way"
    await scene.served("b")
    assert (scene.state("a"), scene.state("b")) == ("stopped", "ready")


@story({"a": 13})
async def test_a_small_measurement_makes_no_room_for_what_is_declared_too_large(scene: Scene) -> None:
    learn(scene, "a", 1)
    assert isinstance(await scene.ask().refused(), InsufficientMemory)


@story({"a": 8, "b": 8})
async def test_a_load_waits_until_the_memory_of_the_evicted_is_really_back(scene: Scene) -> None:
    await scene.served("b")
    scene.available = 2 * GIB
    waiting = scene.ask("a")
    await asyncio.sleep(4)
    assert scene.host.of("a") == []
    scene.available = 8 * GIB
    lease = await waiting.granted()
    assert lease.queue_s == pytest.approx(4 + 1, abs=0.3)


@story({"a": 8, "b": 8})
async def test_memory_that_does_not_come_back_is_not_waited_for_for_ever(scene: Scene) -> None:
    await scene.served("b")
    scene.available = 2 * GIB
    lease = await scene.ask("a").granted()
    assert lease.queue_s == pytest.approx(SETTLE_S + 1, abs=0.3)


@story({"a": 8})
async def test_a_load_that_follows_no_end_waits_for_nothing(scene: Scene) -> None:
    scene.available = 0
    assert (await scene.ask("a").granted()).queue_s == pytest.approx(1, abs=0.1)


@story({"a": 8, "b": 8, "c": 4})
async def test_a_load_whose_room_others_have_grown_into_is_planned_anew_and_nobody_is_lost(
    scene: Scene,
) -> None:
    await scene.served("b")
    busy = scene.ask("c")
    await busy.granted()
    scene.host.last("b").behaviour.leaves_s = 3.0  # it takes its time to leave
    waiting = scene.ask("a")
    await asyncio.sleep(1)
    scene.host.behaviours["c"].footprint = 8 * GIB
    await asyncio.sleep(30)
    assert scene.state("a") == "starting"
    assert scene.host.of("a") == []
    await asyncio.sleep(60)
    assert scene.state("a") == "stopped"
    scene.host.peak = 0
    await busy.finish()
    await waiting.granted()
    assert scene.state("c") == "stopped"


@story({"a": 4})
async def test_a_load_waits_for_the_pull_of_its_model(scene: Scene) -> None:
    scene.pulls["a"] = Download(done_bytes=1, total_bytes=4)
    waiting = scene.ask("a")
    await asyncio.sleep(100)
    assert scene.host.processes == []
    assert scene.pool.worker("a").phase == "downloading"
    assert scene.pool.worker("a").download == scene.pulls["a"]
    del scene.pulls["a"]
    await waiting.granted()


# --- pressure --------------------------------------------------------------------------------------


@story({"a": 3, "b": 3, "c": 3, "d": {"memory_gb": 3, "pinned": True}})
async def test_under_pressure_idle_workers_go_one_at_a_time_least_recently_used_first(
    scene: Scene,
) -> None:
    for alias in "dab":
        await scene.served(alias)
    busy = scene.ask("c")
    await busy.granted()
    seen = []
    for _ in range(4):
        scene.pool.set_pressure(Pressure.WARNING)
        await asyncio.sleep(1)
        seen.append("".join(a for a in "abcd" if scene.state(a) == "ready"))
    assert seen == ["bcd", "cd", "cd", "cd"]
    await busy.finish()


@story({"a": 4, "b": 4})
async def test_a_warning_does_not_hinder_a_load(scene: Scene) -> None:
    scene.pool.set_pressure(Pressure.WARNING)
    await scene.ask("a").granted()


@story({"a": 8, "b": 8, "c": 4})
async def test_at_critical_pressure_nothing_is_loaded_and_who_waits_already_goes_on_waiting(
    scene: Scene,
) -> None:
    busy = scene.ask("b")
    await busy.granted()
    waiting = scene.ask("a")
    await scene.settle()
    scene.pool.set_pressure(Pressure.CRITICAL)
    error = await scene.ask("c").refused()
    assert isinstance(error, Unavailable)
    assert (error.status, error.code, error.retry_after) == (503, "memory_pressure", 5)
    assert isinstance(await scene.ask("a").refused(), Unavailable)
    assert (await scene.ask("b").granted()).queue_s == 0, "what is loaded goes on serving"
    await busy.finish()
    assert scene.pool.queued("a") == 1
    assert scene.host.of("a") == []
    for request in scene.requests:
        request.let_finish()
    await scene.settle()
    scene.pool.set_pressure(Pressure.NORMAL)
    await waiting.granted()


# --- turns -----------------------------------------------------------------------------------------


@story({"a": 8, "b": 8}, max_wait_s=20)
async def test_the_loaded_model_serves_on_until_the_other_has_waited_long_enough(scene: Scene) -> None:
    running = [scene.ask("b")]
    await running[0].granted()
    waiting = scene.ask("a")
    served_meanwhile = 0
    for _ in range(40):  # always one in flight
        running.append(scene.ask("b"))
        await asyncio.sleep(1)
        served_meanwhile += running[-1].holds
        await running.pop(0).finish()
        if waiting.holds:
            break
    lease = await waiting.granted()
    assert 20 <= lease.queue_s < 25
    assert served_meanwhile == pytest.approx(20, abs=2)
    await waiting.finish()
    assert len(scene.host.of("b")) == 1


@story({"a": 8, "b": 8}, max_wait_s=20)
async def test_those_who_wait_for_a_model_are_all_served_in_one_turn(scene: Scene) -> None:
    busy = scene.ask("b")
    await busy.granted()
    line = [scene.ask("a") for _ in range(5)]
    await asyncio.sleep(5)
    await busy.finish()
    for request in line:
        await request.granted()
    assert len(scene.host.of("a")) == 1


@story({"a": 8, "b": 8}, max_wait_s=20)
async def test_a_short_pause_between_two_requests_ends_no_turn(scene: Scene) -> None:
    await scene.served("b")
    waiting = scene.ask("a")
    for _ in range(20):  # one client that asks, reads for half a second, and asks again
        await asyncio.sleep(0.5)
        await scene.served("b")
    assert len(scene.host.of("b")) == 1
    assert not waiting.holds
    lease = await waiting.granted()  # once it has paused for a second
    assert lease.queue_s == pytest.approx(10 + 1 + 1, abs=0.2)


@story({"a": 8, "b": 8}, max_wait_s=5)
async def test_pauses_stretch_no_turn_beyond_its_end(scene: Scene) -> None:
    await scene.served("b")
    waiting = scene.ask("a")
    for _ in range(100):
        await asyncio.sleep(0.2)
        if waiting.holds:
            break
        scene.ask("b").let_finish()
    assert (await waiting.granted()).queue_s == pytest.approx(5 + 1, abs=0.4)


# --- models that can't be loaded -------------------------------------------------------------------


@story({"a": {"memory_gb": 8, "path": "nowhere"}, "b": 8})
async def test_nobody_leaves_for_a_model_that_is_not_there(scene: Scene) -> None:
    await scene.served("b")
    error = await scene.ask("a").refused()
    assert isinstance(error, LoadFailed)
    assert error.message == "a could not be loaded: its folder is gone"
    assert scene.state("b") == "ready"


@story({"a": 8, "b": {"memory_gb": 8, "preload": True}, "c": {"memory_gb": 4, "preload": True}})
async def test_a_preloaded_model_that_left_for_one_that_never_came_comes_back(scene: Scene) -> None:
    scene.pool.start()
    await asyncio.sleep(5)
    await scene.pool.stop("c")
    scene.host.behaviours["a"].fails_with = "load failed: broken"
    assert isinstance(await scene.ask("a").refused(), LoadFailed)
    await asyncio.sleep(5)
    assert [scene.state(alias) for alias in "bc"] == ["ready", "stopped"]


# --- how long it stays -----------------------------------------------------------------------------


@story({"a": 4}, idle_timeout_s=100)
async def test_a_request_says_how_long_the_model_stays_after_it(scene: Scene) -> None:
    request = scene.ask(keep_alive=5)
    await request.granted()
    await request.finish()
    await asyncio.sleep(4.9)
    assert scene.state() == "ready"
    await asyncio.sleep(0.2)
    assert scene.state() == "stopped"


@story({"a": 4}, idle_timeout_s=100)
async def test_with_0_it_leaves_at_once_and_with_minus_1_never(scene: Scene) -> None:
    request = scene.ask(keep_alive=0)
    await request.granted()
    await request.finish()
    await asyncio.sleep(0.1)
    assert scene.state() == "stopped"
    request = scene.ask(keep_alive=-1)
    await request.granted()
    await request.finish()
    await asyncio.sleep(5000)
    assert scene.state() == "ready"
    await scene.served()  # one that says nothing: as configured
    await asyncio.sleep(101)
    assert scene.state() == "stopped"


@story({"a": 4}, idle_timeout_s=100)
async def test_a_load_by_hand_that_says_nothing_leaves_it_as_it_is(scene: Scene) -> None:
    async with scene.pool.lease("a", -1, counts=False):
        pass
    async with scene.pool.lease("a", counts=False):
        pass
    await asyncio.sleep(500)
    assert scene.state() == "ready"


@story({"a": 4}, idle_timeout_s=20, max_requests=1)
async def test_it_outlives_the_replacement_of_the_process(scene: Scene) -> None:
    request = scene.ask(keep_alive=-1)
    await request.granted()
    await request.finish()
    await asyncio.sleep(100)
    assert scene.state() == "ready"
    assert len(scene.host.processes) == 2
    await scene.pool.stop("a")
    await scene.served("a")


@story({"a": 8, "b": 8})
async def test_keep_alive_never_outranks_eviction(scene: Scene) -> None:
    request = scene.ask("a", keep_alive=-1)
    await request.granted()
    await request.finish()
    await scene.served("b")
    assert scene.state("a") == "stopped"


# --- replacement -----------------------------------------------------------------------------------


@story({"a": 4}, max_requests=3)
async def test_a_process_serves_so_many_requests_and_is_replaced_without_losing_one(
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
async def test_a_replaced_process_is_back_though_nobody_asks(scene: Scene) -> None:
    await scene.served()
    await asyncio.sleep(3)
    assert scene.state() == "ready"
    assert len(scene.host.processes) == 2


@story({"a": 4}, max_requests=1)
async def test_one_that_somebody_stops_while_it_is_replaced_stays_stopped(scene: Scene) -> None:
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
async def test_a_worker_that_grows_and_grows_is_replaced_when_its_requests_have_ended(
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
async def test_how_much_it_may_grow_is_configured(scene: Scene) -> None:
    assert not await grown_by(scene, 0.19, requests=5)
    assert await grown_by(scene, 0.21, requests=1)


@story({"a": 4}, memory={"recycle_growth": 0.2, "recycle_after": 50})
async def test_growth_of_the_first_requests_is_the_baseline(scene: Scene) -> None:
    assert not await grown_by(scene, 0.5, requests=40)


@story({"a": 4}, memory={"recycle_growth": 0, "recycle_after": 1})
async def test_with_0_it_may_grow_as_it_likes(scene: Scene) -> None:
    assert not await grown_by(scene, 2.0, requests=5)


# --- the watchdog ----------------------------------------------------------------------------------


@story({"a": 4}, stall_timeout_s=30)
async def test_a_worker_that_does_not_get_on_with_its_work_is_killed_and_the_next_request_starts_it(
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
async def test_a_worker_whose_health_is_silent_is_killed(scene: Scene) -> None:
    await scene.served()
    scene.host.last("a").behaviour.deaf = True
    await asyncio.sleep(40)
    assert scene.host.last("a").signals == [KILL]


@story({"a": 4}, stall_timeout_s=30, max_requests=1)
async def test_a_worker_that_is_to_be_replaced_is_watched_while_it_drains(scene: Scene) -> None:
    lease = await scene.ask().granted()
    scene.host.last("a").behaviour.stalls = True
    assert await lease.broken(within_s=60)


# --- coming back -----------------------------------------------------------------------------------


@story({"a": {"memory_gb": 4, "preload": True}, "b": 4})
async def test_what_is_to_be_preloaded_comes_back_after_a_crash(scene: Scene) -> None:
    scene.pool.start()
    await asyncio.sleep(2)
    await scene.served("b")
    scene.host.last("a").end(-9)
    scene.host.last("b").end(-9)
    await asyncio.sleep(5)
    assert (scene.state("a"), scene.state("b")) == ("ready", "failed")


@story({"a": 4})
async def test_every_transition_is_told(scene: Scene) -> None:
    await scene.served()
    await scene.pool.stop("a")
    told = [(d["from"], d["to"]) for kind, d in scene.happenings if kind == "transition"]
    assert told == [
        ("stopped", "starting"),
        ("starting", "ready"),
        ("ready", "stopping"),
        ("stopping", "stopped"),
    ]
    assert any(kind == "progress" for kind, _ in scene.happenings)
