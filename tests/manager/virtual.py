"""A pool in virtual time: its settings, its clients, and tests as stories about them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from contracts.control import Download
from contracts.settings import Settings
from contracts.settings.base import GIB
from manager.launcher.standby import Standbys
from manager.lease import Lease
from manager.memory.peaks import Peaks, peak_key
from manager.memory.system import MemoryReading
from manager.pool import Pool
from manager.worker_run import POLL_S, Timeouts
from tests.manager.virtual_host import Behaviour, FakeHost, virtual_time


def settings_of(
    folder: Path, models: dict[str, Any], memory: dict[str, Any] | None = None, **manager: Any
) -> Settings:
    """Settings with *models* (``{"a": 4}`` is GiB, or a dict of keys) under a budget of 12 GiB."""
    first = next(iter(models))
    made: dict[str, Any] = {}
    for port, (alias, given) in enumerate(models.items(), 9001):
        keys = given if isinstance(given, dict) else {"memory_gb": given}
        made[alias] = {"kind": "vlm", "path": alias, "port": port, **keys}
    image = {"kind": "image", "family": "flux1-schnell", "path": "p", "port": 9999, "memory_gb": 1}
    data = {
        "manager": {"log_dir": str(folder), "idle_timeout_s": -1, "max_wait_s": 0, **manager},
        "memory": {"max_unified_memory_gb": 12, "safety_margin_gb": 0, **(memory or {})},
        "defaults": {"chat": first, "analyze": first, "generate": "image", "edit": "image"},
        "models": {**made, "image": image},
    }
    return Settings.model_validate(data)


class Scene:
    """A pool, its host, and requests against it."""

    def __init__(
        self,
        settings: Settings,
        *,
        poll_s: float = POLL_S,
        standbys: Callable[[FakeHost], Standbys] | None = None,
    ) -> None:
        clock = asyncio.get_running_loop().time
        models = settings.models
        self.now = clock
        self.requests: list[Request] = []
        self.host = FakeHost(
            clock,
            memory={alias: model.memory_bytes for alias, model in models.items()},
            behaviours={alias: Behaviour() for alias in models},
        )
        self.budget = 12 * GIB
        timeouts = replace(Timeouts.of(settings), poll_s=poll_s)
        self.peaks = Peaks(None, wall_clock=clock)
        self.pulls: dict[str, Download] = {}
        self.pulled_at: dict[str, float] = {}
        self.outdated: list[str] = []
        self.available = 1 << 40  # bytes available on the system
        self.events: list[tuple[str, dict[str, Any]]] = []
        kept = standbys(self.host) if standbys else None
        self.pool = Pool(
            settings,
            kept or self.host,
            self.host.probe,
            budget=self.budget,
            clock=clock,
            timeouts=timeouts,
            peaks=self.peaks,
            read_memory=lambda: MemoryReading(1 << 40, self.available),
            standbys=kept,
            fetching=lambda alias: self.pulls.get(alias),
            pulled_at=lambda alias: self.pulled_at.get(alias, float("-inf")),
            outdated=self.outdated.append,
            publish=lambda kind, data: self.events.append((kind, data)),
        )

    def ask(self, alias: str = "a", keep_alive: float | None = None) -> Request:
        request = Request(self, alias, keep_alive)
        self.requests.append(request)  # a task without a reference may be collected
        return request

    def learn(self, alias: str, gib: float) -> None:
        """As if *gib* had been measured in an earlier run of *alias*."""
        self.peaks.learn(peak_key(self.pool.worker(alias).model), int(gib * GIB), large=True)

    def state(self, alias: str = "a") -> str:
        return self.pool.worker(alias).state

    async def served(self, alias: str = "a") -> None:
        """A request that takes no time once it is granted."""
        async with self.pool.lease(alias):
            pass

    async def end(self) -> None:
        """Close the pool; no process is left, and the budget was never exceeded."""
        await self.pool.close(hurry=True)
        for request in self.requests:
            request.task.cancel()
        await asyncio.gather(*(request.task for request in self.requests), return_exceptions=True)
        assert self.host.living() == []
        assert self.host.peak <= self.budget

    async def settle(self, until: Callable[[], bool] = lambda: False) -> None:
        """Run everything that is due now, or stop as soon as *until* is true."""
        for _ in range(50):
            if until():
                return
            await asyncio.sleep(0)


class Request:
    """A client: it asks, holds its lease until ``finish``, and can leave."""

    def __init__(self, scene: Scene, alias: str, keep_alive: float | None = None) -> None:
        self.alias = alias
        self.keep_alive = keep_alive
        self.lease: Lease | None = None
        self._finish = asyncio.Event()
        self._granted = asyncio.Event()
        self.task = asyncio.create_task(self._run(scene))

    def __repr__(self) -> str:
        state = "holds" if self.holds else "done" if self.task.done() else "waits"
        return f"<Request {self.alias} {state}>"

    async def _run(self, scene: Scene) -> None:
        try:
            async with scene.pool.lease(self.alias, self.keep_alive) as self.lease:
                self._granted.set()
                await self._finish.wait()
        finally:
            self._granted.set()

    @property
    def holds(self) -> bool:
        return self.lease is not None and not self.task.done()

    async def granted(self) -> Lease:
        """The lease; raises the error that the request gets instead."""
        await self._granted.wait()
        if self.lease is None:
            await self.task
        assert self.lease is not None
        return self.lease

    async def refused(self) -> BaseException:
        """The error that it gets."""
        await asyncio.wait({self.task})
        error = self.task.exception()
        assert error is not None
        return error

    def let_finish(self) -> None:
        """Finish now, or as soon as it is granted."""
        self._finish.set()

    async def finish(self) -> None:
        self.let_finish()
        await asyncio.wait({self.task})

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


Story = Callable[[Scene], Coroutine[Any, Any, None]]


def story(
    models: dict[str, Any], memory: dict[str, Any] | None = None, **manager: Any
) -> Callable[[Story], Callable[[Path], None]]:
    """Turn a coroutine function into a test, with a Scene of *models* and of *manager* settings.

    The pool is closed at the end: no process may be left, and the budget must never be exceeded.
    """

    def decorate(play: Story) -> Callable[[Path], None]:
        async def whole(folder: Path) -> None:
            scene = Scene(settings_of(folder, models, memory, **manager))
            await play(scene)
            await scene.end()

        def test(tmp_path: Path) -> None:
            with virtual_time() as runner:
                runner.run(whole(tmp_path))

        return test

    return decorate
