"""Virtual time, and worker processes that exist only in it.

The clock of the loop leaps to the next timer, so minutes take no time and events have a fixed order. A
wait that nothing will ever end is an error at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import selectors
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from contracts.control import Download
from contracts.settings.models import ImageSettings, VlmSettings
from manager.launcher.process import Address, LaunchSpec, Output, StopSignal
from manager.readiness import ProbeResponse


class Deadlock(Exception):
    """All tasks wait, and no timer runs."""


FOREVER_S = 50_000.0  # longer than any wait in a test


class _LeapingSelector(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # Workers are polled once a second, forever.
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

    load_s: float = 1.0  # including the download
    download_s: float = 0.0  # one byte per second, until ``cut_s``
    cut_s: float = FOREVER_S  # when the download stalls
    newer: str = ""  # the newer commit on the Hub
    progress: bool = True  # during the load
    fails_with: str | None = None  # its last output, at the end of the load
    hangs: bool = False  # in its last phase
    stubborn: bool = False  # ignores TERMINATE
    leaves_s: float = 0.0  # from TERMINATE to its exit
    footprint: int | None = None  # bytes; None: as declared
    large_images: int = 1  # served, as it reports once it is ready
    stalls: bool = False  # has a job and makes no progress
    deaf: bool = False  # /health does not respond once it is ready
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
            "detail": f"{age:.1f} s" if self._progresses(age) else "",
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

    def _progresses(self, age: float) -> bool:
        behaviour = self.behaviour
        if age < behaviour.download_s:
            return age < behaviour.cut_s
        return behaviour.progress and age < behaviour.load_s


@dataclass
class FakeHost:
    """A ``Launcher`` and a ``Probe``; ``peak`` is the most memory that its processes used at once."""

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
