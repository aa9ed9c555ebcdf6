"""The pool in virtual time: measured memory, memory pressure, and models that do not fit."""

from __future__ import annotations

import asyncio
import logging

import pytest

from contracts.errors import LoadFailed, Unavailable
from contracts.settings.base import GIB
from manager.events import EventBus
from manager.headroom import SETTLE_S
from manager.memory.pressure import MACOS_LEVEL, Pressure, read_on, rule_of
from manager.memory.system import MemoryReading
from manager.ticker import Ticker
from tests.manager.virtual import Scene, story

# --- the charge ------------------------------------------------------------------------------------


@story({"a": 4})
async def test_the_charge_is_the_declared_estimate_until_more_is_measured(scene: Scene) -> None:
    scene.host.behaviours["a"].footprint = 3 * GIB
    async with scene.pool.lease("a", counts=False):
        worker = scene.pool.worker("a")
    await asyncio.sleep(2)
    assert (worker.charge.bytes, worker.charge.footprint) == (4 * GIB, 3 * GIB)
    scene.host.behaviours["a"].footprint = 5 * GIB
    await asyncio.sleep(2)
    assert (worker.charge.bytes, worker.charge.footprint) == (5 * GIB, 5 * GIB)


@story({"a": 8, "b": 8})
async def test_a_learned_peak_replaces_the_declared_memory(scene: Scene) -> None:
    scene.host.behaviours["a"].footprint = 3 * GIB
    await scene.served("a")
    await asyncio.sleep(2)
    await scene.pool.stop("a")
    assert scene.pool.worker("a").charge.bytes == 3 * GIB
    await scene.served("b")
    await scene.served("a")  # now both fit
    assert (scene.state("a"), scene.state("b")) == ("ready", "ready")


@story({"a": 5, "b": 8})
async def test_a_short_text_never_lowers_the_charge_below_memory_gb(scene: Scene) -> None:
    behaviour = scene.host.behaviours["a"]
    behaviour.footprint, behaviour.large_images = int(3.7 * GIB), 0
    worker = scene.pool.worker("a")
    await scene.served("a")
    await asyncio.sleep(2)
    assert (worker.charge.bytes, worker.charge.footprint) == (5 * GIB, int(3.7 * GIB))
    await scene.served("b")  # 8 and 3.7 would fit, 8 and 5 do not
    assert (scene.state("a"), scene.state("b")) == ("stopped", "ready")
    await scene.served("a")
    behaviour.large_images = 1
    await asyncio.sleep(2)
    assert worker.charge.bytes == int(3.7 * GIB), (
        "a large image was served: the peak replaces the declared memory"
    )


@story({"a": 4})
async def test_a_worker_is_measured_once_more_before_it_stops(scene: Scene) -> None:
    scene.host.behaviours["a"].footprint = 6 * GIB
    await scene.served("a")
    await scene.pool.stop("a")
    assert scene.pool.worker("a").charge.bytes == 6 * GIB


@story({"a": 4})
async def test_nothing_is_learned_from_a_process_without_requests(scene: Scene) -> None:
    scene.host.behaviours["a"].footprint = 1 * GIB
    request = scene.ask()
    await asyncio.sleep(0.5)
    await request.leave()
    await asyncio.sleep(5)
    assert scene.state() == "ready"
    assert scene.pool.worker("a").charge.learned is None


@story({"a": 4, "b": 4, "c": 4})
async def test_idle_workers_leave_when_another_has_outgrown_its_estimate(scene: Scene) -> None:
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
async def test_a_model_measured_above_the_budget_runs_alone_with_a_warning(
    scene: Scene,
) -> None:
    scene.learn("a", 15)
    await scene.served("b")
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("manager.pool").addHandler(handler)
    await scene.served("a")
    logging.getLogger("manager.pool").removeHandler(handler)
    assert (scene.state("a"), scene.state("b")) == ("ready", "stopped")
    assert "a was measured to need 15.0 GB and 12.0 GB are available: it is loaded alone" in messages[0]
    await asyncio.sleep(5)
    assert scene.state("a") == "ready", "it need not leave while it is alone"
    await scene.served("b")
    assert (scene.state("a"), scene.state("b")) == ("stopped", "ready")


@story({"a": 8, "b": 8})
async def test_a_load_waits_until_the_memory_of_evicted_workers_is_free(scene: Scene) -> None:
    await scene.served("b")
    scene.available = 2 * GIB
    waiting = scene.ask("a")
    await asyncio.sleep(4)
    assert scene.host.of("a") == []
    scene.available = 8 * GIB
    lease = await waiting.granted()
    assert lease.queue_s == pytest.approx(4 + 1, abs=0.3)


@story({"a": 8, "b": 8})
async def test_a_load_does_not_wait_forever_for_memory(scene: Scene) -> None:
    await scene.served("b")
    scene.available = 2 * GIB
    lease = await scene.ask("a").granted()
    assert lease.queue_s == pytest.approx(SETTLE_S + 1, abs=0.3)


@story({"a": 8})
async def test_a_load_after_no_recent_exit_does_not_wait_for_memory(scene: Scene) -> None:
    scene.available = 0
    assert (await scene.ask("a").granted()).queue_s == pytest.approx(1, abs=0.1)


@story({"a": 8, "b": 8, "c": 4})
async def test_a_load_is_planned_again_when_others_use_its_memory(scene: Scene) -> None:
    await scene.served("b")
    busy = scene.ask("c")
    await busy.granted()
    scene.host.last("b").behaviour.leaves_s = 3.0  # it exits slowly
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


# --- pressure --------------------------------------------------------------------------------------


@story({"a": 3, "b": 3, "c": 3, "d": {"memory_gb": 3, "pinned": True}})
async def test_under_pressure_idle_workers_leave_one_by_one_least_recently_used_first(
    scene: Scene,
) -> None:
    for alias in "dab":
        await scene.served(alias)
    busy = scene.ask("c")
    await busy.granted()
    seen = []
    for _ in range(4):
        scene.pool.set_pressure(Pressure.WARNING)
        scene.pool.relieve()
        await asyncio.sleep(1)
        seen.append("".join(a for a in "abcd" if scene.state(a) == "ready"))
    assert seen == ["bcd", "cd", "cd", "cd"]
    await busy.finish()


def ticker(scene: Scene, platform: str, levels: dict[str, int]) -> Ticker:
    """A ticker as on *platform*, with *levels* for its sysctl."""
    return Ticker(
        scene.pool,
        peaks=scene.peaks,
        events=EventBus(),
        clock=scene.now,
        read_pressure=lambda: read_on(platform, sysctl=levels.get),
        read_memory=lambda: MemoryReading(1 << 40, 1 << 40),
        relief_rule=rule_of(platform),
    )


async def left_over(scene: Scene, ticking: Ticker, seconds: int) -> list[float]:
    """The times, within *seconds* of ticks, at which a worker left."""
    began, left = scene.now(), []
    before = sum(scene.state(alias) == "ready" for alias in "abcd")
    for _ in range(seconds):
        ticking.check_pressure()
        await scene.settle()
        loaded = sum(scene.state(alias) == "ready" for alias in "abcd")
        left += [scene.now() - began] * (before - loaded)
        before = loaded
        await asyncio.sleep(1)
    return left


FOUR = {"a": 3, "b": 3, "c": 3, "d": 3}


@story(FOUR)
async def test_on_macos_a_warning_acts_after_30_s_and_takes_one_worker_each_30_s(scene: Scene) -> None:
    for alias in "abcd":
        await scene.served(alias)
    levels = {MACOS_LEVEL: 2}
    ticking = ticker(scene, "darwin", levels)
    assert await left_over(scene, ticking, 95) == pytest.approx([30, 60, 90], abs=1)
    levels[MACOS_LEVEL] = 1
    assert await left_over(scene, ticking, 60) == []


@story({"a": 4, "b": 4})
async def test_a_warning_does_not_prevent_a_load(scene: Scene) -> None:
    scene.pool.set_pressure(Pressure.WARNING)
    await scene.ask("a").granted()


@story({"a": 8, "b": 8, "c": 4})
async def test_at_critical_pressure_nothing_is_loaded_and_waiting_requests_keep_waiting(
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
    assert (await scene.ask("b").granted()).queue_s == 0, "loaded models keep serving"
    await busy.finish()
    assert scene.pool.queued("a") == 1
    assert scene.host.of("a") == []
    for request in scene.requests:
        request.let_finish()
    await scene.settle()
    scene.pool.set_pressure(Pressure.NORMAL)
    await waiting.granted()


# --- models that can't be loaded -------------------------------------------------------------------


@story({"a": {"memory_gb": 8, "path": "nowhere"}, "b": 8})
async def test_nothing_is_evicted_for_a_model_that_cannot_be_launched(scene: Scene) -> None:
    await scene.served("b")
    error = await scene.ask("a").refused()
    assert isinstance(error, LoadFailed)
    assert error.message == "a could not be loaded: its folder is gone"
    assert scene.state("b") == "ready"


@story({"a": 8, "b": {"memory_gb": 8, "preload": True}, "c": {"memory_gb": 4, "preload": True}})
async def test_a_preloaded_model_evicted_for_a_failed_load_is_loaded_again(scene: Scene) -> None:
    scene.pool.start()
    await asyncio.sleep(5)
    await scene.pool.stop("c")
    scene.host.behaviours["a"].fails_with = "load failed: broken"
    assert isinstance(await scene.ask("a").refused(), LoadFailed)
    await asyncio.sleep(5)
    assert [scene.state(alias) for alias in "bc"] == ["ready", "stopped"]
