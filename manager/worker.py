"""One alias: its life, its process and its readiness.

Rules: state changes only through ``Lifecycle``, each with one log line. What the pool decides
(``begin``, ``stop``) takes effect at once and synchronously; what a process does becomes a fact in
``_live``, which accompanies an incarnation from its start until it is reaped, and is told to the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contracts.control import WorkerState
from contracts.settings import ImageSettings, Settings, VlmSettings
from manager.lifecycle import WHEN_REAPED, Event, Lifecycle
from manager.logs import WorkerLog
from manager.planner import WorkerView
from manager.process import (
    Address,
    Handle,
    Launcher,
    LaunchFailed,
    LaunchSpec,
    StopSignal,
    exit_text,
)
from manager.readiness import Answer, Probe, Readiness

log = logging.getLogger(__name__)

POLL_S = 0.03
_FAILED_PREFIX = "load failed:"
_ROUTINE = re.compile(r"\d{4}-\d\d-\d\d \S+ (DEBUG|INFO) ")  # what a worker logs when all is well


@dataclass(frozen=True, slots=True)
class Timeouts:
    start_s: float  # since the load last made progress
    drain_s: float
    stop_s: float  # from SIGTERM to SIGKILL
    poll_s: float = POLL_S

    @classmethod
    def of(cls, settings: Settings) -> Timeouts:
        manager = settings.manager
        return cls(manager.start_timeout_s, manager.drain_timeout_s, manager.stop_timeout_s)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker needs from outside, all of it replaceable in tests.

    ``has_room`` says whether the memory of a worker is free now; ``changed`` is told every fact.
    """

    launcher: Launcher
    probe: Probe
    clock: Callable[[], float]
    timeouts: Timeouts
    has_room: Callable[[Worker], bool]
    changed: Callable[[Worker], None]


class Worker:
    def __init__(
        self,
        alias: str,
        model: VlmSettings | ImageSettings,
        worker_log: WorkerLog,
        around: Surroundings,
        *,
        idle_timeout_s: float,
    ) -> None:
        self.alias = alias
        self.model = model
        self.log = worker_log
        self.life = Lifecycle()
        self.handle: Handle | None = None
        self.readiness: Readiness | None = None
        self.charged = False  # a process of it may hold memory
        self.launched_at = 0.0
        self.request_count = 0  # of this incarnation
        self.last_error = ""  # why it failed last; "" once it is ready again
        self.last_ending = ""
        self._around = around
        self._idle_timeout_s = idle_timeout_s
        self._wake = asyncio.Event()
        self._hurry = False
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        pid = self.handle.pid if self.handle else None
        return f"<Worker {self.alias} {self.life.state} leases={self.life.leases} pid={pid}>"

    @property
    def state(self) -> WorkerState:
        return self.life.state

    @property
    def memory(self) -> int:
        """Bytes that it is charged while it holds memory."""
        return self.model.memory_bytes

    @property
    def address(self) -> Address:
        assert self.handle is not None
        return self.handle.address

    @property
    def phase(self) -> str:
        """What it is doing on its way to ready; "" otherwise."""
        if self.state is not WorkerState.STARTING:
            return ""
        if not self.charged:
            return "waiting for memory"
        return str(self.readiness) if self.readiness else "starting"

    def view(self) -> WorkerView:
        life = self.life
        return WorkerView(
            alias=self.alias,
            state=life.state,
            memory=self.memory,
            leases=life.leases,
            last_used=life.last_used,
            busy_since=life.busy_since,
            retry_at=life.retry_at,
            load_failed=life.load_failed,
            pinned=self.model.pinned,
            idle_timeout_s=self._idle_timeout_s,
        )

    # --- what the pool decides -------------------------------------------------------------------

    def begin(self, reason: str) -> None:
        """Start it: at once, or as soon as its memory is free."""
        self._fire(Event.START, reason)
        self._wake.clear()
        self._hurry = False
        self.request_count = 0
        self._task = asyncio.create_task(self._run(), name=f"worker-{self.alias}")

    def stop(self, reason: str, *, hurry: bool = False) -> None:
        """Stop it, after its open requests have ended; *hurry*: without waiting for them.

        Does nothing more when it is on its way out already, or not there at all.
        """
        self._hurry = self._hurry or hurry
        if self.state is WorkerState.READY and self.life.leases:
            self._fire(Event.DRAIN, reason)
        elif self.state in (WorkerState.READY, WorkerState.STARTING):
            self._fire(Event.STOP, reason)
        self._wake.set()

    def lease(self) -> int:
        """A request for it begins; give the returned number to release()."""
        self.request_count += 1
        return self.life.lease(self._around.clock())

    def release(self, incarnation: int) -> None:
        self.life.release(incarnation, self._around.clock())
        self._wake.set()

    def memory_was_freed(self) -> None:
        self._wake.set()

    async def ended(self, incarnation: int) -> None:
        """Returns when process number *incarnation* has been reaped."""
        task = self._task if self.life.incarnation == incarnation else None
        if task is not None and not task.done():
            await asyncio.wait({task})

    # --- what becomes of it ----------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            reason = await self._live()
        except Exception:
            log.exception("%s: a fault of the manager ends this worker", self.alias)
            reason = "internal error of the manager; its log has the details"
            if self.handle is not None:
                self.handle.signal(StopSignal.KILL)
                await self.handle.wait()
        self.handle, self.readiness, self.charged = None, None, False
        event = WHEN_REAPED[self.state]
        if event is Event.EXITED:
            self.last_ending = "it was stopped"
        else:
            self.last_ending = self.last_error = reason
        self._fire(event, reason)
        self._around.changed(self)

    async def _live(self) -> str:
        """One incarnation, from START until its process is reaped; returns why it ended."""
        await self._until(lambda: self._leaving or self._around.has_room(self))
        if self._leaving:
            return "stopped before it was launched"
        self.charged = True
        nonce = secrets.token_hex(16)
        spec = LaunchSpec(self.alias, self.model.model_dump_json(), self.model.port, nonce)
        self.log.begin()
        self.launched_at = self._around.clock()
        try:
            self.handle = await self._around.launcher.launch(spec, self.log.write)
        except LaunchFailed as exc:
            return str(exc)
        handle = self.handle
        exited = asyncio.create_task(handle.wait(), name=f"exit-{self.alias}")
        exited.add_done_callback(lambda _: self._wake.set())
        given_up = await self._load(handle, nonce, exited)
        if not given_up and not exited.done() and not self._leaving:
            self.last_error = ""
            loading_s = self._around.clock() - self.launched_at
            self._fire(Event.BECAME_READY, f"pid {handle.pid}, {loading_s:.2f} s after its launch")
            self._around.changed(self)
            await self._until(lambda: self._leaving or exited.done())
            await self._drain(exited)
        if not exited.done():
            await self._stop_ladder(handle, exited)
        status = await exited
        if self.state is WorkerState.STOPPING:
            return exit_text(status)
        return given_up or ending(status, self.log.last_lines())

    @property
    def _leaving(self) -> bool:
        return self.state in (WorkerState.DRAINING, WorkerState.STOPPING)

    async def _load(self, handle: Handle, nonce: str, exited: asyncio.Task[int]) -> str:
        """Returns when it is ready, ended, told to stop, or (with the reason) given up."""
        clock, timeouts = self._around.clock, self._around.timeouts
        judge = Readiness(nonce, handle.pid, timeouts.start_s, progressed_at=clock())
        self.readiness = judge
        while True:
            answer = await self._ask(handle, exited)
            if self._leaving or exited.done():
                return ""
            before = judge.phase
            if judge.heard(answer, clock()):
                return ""
            if judge.phase != before:
                log.info("%s: loading: %s", self.alias, judge)
            if judge.failed:
                # It says why in its log, and leaves by itself.
                await self._until(exited.done, timeouts.stop_s)
                return "" if exited.done() else str(judge)
            if judge.overdue(clock()):
                last = self.log.last_lines(1)
                return judge.complaint + (f"; its last line: {last[0]}" if last else "")
            await self._until(lambda: self._leaving or exited.done(), timeouts.poll_s)

    async def _ask(self, handle: Handle, exited: asyncio.Task[int]) -> Answer | None:
        """One probe, which neither a stop nor the end of the process waits for."""
        probe = asyncio.ensure_future(self._around.probe(handle.address))
        probe.add_done_callback(lambda _: self._wake.set())
        await self._until(lambda: probe.done() or self._leaving or exited.done())
        if not probe.done():
            probe.cancel()
            await asyncio.wait({probe})
            return None
        return probe.result()

    async def _drain(self, exited: asyncio.Task[int]) -> None:
        if self.state is not WorkerState.DRAINING:
            return
        await self._until(
            lambda: exited.done() or self._hurry or not self.life.leases, self._around.timeouts.drain_s
        )
        if not exited.done():
            left = self.life.leases
            self._fire(Event.STOP, f"drained, {left} requests are cut off" if left else "drained")

    async def _stop_ladder(self, handle: Handle, exited: asyncio.Task[int]) -> None:
        handle.signal(StopSignal.TERMINATE)
        await self._until(exited.done, self._around.timeouts.stop_s)
        if not exited.done():
            log.warning("%s: pid %d ignores SIGTERM; killing it", self.alias, handle.pid)
            handle.signal(StopSignal.KILL)
            await self._until(exited.done)

    async def _until(self, condition: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait for *condition*, which is looked at whenever something wakes this worker."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    self._wake.clear()
                    await self._wake.wait()

    def _fire(self, event: Event, reason: str) -> None:
        old = self.state
        new = self.life.fire(event, self._around.clock())
        level = logging.WARNING if new is WorkerState.FAILED else logging.INFO
        log.log(level, "%s: %s -> %s: %s", self.alias, old, new, reason)


def ending(status: int, last_lines: Sequence[str]) -> str:
    """Why a process ended, for people: its last line that is no routine, and how it ended."""
    telling = [line for line in last_lines if not _ROUTINE.match(line)]
    last = telling[-1].removeprefix(_FAILED_PREFIX).strip() if telling else ""
    return f"{last or 'it ended without a word'} ({exit_text(status)})"
