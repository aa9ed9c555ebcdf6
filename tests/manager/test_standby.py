"""Standby workers: how many there are, their charge, and how they become workers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from contracts.settings.base import GIB
from contracts.settings.models import ImageSettings, VlmSettings
from manager.app import standbys
from manager.launcher.process import Handle, LaunchFailed, LaunchSpec, LocalLauncher, Output, StopSignal
from manager.launcher.standby import DEFAULT_FROM, READY_LINE, Standbys
from tests.manager.conftest import alive, eventually
from tests.manager.virtual import Scene, settings_of
from tests.manager.virtual_host import FakeHost, FakeProcess, virtual_time

SPEC = LaunchSpec("a", "{}", 9001, "nonce")


class FakeParked:
    def __init__(self, host: FakeParker, process: FakeProcess) -> None:
        self.handle: Handle = process
        self._host = host
        self._process = process

    def adopt(self, spec: LaunchSpec, output: Output) -> Handle:
        if self._process.poll() is not None:
            raise LaunchFailed("gone")
        self._process.spec, self._process.alias = spec, spec.alias
        self._process.behaviour = self._host.host.behaviours[spec.alias]
        self._process.memory = self._host.host.memory[spec.alias]
        self._process.was_parked = True
        self._host.host.count()
        self._host.adopted.append(self._process)
        return self._process


class FakeParker:
    """A ``Parker`` over the fake host; its parked processes take half a GiB and are ready at once."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.adopted: list[FakeProcess] = []
        self.fails = False
        host.memory["standby"] = GIB // 2
        host.behaviours["standby"] = type(next(iter(host.behaviours.values())))()

    def obstacle(self, model: VlmSettings | ImageSettings) -> str:
        return self.host.obstacle(model)

    async def launch(self, spec: LaunchSpec, output: Output) -> Handle:
        return await self.host.launch(spec, output)

    async def park(self, kinds: Sequence[str], output: Output) -> FakeParked:
        if self.fails:
            raise LaunchFailed("no")
        process = await self.host.launch(LaunchSpec("standby", "{}", 0, ""), output)
        output(READY_LINE + b"\n")
        return FakeParked(self, process)


Play = Callable[["Scene", FakeParker, Standbys], Coroutine[Any, Any, None]]


def with_standbys(tmp_path: Path, models: dict[str, Any], size: int, play: Play) -> None:
    """A pool in virtual time whose launcher keeps *size* standby workers."""

    async def whole() -> None:
        made: list[tuple[FakeParker, Standbys]] = []

        def keep(host: FakeHost) -> Standbys:
            parker = FakeParker(host)
            made.append((parker, Standbys(parker, ["vlm"], size, clock=host.now)))
            return made[0][1]

        scene = Scene(settings_of(tmp_path, models), standbys=keep)
        [(parker, kept)] = made
        scene.pool.start()
        await scene.settle()
        await play(scene, parker, kept)
        await kept.close()
        await scene.end()

    with virtual_time() as runner:
        runner.run(whole())


def test_a_cold_start_uses_the_standby_and_another_is_started(tmp_path: Path) -> None:
    async def play(scene: Scene, parker: FakeParker, kept: Standbys) -> None:
        assert (kept.count, kept.ready) == (1, 1)
        await scene.served("a")
        assert [p.alias for p in parker.adopted] == ["a"]
        await scene.settle()
        assert kept.count == 1
        assert len(scene.host.living()) == 2

    with_standbys(tmp_path, {"a": 4}, 1, play)


def test_none_is_started_while_a_worker_loads(tmp_path: Path) -> None:
    async def play(scene: Scene, parker: FakeParker, kept: Standbys) -> None:
        request = scene.ask("a")
        await asyncio.sleep(0.5)
        assert scene.state("a") == "starting"
        assert kept.count == 0
        await request.granted()
        await scene.settle()
        assert kept.count == 1

    with_standbys(tmp_path, {"a": 4}, 1, play)


def test_standby_workers_give_way_to_workers(tmp_path: Path) -> None:
    async def play(scene: Scene, parker: FakeParker, kept: Standbys) -> None:
        await scene.served("a")  # takes the whole budget
        await scene.settle()
        assert kept.count == 0
        await scene.served("b")
        assert scene.state("a") == "stopped"
        await scene.settle()
        assert kept.count == 1

    with_standbys(tmp_path, {"a": 12, "b": 4}, 1, play)


def test_more_standbys_than_fit_are_dismissed_before_a_load(tmp_path: Path) -> None:
    async def play(scene: Scene, parker: FakeParker, kept: Standbys) -> None:
        await asyncio.sleep(3)
        for _ in range(3):
            scene.pool._dispatch()
            await scene.settle()
        assert kept.count == 3
        await scene.served("a")  # 12 GiB budget: one becomes the worker, one more fits
        await asyncio.sleep(1)
        assert scene.host.peak <= scene.budget
        assert kept.count == 1

    with_standbys(tmp_path, {"a": 11.5}, 3, play)


def test_a_standby_that_exits_is_not_replaced_at_once(tmp_path: Path) -> None:
    async def play(scene: Scene, parker: FakeParker, kept: Standbys) -> None:
        scene.host.living()[0].end(1)
        await scene.settle()
        assert kept.count == 0
        await scene.served("a")
        assert parker.adopted == []
        await scene.settle()
        assert kept.count == 0
        await asyncio.sleep(61)
        scene.pool._dispatch()
        await scene.settle()
        assert kept.count == 1

    with_standbys(tmp_path, {"a": 4}, 1, play)


def test_a_standby_that_ends_as_it_is_adopted_fails_no_request(tmp_path: Path) -> None:
    async def play(scene: Scene, parker: FakeParker, kept: Standbys) -> None:
        request = scene.ask("a")
        await scene.settle(lambda: bool(parker.adopted))
        parker.adopted[0].end(-9)
        await request.granted()
        assert len(scene.host.of("a")) == 2

    with_standbys(tmp_path, {"a": 4}, 1, play)


def test_a_standby_that_does_not_respond_is_replaced_by_a_launch(tmp_path: Path) -> None:
    async def play(scene: Scene, parker: FakeParker, kept: Standbys) -> None:
        scene.host.living()[0].frozen = True
        lease = await scene.ask("a").granted()
        assert lease.queue_s == pytest.approx(15 + 1, abs=1)
        assert len(scene.host.of("a")) == 2

    with_standbys(tmp_path, {"a": 4}, 1, play)


def test_a_standby_that_cannot_be_started_is_not_fatal(tmp_path: Path) -> None:
    async def play(scene: Scene, parker: FakeParker, kept: Standbys) -> None:
        parker.fails = True
        await scene.served("a")
        await scene.settle()
        assert kept.count == 0
        await scene.served("a")

    with_standbys(tmp_path, {"a": 4}, 1, play)


def test_the_charge_of_a_standby_is_measured(tmp_path: Path) -> None:
    async def play(scene: Scene, parker: FakeParker, kept: Standbys) -> None:
        scene.host.living()[0].behaviour.footprint = 3 * GIB
        await kept.measure()
        assert kept.memory_each == 3 * GIB

    with_standbys(tmp_path, {"a": 4}, 1, play)


@pytest.mark.parametrize(
    ("configured", "total", "count"),
    [
        (None, DEFAULT_FROM, 1),
        (None, DEFAULT_FROM - 1, 0),
        (0, DEFAULT_FROM, 0),
        (2, DEFAULT_FROM - 1, 2),
    ],
)
def test_one_standby_by_default_with_enough_memory_or_as_many_as_configured(
    tmp_path: Path, configured: int | None, total: int, count: int
) -> None:
    made = standbys(settings_of(tmp_path, {"a": 4}, standby=configured), None, total)
    assert (made._size if made else 0) == count


# --- a real process --------------------------------------------------------------------------------

PARKED = """
import os, sys
assert sys.argv[1:] == ["--standby", "vlm,image", "--parent-pipe"]
print("standby ready", flush=True)
line = b""
while not line.endswith(b"\\n"):
    byte = os.read(0, 1)
    if not byte:
        sys.exit(0)
    line += byte
print("message", line.decode().strip(), flush=True)
while os.read(0, 1):
    pass
"""


@pytest.mark.process
def test_a_standby_process_becomes_the_worker_of_its_spec(tmp_path: Path) -> None:
    async def whole() -> None:
        first, then = bytearray(), bytearray()
        launcher = LocalLauncher((sys.executable, "-c", PARKED))
        parked = await launcher.park(["vlm", "image"], first.extend)
        await asyncio.to_thread(eventually, lambda: READY_LINE in first)
        handle = parked.adopt(SPEC, then.extend)
        assert handle.address == ("127.0.0.1", 9001)
        await asyncio.to_thread(eventually, lambda: b"}" in then)
        # The end of the READY line may arrive late.
        message = json.loads(then.partition(b"message ")[2])
        assert message == {
            "alias": "a",
            "spec": "{}",
            "host": "127.0.0.1",
            "port": 9001,
            "nonce": "nonce",
        }
        handle.signal(StopSignal.KILL)
        assert await handle.wait() == -9
        eventually(lambda: not alive(handle.pid))
        with pytest.raises(LaunchFailed):
            parked.adopt(SPEC, then.extend)

    asyncio.run(whole())
