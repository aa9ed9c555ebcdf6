"""The pool in virtual time: turns, and how long a worker stays loaded."""

from __future__ import annotations

import asyncio

import pytest

from tests.manager.virtual import Scene, story

# --- turns -----------------------------------------------------------------------------------------


@story({"a": 8, "b": 8}, max_wait_s=20)
async def test_the_loaded_model_keeps_serving_until_the_other_has_waited_long_enough(
    scene: Scene,
) -> None:
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
async def test_all_requests_that_wait_for_a_model_are_served_in_one_turn(scene: Scene) -> None:
    busy = scene.ask("b")
    await busy.granted()
    line = [scene.ask("a") for _ in range(5)]
    await asyncio.sleep(5)
    await busy.finish()
    for request in line:
        await request.granted()
    assert len(scene.host.of("a")) == 1


@story({"a": 8, "b": 8}, max_wait_s=20)
async def test_a_short_pause_between_requests_does_not_end_a_turn(scene: Scene) -> None:
    await scene.served("b")
    waiting = scene.ask("a")
    for _ in range(20):  # one client that pauses for half a second between requests
        await asyncio.sleep(0.5)
        await scene.served("b")
    assert len(scene.host.of("b")) == 1
    assert not waiting.holds
    lease = await waiting.granted()  # once it has paused for a second
    assert lease.queue_s == pytest.approx(10 + 1 + 1, abs=0.2)


@story({"a": 8, "b": 8}, max_wait_s=5)
async def test_pauses_do_not_extend_a_turn(scene: Scene) -> None:
    await scene.served("b")
    waiting = scene.ask("a")
    for _ in range(100):
        await asyncio.sleep(0.2)
        if waiting.holds:
            break
        scene.ask("b").let_finish()
    assert (await waiting.granted()).queue_s == pytest.approx(5 + 1, abs=0.4)


# --- keep_alive ------------------------------------------------------------------------------------


@story({"a": 4}, idle_timeout_s=100)
async def test_keep_alive_sets_how_long_the_model_stays_after_the_request(scene: Scene) -> None:
    request = scene.ask(keep_alive=5)
    await request.granted()
    await request.finish()
    await asyncio.sleep(4.9)
    assert scene.state() == "ready"
    await asyncio.sleep(0.2)
    assert scene.state() == "stopped"


@story({"a": 4}, idle_timeout_s=100)
async def test_keep_alive_0_unloads_at_once_and_minus_1_never(scene: Scene) -> None:
    request = scene.ask(keep_alive=0)
    await request.granted()
    await request.finish()
    await asyncio.sleep(0.1)
    assert scene.state() == "stopped"
    request = scene.ask(keep_alive=-1)
    await request.granted()
    await request.finish()
    await asyncio.sleep(1000)
    assert scene.state() == "ready"
    await scene.served()  # without keep_alive: as configured
    await asyncio.sleep(101)
    assert scene.state() == "stopped"


@story({"a": 4}, idle_timeout_s=100)
async def test_a_manual_load_without_keep_alive_changes_nothing(scene: Scene) -> None:
    async with scene.pool.lease("a", -1, counts=False):
        pass
    async with scene.pool.lease("a", counts=False):
        pass
    await asyncio.sleep(500)
    assert scene.state() == "ready"


@story({"a": 4}, idle_timeout_s=20, max_requests=1)
async def test_keep_alive_outlives_the_replacement_of_the_process(scene: Scene) -> None:
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
