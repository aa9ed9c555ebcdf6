"""One process of a worker: launched, loading, polled while it serves, drained, stopped, reaped.

Rules: ``WorkerRun.facts`` yields what happens and ends when the process has been reaped. A run knows
neither its worker nor other workers: it reads ``orders`` whenever its ``Waker`` wakes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from contracts import metal
from contracts.control import DeviceMemory, WorkerHealth
from contracts.settings import Settings
from manager.launcher import stop_ladder
from manager.launcher.process import Handle, Launcher, LaunchFailed, LaunchSpec, StopSignal, exit_text
from manager.logs import WorkerLog
from manager.readiness import Probe, ProbeResponse, Readiness, parse_health
from manager.watchdog import Watchdog, peak_estimate, true_footprint
from manager.worker_facts import Drained, Ended, Fact, Launched, Loading, Measured, Polled, Ready

log = logging.getLogger(__name__)

POLL_S = 0.03  # between polls during the load
WATCH_S = 1.0  # between polls while it serves
MEMORY_TIMEOUT_S = 60.0  # how long a worker waits for the memory reserved for it
_LAST_MEASURE_S = 0.3  # limit for the measurement before SIGTERM
_MEASURE_S = 1.0  # limit for any other measurement
_ADOPTED_S = 15.0  # limit for a standby's first response; it may still be importing libraries
_MEASURE_SHARE = 50  # the pause after a measurement, in multiples of its duration
_FAILED_PREFIX = "load failed:"
_ROUTINE = re.compile(r"\d{4}-\d\d-\d\d \S+ (DEBUG|INFO) ")  # a worker's log line that reports no fault


@dataclass(frozen=True, slots=True)
class Timeouts:
    start_s: float  # since the load last made progress
    drain_s: float
    stop_s: float  # from SIGTERM to SIGKILL
    stall_s: float  # without a token or step while there is work
    poll_s: float = POLL_S
    watch_s: float = WATCH_S
    memory_s: float = MEMORY_TIMEOUT_S

    @classmethod
    def of(cls, settings: Settings) -> Timeouts:
        manager = settings.manager
        return cls(
            manager.start_timeout_s,
            manager.drain_timeout_s,
            manager.stop_timeout_s,
            manager.stall_timeout_s,
        )


class Leave(IntEnum):
    """How soon the process must leave."""

    NO = 0
    WHEN_IDLE = 1  # after its open requests, however long they take
    DRAIN = 2  # after its open requests, within the drain timeout
    CUT_OFF = 3  # it drains, and the drain is over now
    STOP = 4  # SIGTERM now


@dataclass(frozen=True, slots=True)
class Orders:
    """The owner's instructions to a run, and the counts that the run needs to follow them."""

    leave: Leave = Leave.NO
    leases: int = 0  # open requests
    requests: int = 0  # served by this process, open ones included


class Waker:
    """Waits for conditions, which are checked whenever ``wake`` is called. One waiter at most."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], bool], seconds: float | None = None) -> None:
        """Return when *condition* holds, or after *seconds*."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    self._event.clear()
                    await self._event.wait()


@dataclass(frozen=True, slots=True)
class _Child:
    """A launched process and the task that ends with its exit status."""

    handle: Handle
    exit: asyncio.Task[int]

    @property
    def ended(self) -> bool:
        return self.exit.done()


class WorkerRun:
    def __init__(
        self,
        spec: LaunchSpec,
        *,
        orders: Callable[[], Orders],
        waker: Waker,
        worker_log: WorkerLog,
        launcher: Launcher,
        probe: Probe,
        clock: Callable[[], float],
        timeouts: Timeouts,
    ) -> None:
        self._spec = spec
        self._orders = orders
        self._waker = waker
        self._log = worker_log
        self._launcher = launcher
        self._probe = probe
        self._clock = clock
        self._timeouts = timeouts
        self._child: _Child | None = None
        self._health: WorkerHealth | None = None  # the last valid response
        self._failure = ""  # why the run gave up on the process or killed it
        self._measure_at = float("-inf")
        self._measurement: asyncio.Future[int | None] | None = None  # not finished in time

    async def facts(self) -> AsyncGenerator[Fact, None]:
        """Launch the process and yield facts until it is reaped. The last one is ``Ended``."""
        self._log.begin()
        began_at = self._clock()
        try:
            async for fact in self._launch_and_load():
                yield fact
        except LaunchFailed as exc:
            yield Ended(str(exc))
            return
        assert self._child is not None
        child = self._child
        if not self._failure and not child.ended and not self._orders().leave:
            yield Ready(self._health, self._clock() - began_at)
            async for fact in self._serve(child):
                yield fact
        async for fact in self._drain_and_stop(child):
            yield fact
        status = child.exit.result()
        if self._failure:
            yield Ended(self._failure)
        elif self._orders().leave is Leave.STOP:
            yield Ended(exit_text(status))
        else:
            yield Ended(ending(status, self._log.last_lines()))

    async def abandon(self) -> None:
        """Kill and reap the process after an internal error."""
        if self._child is not None:
            self._child.handle.signal(StopSignal.KILL)
            await self._child.handle.wait()

    async def _launch_and_load(self) -> AsyncIterator[Fact]:
        while True:
            child = await self._launch()
            yield Launched(child.handle)
            async for fact in self._load(child):
                yield fact
            failed = child.ended or bool(self._failure)
            if not (child.handle.was_parked and failed and not self._health) or self._orders().leave:
                return
            # The standby process was dead or hung before it got this model: the model is not at fault.
            log.warning("%s: its standby process did not respond; launching another", self._spec.alias)
            child.handle.signal(StopSignal.KILL)
            await child.exit
            self._failure = ""

    async def _launch(self) -> _Child:
        handle = await self._launcher.launch(self._spec, self._log.write)
        exited = asyncio.create_task(handle.wait(), name=f"exit-{self._spec.alias}")
        exited.add_done_callback(lambda _: self._waker.wake())
        self._child = _Child(handle, exited)
        return self._child

    async def _load(self, child: _Child) -> AsyncIterator[Fact]:
        """Poll until it is ready, has ended, must leave, or fails (then ``_failure`` says why)."""
        timeouts = self._timeouts
        judge = Readiness(
            self._spec.nonce, child.handle.pid, timeouts.start_s, progressed_at=self._clock()
        )
        measured_at = self._clock()

        def over() -> bool:
            return child.ended or bool(self._orders().leave)

        while True:
            answer = await self._poll(child, over)
            if over():
                return
            judge.polled(self._clock())
            before = (judge.phase, judge.detail)
            ready = judge.update(answer, self._clock())
            self._health = judge.health
            if ready:
                return
            if judge.phase != before[0]:
                log.info("%s: loading: %s", self._spec.alias, judge)
            moved = (judge.phase, judge.detail) != before
            yield Loading(str(judge), judge.health, judge.fetched_at, moved)
            if judge.failed:
                # The worker logs the reason and exits; SIGTERM only follows if it does not.
                await self._waker.until(lambda: child.ended, timeouts.stop_s)
                self._failure = "" if child.ended else str(judge)
                return
            silent = child.handle.was_parked and judge.health is None
            if silent and self._clock() - judge.began_at >= _ADOPTED_S:
                self._failure = f"its standby process did not respond within {_ADOPTED_S:g} s"
                return
            if judge.overdue(self._clock()):
                last = self._log.last_lines(1)
                self._failure = judge.complaint + (f"; its last line: {last[0]}" if last else "")
                return
            if self._clock() - measured_at >= timeouts.watch_s:
                measured_at = self._clock()
                if measured := await self._measure(child):
                    yield measured
            await self._waker.until(over, timeouts.poll_s)

    async def _serve(self, child: _Child) -> AsyncIterator[Fact]:
        """Poll and measure until the process has ended or must leave."""
        watchdog = Watchdog(self._timeouts.stall_s, self._clock(), poll_s=self._timeouts.watch_s)

        def over() -> bool:
            orders = self._orders()
            # A drain without a time limit can last long, so the process is still watched.
            waits = orders.leave is Leave.WHEN_IDLE and orders.leases > 0
            return child.ended or (orders.leave > Leave.NO and not waits)

        while True:
            answer = await self._poll(child, over)
            if over():
                return
            health = self._valid(answer, child)
            if health is not None:
                yield Polled(health)
            self._failure = watchdog.check(health, self._clock(), busy=self._orders().leases > 0)
            if self._failure:
                log.warning("%s: killed: %s", self._spec.alias, self._failure)
                child.handle.signal(StopSignal.KILL)
                await child.exit
                return
            if measured := await self._measure(child):
                yield measured
            await self._waker.until(over, self._timeouts.watch_s)

    async def _drain_and_stop(self, child: _Child) -> AsyncIterator[Fact]:
        """Drain, measure, then stop (``manager.launcher.stop_ladder``).

        Steps 1 and 2 are skipped once the process has ended.
        """
        orders, until, timeouts = self._orders, self._waker.until, self._timeouts

        def drained() -> bool:
            return child.ended or not orders().leases or orders().leave >= Leave.CUT_OFF

        # 1. Wait for open requests: as long as they take, or as long as a drain may take.
        if Leave.NO < orders().leave < Leave.STOP:
            await until(lambda: drained() or orders().leave is not Leave.WHEN_IDLE)
            await until(drained, timeouts.drain_s)
            if not child.ended:
                yield Drained(orders().leases)
        # 2. Measure it once more, so that the memory of its last requests is learned.
        if orders().requests and not child.ended:
            for fact in await self._last_facts(child):
                yield fact
        # 3. SIGTERM, SIGKILL, reap.
        await stop_ladder.stop(child.handle, child.exit, timeouts.stop_s, name=self._spec.alias)

    async def _last_facts(self, child: _Child) -> list[Fact]:
        facts: list[Fact] = []
        with contextlib.suppress(TimeoutError):  # it may no longer respond
            async with asyncio.timeout(_LAST_MEASURE_S):
                if health := self._valid(await self._probe(child.handle.address), child):
                    facts.append(Polled(health))
                if measured := await self._measure(child):
                    facts.append(measured)
        return facts

    async def _poll(self, child: _Child, over: Callable[[], bool]) -> ProbeResponse | None:
        """One probe, cancelled as soon as *over* holds."""
        probe = asyncio.ensure_future(self._probe(child.handle.address))
        probe.add_done_callback(lambda _: self._waker.wake())
        await self._waker.until(lambda: probe.done() or over())
        if not probe.done():
            probe.cancel()
            await asyncio.wait({probe})
            return None
        return probe.result()

    def _valid(self, answer: ProbeResponse | None, child: _Child) -> WorkerHealth | None:
        """The health in *answer* if it comes from *child*."""
        health = parse_health(answer)
        if health is None or (health.nonce, health.pid) != (self._spec.nonce, child.handle.pid):
            return None
        self._health = health
        return health

    async def _measure(self, child: _Child) -> Measured | None:
        """A measurement, unless the last one was too recent or this one takes too long."""
        if self._clock() < self._measure_at:
            return None
        began = self._clock()
        process = await self._process_footprint(child)
        # The kernel walks all page tables for it: some 30 ms per GiB of small pages.
        self._measure_at = self._clock() + _MEASURE_SHARE * (self._clock() - began)
        if process is None:
            return None
        device = self._health.device if self._health else DeviceMemory()
        footprint = true_footprint(process, device)
        return Measured(footprint, peak_estimate(footprint, device))

    async def _process_footprint(self, child: _Child) -> int | None:
        """None when the kernel takes too long: the watchdog must not wait for it."""
        measurement = self._measurement or asyncio.ensure_future(child.handle.footprint())
        await asyncio.wait({measurement}, timeout=_MEASURE_S)
        self._measurement = None if measurement.done() else measurement
        return None if self._measurement else measurement.result()


def new_nonce() -> str:
    return secrets.token_hex(16)


def ending(status: int, last_lines: Sequence[str]) -> str:
    """Why a process ended, for people: its last line that reports a fault, and its exit status.

    A known GPU fault is named first, with its cure.
    """
    lines = [line for line in last_lines if not _ROUTINE.match(line)]
    last = lines[-1].removeprefix(_FAILED_PREFIX).strip() if lines else ""
    text = f"{last or 'it ended without an error message'} ({exit_text(status)})"
    fault = metal.fault_of(lines)
    return text if fault is None else f"{fault}: {text}"
