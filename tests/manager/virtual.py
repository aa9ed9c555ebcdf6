"""A pool in virtual time: a loop whose clock leaps to what is due next, and processes made of nothing.

What takes minutes takes no time here and always happens in the same order. A wait that nothing will
ever end is an error at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import selectors
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contracts.control import Download
from contracts.settings import Settings
from contracts.settings.base import GIB
from contracts.settings.models import ImageSettings, VlmSettings
from manager.launcher.process import Address, LaunchSpec, Output, StopSignal
from manager.launcher.standby import Standbys
from manager.lease import Lease
from manager.memory.peaks import Peaks, peak_key
from manager.memory.system import MemoryReading
from manager.pool import Pool
from manager.readiness import ProbeResponse
from manager.worker_run import POLL_S, Timeouts


class Deadlock(Exception):
    """Everybody waits, and no timer runs."""


FOREVER_S = 50_000.0  # longer than anything that is waited for here


class _LeapingSelector(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # Workers are looked after once a second, for ever.
        if timeout is None or self.now > FOREVER_S:
            raise Deadlock
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._leaping = _LeapingSelector()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


@contextlib.contextmanager
def virtual_time() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        yield runner


@dataclass
class Behaviour:
    """How the next processes of an alias behave."""

    load_s: float = 1.0  # the download included
    download_s: float = 0.0  # of it, a byte a second, until ``cut_s``
    cut_s: float = FOREVER_S  # when no byte comes any more
    newer: str = ""  # the commit that the Hub has, when it loads an older one
    progress: bool = True  # while it loads
    fails_with: str | None = None  # its last words, at the end of the load
    hangs: bool = False  # for ever, in its last phase
    stubborn: bool = False  # ignores TERMINATE
    leaves_s: float = 0.0  # from TERMINATE to its end
    footprint: int | None = None  # bytes; None: what it is declared to need
    large_images: int = 1  # served, as it reports once it is ready
    stalls: bool = False  # has a job in hand and does not get on
    deaf: bool = False  # /health does not answer once it is ready
    launch_error: Exception | None = None


class FakeProcess:
    """A ``Handle``."""

    def __init__(self, host: FakeHost, spec: LaunchSpec, output: Output, pid: int) -> None:
        self.spec = spec
        self.alias = spec.alias
        self.behaviour = host.behaviours[spec.alias]
        own = self.behaviour.footprint
        self.memory = host.memory[spec.alias] if own is None else own
        self.was_parked = self.frozen = False
        self.signals: list[StopSignal] = []
        self.probes = 0
        self._host = host
        self._output = output
        self._pid = pid
        self._status: int | None = None
        self._ended = asyncio.Event()
        self._launched_at = host.now()
        if self.behaviour.fails_with is not None:
            asyncio.get_running_loop().call_later(self.behaviour.load_s, self._fail)

    def __repr__(self) -> str:
        return f"<FakeProcess {self.alias} pid={self._pid} status={self._status}>"

    def _fail(self) -> None:
        if self._status is None:
            self._output(f"{self.behaviour.fails_with}\n".encode())
            self.end(1)

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def address(self) -> Address:
        return Address("somewhere", self.spec.port)

    def poll(self) -> int | None:
        return self._status

    def signal(self, stop: StopSignal) -> None:
        if self._status is not None:
            return
        self.signals.append(stop)
        self._host.signalled(self, stop)
        if stop is StopSignal.KILL:
            self.end(-9)
        elif not self.behaviour.stubborn:
            asyncio.get_running_loop().call_later(self.behaviour.leaves_s, self.end, 0)

    async def footprint(self) -> int | None:
        await asyncio.sleep(0)
        if self._status is not None:
            return None
        own = self.behaviour.footprint
        if own is not None:
            self.memory = own
            self._host.count()
        return self.memory

    async def wait(self) -> int:
        await self._ended.wait()
        assert self._status is not None
        return self._status

    def end(self, status: int = -9) -> None:
        if self._status is None:
            self._status = status
            self._ended.set()

    def health(self) -> ProbeResponse | None:
        age = self._host.now() - self._launched_at
        ready = age >= self.behaviour.load_s and not self.behaviour.hangs
        if self.frozen or (ready and self.behaviour.deaf):
            return None
        self.probes += 1
        fetching = age < self.behaviour.download_s
        body: dict[str, Any] = {
            "jobs": int(self.behaviour.stalls),
            "progress": 0 if self.behaviour.stalls else self.probes,
            "alias": self.alias,
            "phase": "ready" if ready else "downloading" if fetching else "loading",
            "detail": f"{age:.1f} s" if self._gets_on(age) else "",
            "revision": "old" if self.behaviour.newer else "",
            "newer_revision": self.behaviour.newer,
            "nonce": self.spec.nonce,
            "pid": self._pid,
            "work": {"large_pictures": self.behaviour.large_images if ready else 0},
        }
        if fetching:
            done, total = int(min(age, self.behaviour.cut_s)), int(self.behaviour.download_s)
            body["download"] = Download(
                done_bytes=done, total_bytes=total, bytes_per_second=1, eta_seconds=total - done
            ).model_dump()
        return ProbeResponse(200 if ready else 503, json.dumps(body).encode())

    def _gets_on(self, age: float) -> bool:
        behaviour = self.behaviour
        if age < behaviour.download_s:
            return age < behaviour.cut_s
        return behaviour.progress and age < behaviour.load_s


@dataclass
class FakeHost:
    """A ``Launcher`` and a ``Probe``; counts what lives."""

    now: Callable[[], float]
    memory: dict[str, int]  # bytes
    behaviours: dict[str, Behaviour]
    signalled: Callable[[FakeProcess, StopSignal], None] = lambda process, stop: None
    processes: list[FakeProcess] = field(default_factory=list)
    peak: int = 0

    def obstacle(self, model: VlmSettings | ImageSettings) -> str:
        return "its folder is gone" if model.path == "nowhere" else ""

    async def launch(self, spec: LaunchSpec, output: Output) -> FakeProcess:
        await asyncio.sleep(0)
        error = self.behaviours[spec.alias].launch_error
        if error is not None:
            raise error
        process = FakeProcess(self, spec, output, pid=1000 + len(self.processes))
        self.processes.append(process)
        self.count()
        return process

    def count(self) -> None:
        self.peak = max(self.peak, sum(p.memory for p in self.living()))

    async def probe(self, address: Address) -> ProbeResponse | None:
        await asyncio.sleep(0)
        for process in self.living():
            if process.address == address:
                return process.health()
        return None

    def living(self) -> list[FakeProcess]:
        return [p for p in self.processes if p.poll() is None]

    def of(self, alias: str) -> list[FakeProcess]:
        return [p for p in self.processes if p.alias == alias]

    def last(self, alias: str) -> FakeProcess:
        return self.of(alias)[-1]


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
        "manager": {
            "log_dir": str(folder),
            "idle_timeout_s": -1,
            "max_wait_s": 0,
            **manager,
        },
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
        self.available = 1 << 40  # bytes that the system has left
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
        self.requests.append(request)  # a task that nobody holds may vanish
        return request

    def learn(self, alias: str, gib: float) -> None:
        """As if an earlier run of *alias* had been seen to need so much."""
        self.peaks.learn(peak_key(self.pool.worker(alias).model), int(gib * GIB), large=True)

    def state(self, alias: str = "a") -> str:
        return self.pool.worker(alias).state

    async def served(self, alias: str = "a") -> None:
        """A whole request, which takes no time once it is granted."""
        async with self.pool.lease(alias):
            pass

    async def end(self) -> None:
        """Close the pool: no process is left, and the budget has been kept all the time."""
        await self.pool.close(hurry=True)
        for request in self.requests:
            request.task.cancel()
        await asyncio.gather(*(request.task for request in self.requests), return_exceptions=True)
        assert self.host.living() == []
        assert self.host.peak <= self.budget

    async def settle(self, until: Callable[[], bool] = lambda: False) -> None:
        """Let everything happen that is due now, or just so much that *until* is true."""
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
        """The lease; raises what the request is answered with instead."""
        await self._granted.wait()
        if self.lease is None:
            await self.task
        assert self.lease is not None
        return self.lease

    async def refused(self) -> BaseException:
        """The error that it is answered with."""
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
    """Makes a test of a coroutine that acts on a Scene with *models* and settings of the manager.

    However it goes, closing the pool at its end must leave no process, and the budget has been kept.
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
