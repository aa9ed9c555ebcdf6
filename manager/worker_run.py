"""One process of a worker: launched, loading, watched while it serves, drained, stopped, reaped.

Rules: it tells its worker what happened (``Owner``) and never decides about other aliases; it is told
to leave through ``Owner.leaving``, which it looks at whenever ``wake`` is set. ``live`` returns when
the process has been reaped, whatever happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from contracts import metal
from contracts.control import Caches, DeviceMemory, Download, Drawing, Work, WorkerHealth
from contracts.settings import Settings
from manager.launcher.process import Handle, Launcher, LaunchFailed, LaunchSpec, StopSignal, exit_text
from manager.logs import WorkerLog
from manager.readiness import Answer, Probe, Readiness, parse_health
from manager.watchdog import Growth, Watchdog, peak_estimate, true_footprint

log = logging.getLogger(__name__)

POLL_S = 0.03  # while it loads
WATCH_S = 1.0  # while it serves
ROOM_POLL_S = 0.1  # while the memory that was promised to it is not back
ROOM_TIMEOUT_S = 60.0  # then the promise is void
_LAST_MEASURE_S = 0.3  # for the one before the end
_READING_S = 1.0  # for any
_ADOPTED_S = 15.0  # for the first answer of a standby, which may have imports to finish
_MEASURE_SHARE = 50  # times as long as a reading took, none is made
_FAILED_PREFIX = "load failed:"
_ROUTINE = re.compile(r"\d{4}-\d\d-\d\d \S+ (DEBUG|INFO) ")  # what a worker logs when all is well


@dataclass(frozen=True, slots=True)
class Timeouts:
    start_s: float  # since the load last made progress
    drain_s: float
    stop_s: float  # from SIGTERM to SIGKILL
    stall_s: float  # without a token or step while there is work
    poll_s: float = POLL_S
    watch_s: float = WATCH_S
    room_s: float = ROOM_TIMEOUT_S

    @classmethod
    def of(cls, settings: Settings) -> Timeouts:
        manager = settings.manager
        return cls(
            manager.start_timeout_s,
            manager.drain_timeout_s,
            manager.stop_timeout_s,
            manager.stall_timeout_s,
        )


class Owner(Protocol):
    """The worker that this process belongs to."""

    alias: str
    log: WorkerLog
    request_count: int

    @property
    def leaving(self) -> bool:
        """It drains or stops."""

    @property
    def draining(self) -> bool: ...

    @property
    def patient(self) -> bool:
        """Its drain lasts as long as its requests do."""

    @property
    def hurried(self) -> bool:
        """Its drain is over at once."""

    @property
    def leases(self) -> int: ...

    def fetching(self) -> bool:
        """Its files are being downloaded by another process."""

    def has_room(self) -> bool: ...

    def became_ready(self, reason: str) -> None: ...

    def drained(self, reason: str) -> None: ...

    def lost_its_room(self) -> None: ...

    def progressed(self) -> None:
        """Its phase, or how far it is in it, has changed."""

    def measured(self) -> None:
        """Its footprint was measured."""

    def drew(self) -> None:
        """What it draws, or how far it is with it, has changed."""

    def worked(self, work: Work) -> None:
        """How much its process has done so far."""


class Incarnation:
    def __init__(
        self,
        owner: Owner,
        spec: LaunchSpec,
        launcher: Launcher,
        probe: Probe,
        clock: Callable[[], float],
        timeouts: Timeouts,
        growth: Growth,
    ) -> None:
        self.handle: Handle | None = None
        self.readiness: Readiness | None = None
        self.charged = False  # a process of it may hold memory
        self.launched_at = 0.0
        self.growth = growth
        self.device = DeviceMemory()
        self.caches = Caches()
        self.footprint = 0  # bytes, when last measured
        self.peak = 0  # bytes; the most that it was seen to need
        self.large = False  # ``peak`` includes a picture of substantial size
        self.serving = False
        self.drawing: Drawing | None = None
        self.wake = asyncio.Event()
        self._owner = owner
        self._spec = spec
        self._launcher = launcher
        self._probe = probe
        self._clock = clock
        self._timeouts = timeouts
        self._verdict = ""  # of the watchdog
        self._measure_at = float("-inf")
        self._unread: asyncio.Future[int | None] | None = None

    @property
    def download(self) -> Download | None:
        return self.readiness.download if self.readiness else None

    async def live(self) -> str:
        """From the promise of memory until the process is reaped; returns why it ended."""
        owner = self._owner
        if not await self._has_room():
            return "stopped before it was launched"
        self.charged = True
        owner.log.begin()
        self.launched_at = self._clock()
        try:
            handle, exited, given_up = await self._launched()
        except LaunchFailed as exc:
            return str(exc)
        if not given_up and not exited.done() and not owner.leaving:
            loading_s = self._clock() - self.launched_at
            owner.became_ready(f"pid {handle.pid}, {loading_s:.2f} s after its launch")
            await self._watch(handle, exited)
            await self._drain(exited)
        if not exited.done():
            await self._stop_ladder(handle, exited)
        status = await exited
        if self._verdict or given_up:
            return self._verdict or given_up
        stopped = owner.leaving and not owner.draining
        return exit_text(status) if stopped else ending(status, owner.log.last_lines())

    async def _launched(self) -> tuple[Handle, asyncio.Task[int], str]:
        """A process that has loaded, ended, or (with the reason) been given up."""
        owner = self._owner
        while True:
            self.handle = handle = await self._launcher.launch(self._spec, owner.log.write)
            exited = asyncio.create_task(handle.wait(), name=f"exit-{owner.alias}")
            exited.add_done_callback(lambda _: self.wake.set())
            given_up = await self._load(handle, exited)
            silent = self.readiness is None or self.readiness.health is None
            ended = exited.done() or bool(given_up)
            if not (handle.was_parked and ended and silent and not owner.leaving):
                return handle, exited, given_up
            # It was as good as dead when it was taken, and says nothing about this model.
            log.warning("%s: its standby process was of no use; launching another", owner.alias)
            handle.signal(StopSignal.KILL)
            await exited

    async def abandon(self) -> None:
        """After a fault of ours: leave no process behind."""
        if self.handle is not None:
            self.handle.signal(StopSignal.KILL)
            await self.handle.wait()

    async def _has_room(self) -> bool:
        owner = self._owner
        while owner.fetching() and not owner.leaving:
            await self._until(lambda: owner.leaving, ROOM_POLL_S)
        deadline = self._clock() + self._timeouts.room_s
        while not owner.leaving and not owner.has_room():
            if self._clock() >= deadline:
                # Others have grown into it. Whoever waits gets a plan for the world as it is now.
                owner.lost_its_room()
                break
            await self._until(lambda: owner.leaving or owner.has_room(), ROOM_POLL_S)
        return not owner.leaving

    async def _load(self, handle: Handle, exited: asyncio.Task[int]) -> str:
        """Returns when it is ready, ended, told to stop, or (with the reason) given up."""
        owner, timeouts = self._owner, self._timeouts
        judge = Readiness(self._spec.nonce, handle.pid, timeouts.start_s, progressed_at=self._clock())
        self.readiness = judge
        measured_at = self._clock()

        def over() -> bool:
            return owner.leaving or exited.done()

        while True:
            answer = await self._ask(handle, over)
            if over():
                return ""
            judge.polled(self._clock())
            before = (judge.phase, judge.detail)
            if judge.heard(answer, self._clock()):
                return ""
            if judge.phase != before[0]:
                log.info("%s: loading: %s", owner.alias, judge)
            if (judge.phase, judge.detail) != before:
                owner.progressed()
            if judge.failed:
                # It says why in its log, and leaves by itself.
                await self._until(exited.done, timeouts.stop_s)
                return "" if exited.done() else str(judge)
            mute = handle.was_parked and judge.health is None
            if mute and self._clock() - judge.began_at >= _ADOPTED_S:
                return f"its standby process did not answer within {_ADOPTED_S:g} s"
            if judge.overdue(self._clock()):
                last = owner.log.last_lines(1)
                return judge.complaint + (f"; its last line: {last[0]}" if last else "")
            if self._clock() - measured_at >= timeouts.watch_s:
                measured_at = self._clock()
                await self._measure(handle, judge.health)
            await self._until(over, timeouts.poll_s)

    async def _ask(self, handle: Handle, over: Callable[[], bool]) -> Answer | None:
        """One probe, which is broken off as soon as *over* holds."""
        probe = asyncio.ensure_future(self._probe(handle.address))
        probe.add_done_callback(lambda _: self.wake.set())
        await self._until(lambda: probe.done() or over())
        if not probe.done():
            probe.cancel()
            await asyncio.wait({probe})
            return None
        return probe.result()

    async def _watch(self, handle: Handle, exited: asyncio.Task[int]) -> None:
        """While it serves: is it alive, how large is it? Returns when it ended or is to leave."""
        owner, timeouts = self._owner, self._timeouts
        self.serving = True
        watchdog = Watchdog(timeouts.stall_s, self._clock(), poll_s=timeouts.watch_s)

        def over() -> bool:
            # A drain that lasts as long as the requests do needs watching as well.
            waits = owner.draining and owner.patient and owner.leases > 0 and not owner.hurried
            return exited.done() or (owner.leaving and not waits)

        while True:
            answer = await self._ask(handle, over)
            if over():
                return
            health = self._own(answer, handle)
            self._look_at_drawing(health)
            self._verdict = watchdog.heard(health, self._clock(), busy=owner.leases > 0)
            if self._verdict:
                log.warning("%s: killed: %s", owner.alias, self._verdict)
                handle.signal(StopSignal.KILL)
                await self._until(exited.done)
                return
            await self._measure(handle, health)
            await self._until(over, timeouts.watch_s)

    def _look_at_drawing(self, health: WorkerHealth | None) -> None:
        """What an answer does not say, a later one will."""
        if health is not None and health.drawing != self.drawing:
            self.drawing = health.drawing
            self._owner.drew()

    def _own(self, answer: Answer | None, handle: Handle) -> WorkerHealth | None:
        health = parse_health(answer)
        mine = health is not None and (health.nonce, health.pid) == (self._spec.nonce, handle.pid)
        if not mine or health is None:
            return None
        self.caches = health.caches
        self._owner.worked(health.work)
        return health

    async def _measure(self, handle: Handle, health: WorkerHealth | None) -> None:
        if self._clock() < self._measure_at:
            return
        began = self._clock()
        process = await self._reading(handle)
        # The kernel walks all page tables for one: some 30 ms a GiB where pages are small.
        self._measure_at = self._clock() + _MEASURE_SHARE * (self._clock() - began)
        if process is None:
            return
        if health is not None:
            self.device = health.device
            self.large = health.work.large_pictures > 0
        footprint = true_footprint(process, self.device)
        self.footprint = footprint
        if self.serving:
            self.growth.measured(footprint, self._owner.request_count, self._clock())
        self.peak = max(self.peak, peak_estimate(footprint, self.device))
        self._owner.measured()

    async def _reading(self, handle: Handle) -> int | None:
        """The footprint, unless the kernel hangs at it: the watchdog must not wait for that."""
        reading = self._unread or asyncio.ensure_future(handle.footprint())
        await asyncio.wait({reading}, timeout=_READING_S)
        self._unread = None if reading.done() else reading
        return None if self._unread else reading.result()

    async def _drain(self, exited: asyncio.Task[int]) -> None:
        owner = self._owner
        if not owner.draining:
            return

        def over() -> bool:
            return exited.done() or owner.hurried or not owner.leases

        await self._until(lambda: over() or not owner.patient)
        if not over():
            await self._until(over, self._timeouts.drain_s)
        if not exited.done():
            left = owner.leases
            owner.drained(f"cut off from it: {left}" if left else "drained")

    async def _stop_ladder(self, handle: Handle, exited: asyncio.Task[int]) -> None:
        if self._owner.request_count:
            # What its last requests took shall not be lost; it may be past answering.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_MEASURE_S):
                    answer = await self._probe(handle.address)
                    await self._measure(handle, self._own(answer, handle))
        handle.signal(StopSignal.TERMINATE)
        await self._until(exited.done, self._timeouts.stop_s)
        if not exited.done():
            log.warning("%s: pid %d ignores SIGTERM; killing it", self._owner.alias, handle.pid)
            handle.signal(StopSignal.KILL)
            await self._until(exited.done)

    async def _until(self, condition: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait for *condition*, which is looked at whenever something wakes this process's life."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    self.wake.clear()
                    await self.wake.wait()


def new_nonce() -> str:
    return secrets.token_hex(16)


def ending(status: int, last_lines: Sequence[str]) -> str:
    """Why a process ended, for people: its last line that is no routine, and how it ended.

    A fault of the GPU is told by its cause and its cure first.
    """
    telling = [line for line in last_lines if not _ROUTINE.match(line)]
    last = telling[-1].removeprefix(_FAILED_PREFIX).strip() if telling else ""
    how = f"{last or 'it ended without a word'} ({exit_text(status)})"
    fault = metal.fault_of(telling)
    return how if fault is None else f"{fault}: {how}"
