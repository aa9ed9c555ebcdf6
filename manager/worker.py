"""One alias: its lifecycle, what is known about its memory, and its process while it has one.

Rules: state changes only through ``Lifecycle``, each with one log line and one event. The pool's
decisions (``begin``, ``stop``) take effect at once and synchronously. The facts of a process are
consumed in one place, ``_run``, and the pool is notified of each change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from contracts.control import Download, ImageProgress, Phase, Work, WorkerState
from contracts.settings import Settings
from contracts.settings.models import ImageSettings, VlmSettings
from manager.launcher.process import Address, Handle, Launcher, LaunchSpec
from manager.lifecycle import WHEN_REAPED, Cause, Event, Lifecycle
from manager.logs import WorkerLog
from manager.memory.peaks import Peak, Peaks, peak_key
from manager.planner import WorkerView
from manager.readiness import Probe
from manager.status import WorkerReport
from manager.watchdog import Growth
from manager.worker_facts import Drained, Ended, Fact, Loading, Measured, Polled, Process, Ready
from manager.worker_run import Leave, Orders, Timeouts, Waker, WorkerRun, new_nonce

log = logging.getLogger(__name__)

Publish = Callable[[str, dict[str, Any]], None]
_MEMORY_POLL_S = 0.1  # while the memory reserved for it is not free
_NEVER = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """The collaborators that all workers share. Tests replace any of them."""

    launcher: Launcher
    probe: Probe
    clock: Callable[[], float]
    timeouts: Timeouts
    peaks: Peaks
    has_room: Callable[[Worker], bool]  # the memory of this worker is free now
    changed: Callable[[Worker], None]  # called after each change
    fetching: Callable[[str], Download | None] = lambda alias: None  # progress of its pull
    pulled_at: Callable[[str], float] = lambda alias: _NEVER  # when the pull last progressed
    outdated: Callable[[str], None] = lambda alias: None  # the Hub has newer files than it loaded
    publish: Publish = lambda kind, data: None


@dataclass(frozen=True, slots=True)
class LifetimeLimits:
    """Settings that end or replace a worker's process automatically."""

    idle_timeout_s: float  # -1: never
    max_requests: int = 0  # 0: any number
    growth: float = 0.0  # a share of the baseline; 0: any growth
    growth_after: int = 1  # requests

    @classmethod
    def of(cls, settings: Settings, alias: str) -> LifetimeLimits:
        return cls(
            settings.idle_timeout_s(alias),
            settings.manager.max_requests,
            settings.memory.recycle_growth,
            settings.memory.recycle_after,
        )


class Worker:
    def __init__(
        self,
        alias: str,
        model: VlmSettings | ImageSettings,
        *,
        worker_log: WorkerLog,
        context: WorkerContext,
        limits: LifetimeLimits,
    ) -> None:
        self.alias = alias
        self.model = model
        self.log = worker_log
        self.life = Lifecycle()
        self.process: Process | None = None  # None: no process can hold memory
        self.request_count = 0  # of this incarnation
        self.recycling = ""  # why a fresh process will replace it
        self.evicted_for = ""  # the alias for which its last process was evicted
        self.last_error = ""  # why it failed last; "" once it is ready again
        self.last_ending = ""
        self.work = Work()  # of all its processes
        self._work_before = Work()  # of this process, at the last poll
        self._context = context
        self._limits = limits
        self._peak_key = peak_key(model)
        self._keep_alive_s: float | None = None  # set by the last request that was granted
        self._given = 0  # bytes, less than the estimate, when it runs alone
        self._drain = Leave.DRAIN  # how it drains
        self._growth = Growth(limits.growth, limits.growth_after)
        self._waker = Waker()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        pid = self.handle.pid if self.handle else None
        return f"<Worker {self.alias} {self.life.state} leases={self.life.leases} pid={pid}>"

    # --- what is known about it ------------------------------------------------------------------

    @property
    def state(self) -> WorkerState:
        return self.life.state

    @property
    def leases(self) -> int:
        return self.life.leases

    @property
    def leaving(self) -> bool:
        return self.state in (WorkerState.DRAINING, WorkerState.STOPPING)

    @property
    def handle(self) -> Handle | None:
        return self.process.handle if self.process else None

    @property
    def address(self) -> Address:
        assert self.handle is not None
        return self.handle.address

    @property
    def crashed(self) -> bool:
        """Its process exited unexpectedly after it was ready."""
        return self.state is WorkerState.FAILED and not self.life.load_failed

    @property
    def charged(self) -> bool:
        """It has a process that may hold memory."""
        return self.process is not None

    @property
    def launched_at(self) -> float:
        return self.process.launched_at if self.process else 0.0

    @property
    def learned(self) -> Peak | None:
        """The highest peak of any process of the same model."""
        return self._context.peaks.get(self._peak_key)

    @property
    def estimate(self) -> int:
        """Bytes that it is expected to need.

        A learned peak replaces ``memory_gb`` once it includes a large image. Until then it can only
        raise the estimate: a short text needs far less memory than the next image will.
        """
        declared, learned = self.model.memory_bytes, self.learned
        if learned is None:
            return declared
        return learned.bytes if learned.large else max(declared, learned.bytes)

    @property
    def footprint(self) -> int:
        """Bytes, at the last measurement; 0 without a process."""
        return self.process.footprint if self.process else 0

    @property
    def memory(self) -> int:
        """Its charge in bytes: counted while it holds memory."""
        peak = self.process.peak if self.process else 0
        return max(self._given or self.estimate, self.footprint, peak)

    @property
    def phase(self) -> str:
        """The phase of its load; "" when it is not loading."""
        if self.state is not WorkerState.STARTING:
            return ""
        pull = self._context.fetching(self.alias)
        if pull is not None:
            whole = 0 < pull.total_bytes <= pull.done_bytes
            return Phase.VERIFYING if whole else Phase.DOWNLOADING
        return self.process.phase if self.process else "waiting for memory"

    @property
    def download(self) -> Download | None:
        """Progress of the download of its files, while there is one."""
        pull = self._context.fetching(self.alias)
        if pull is not None:
            return pull
        starting = self.state is WorkerState.STARTING
        return self.process.download if starting and self.process else None

    @property
    def fetched_at(self) -> float:
        """When bytes of its download last arrived; -inf: this process has downloaded nothing."""
        own = self.process.fetched_at if self.process else _NEVER
        return max(own, self._context.pulled_at(self.alias))

    @property
    def idle_timeout_s(self) -> float:
        """Seconds that it stays loaded after its last request; -1: no limit."""
        return self._limits.idle_timeout_s if self._keep_alive_s is None else self._keep_alive_s

    @property
    def worn_out(self) -> str:
        """Why its process must be replaced; "" when it need not be."""
        if self.state is not WorkerState.READY:
            return ""
        growth, limit = self._growth, self._limits.max_requests
        if limit and self.request_count >= limit:
            return f"it has served {self.request_count} requests"
        if growth.outgrown:
            return f"its footprint grew from {growth.baseline:,} to {growth.footprint:,} bytes"
        return ""

    def view(self) -> WorkerView:
        life, limits = self.life, self._limits
        return WorkerView(
            alias=self.alias,
            state=life.state,
            memory=self.memory,
            declared=self.model.memory_bytes,
            leases=life.leases,
            last_used=life.last_used,
            busy_since=life.busy_since,
            ready_at=life.ready_at,
            retry_at=life.retry_at,
            load_failed=life.load_failed,
            pinned=self.model.pinned,
            idle_timeout_s=self.idle_timeout_s,
            admits=limits.max_requests - self.request_count if limits.max_requests else None,
        )

    def report(self, queued: int) -> WorkerReport:
        """Its facts for ``/status`` and ``/metrics``; *queued*: requests that wait for it."""
        return WorkerReport(
            view=self.view(),
            model=self.model,
            process=replace(self.process) if self.process else None,
            learned=self.learned,
            queued=queued,
            request_count=self.request_count,
            phase=self.phase,
            download=self.download,
            last_error=self.last_error,
            work=self.work,
        )

    # --- what the pool decides -------------------------------------------------------------------

    def begin(self, reason: str, given: int = 0) -> None:
        """Start it, at once or as soon as its memory is free.

        *given*: bytes that it must do with because there are no more; 0: its estimate.
        """
        context, limits = self._context, self._limits
        self._fire(Event.START, reason)
        self._drain = Leave.DRAIN
        self.recycling = self.evicted_for = ""
        self.request_count = 0
        self._work_before = Work()
        self._given = given
        self._growth = Growth(limits.growth, limits.growth_after)
        run = WorkerRun(
            LaunchSpec(self.alias, self.model.model_dump_json(), self.model.port, new_nonce()),
            orders=self._orders,
            waker=self._waker,
            worker_log=self.log,
            launcher=context.launcher,
            probe=context.probe,
            clock=context.clock,
            timeouts=context.timeouts,
        )
        self._task = asyncio.create_task(self._run(run), name=f"worker-{self.alias}")

    def stop(self, reason: str, cause: Cause, *, hurry: bool = False) -> None:
        """Stop it after its open requests, which have the drain timeout; *hurry*: at once.

        Has no further effect on a worker that is leaving already, or is not loaded.
        """
        self.recycling = ""
        if self._drain is not Leave.CUT_OFF:
            self._drain = Leave.CUT_OFF if hurry else Leave.DRAIN
        self._stop(reason, cause)

    def recycle(self, reason: str) -> None:
        """Replace its process by a fresh one, after its open requests, however long they take."""
        self.recycling = f"recycled: {reason}"
        if not self.leaving:
            self._drain = Leave.WHEN_IDLE
        self._stop(self.recycling, Cause.RECYCLE)

    def _stop(self, reason: str, cause: Cause) -> None:
        if self.state is WorkerState.READY and self.life.leases:
            self._fire(Event.DRAIN, reason, cause)
        elif self.state in (WorkerState.READY, WorkerState.STARTING):
            self._fire(Event.STOP, reason, cause)
        self._waker.wake()

    def lease(self, keep_alive_s: float | None = None, *, counts: bool = True) -> int:
        """Count a request that begins; pass the returned number to ``release``."""
        self.request_count += counts
        if counts or keep_alive_s is not None:
            self._keep_alive_s = keep_alive_s
        return self.life.lease(self._context.clock())

    def release(self, incarnation: int) -> None:
        self.life.release(incarnation, self._context.clock())
        self._waker.wake()

    def touch(self) -> None:
        """Restart its idle time."""
        self.life.touch(self._context.clock())

    def memory_was_freed(self) -> None:
        """The memory it waits for may be free now."""
        self._waker.wake()

    async def ended(self, incarnation: int) -> None:
        """Returns when process number *incarnation* has been reaped."""
        task = self._task if self.life.incarnation == incarnation else None
        if task is not None and not task.done():
            await asyncio.wait({task})

    # --- one process, from its reservation to its end --------------------------------------------

    def _orders(self) -> Orders:
        leave = Leave.NO
        if self.state is WorkerState.STOPPING:
            leave = Leave.STOP
        elif self.state is WorkerState.DRAINING:
            leave = self._drain
        return Orders(leave, self.life.leases, self.request_count)

    async def _run(self, run: WorkerRun) -> None:
        reason = "stopped before it was launched"
        try:
            if await self._memory_is_free():
                self.process = Process(launched_at=self._context.clock())
                async with aclosing(run.facts()) as facts:
                    async for fact in facts:
                        reason = self._take(fact)
        except Exception:
            log.exception("%s: an internal error of the manager ends this worker", self.alias)
            reason = "internal error of the manager; its log has the details"
            await run.abandon()
        self._reaped(reason)

    async def _memory_is_free(self) -> bool:
        """Wait until the memory reserved for it is free; False: it must leave."""
        context, until = self._context, self._waker.until

        def leaving() -> bool:
            return self.leaving

        while context.fetching(self.alias) is not None and not leaving():
            await until(leaving, _MEMORY_POLL_S)
        deadline = context.clock() + context.timeouts.memory_s
        while not leaving() and not context.has_room(self):
            if context.clock() >= deadline:
                # Other workers have grown into it. Waiting requests get a new plan.
                why = "other workers use the memory reserved for it"
                self._fire(Event.STOP, why, Cause.OVERCOMMIT)
                break
            await until(lambda: leaving() or context.has_room(self), _MEMORY_POLL_S)
        return not leaving()

    def _take(self, fact: Fact) -> str:
        """Act on *fact*; returns why the process ended, "" before that."""
        context, process = self._context, self.process
        assert process is not None
        drawing = process.drawing
        process.record(fact)
        match fact:
            case Loading(moved=True):
                download = self.download
                data = {"alias": self.alias, "phase": self.phase}
                context.publish(
                    "progress", {**data, "download": download.model_dump() if download else None}
                )
            case Ready(health, load_s):
                self.last_error = ""
                self._fire(Event.BECAME_READY, f"pid {process.pid}, {load_s:.2f} s after its launch")
                if health and health.newer_revision:
                    context.outdated(self.alias)
                context.changed(self)
            case Polled(health):
                self.work = self.work.plus(health.work, self._work_before)
                self._work_before = health.work
                if health.drawing != drawing:
                    now = health.drawing or ImageProgress()
                    context.publish("drawing", {"alias": self.alias, **now.model_dump()})
            case Measured(footprint):
                if self.state is not WorkerState.STARTING:
                    self._growth.measured(footprint, self.request_count)
                if self.request_count and process.peak:
                    large = process.served_large_image
                    context.peaks.learn(self._peak_key, process.peak, large=large)
                context.changed(self)
            case Drained(cut_off):
                self._fire(Event.STOP, f"open requests cut off: {cut_off}" if cut_off else "drained")
            case Ended(reason):
                return reason
        return ""

    def _reaped(self, reason: str) -> None:
        self.process = None
        self._given = 0
        event = WHEN_REAPED[self.state]
        if event is Event.EXITED:
            if not self.recycling:  # a replacement keeps the keep_alive of the last request
                self._keep_alive_s = None
            self.last_ending = "it was stopped"
        else:
            self.last_ending = self.last_error = reason
        self._fire(event, reason)
        self._context.changed(self)

    def _fire(self, event: Event, reason: str, cause: Cause | None = None) -> None:
        """*cause*: why it must leave; None: it need not, or the cause was published before."""
        old = self.state
        new = self.life.fire(event, self._context.clock())
        level = logging.WARNING if new is WorkerState.FAILED else logging.INFO
        log.log(level, "%s: %s -> %s: %s", self.alias, old, new, reason)
        data = {"alias": self.alias, "from": old, "to": new, "reason": reason, "cause": cause or ""}
        self._context.publish("transition", data)
