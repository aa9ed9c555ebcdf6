"""One alias: its lifecycle, and its process while it has one.

Rules: state changes only through ``Lifecycle``, each with one log line and one event. The pool's
decisions (``begin``, ``stop``, ``recycle``) take effect at once and synchronously. The facts of a
process are consumed in one place, ``_take``, and the pool is notified of each change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from contracts.control import Download, ImageProgress, Work, WorkerState
from contracts.settings.models import ImageSettings, VlmSettings
from manager.launcher.process import Address, Handle, Launcher, LaunchSpec
from manager.lifecycle import WHEN_REAPED, Cause, Event, Lifecycle
from manager.lifetime import Lifetime, LifetimeLimits
from manager.load_progress import NEVER, LoadProgress
from manager.logs import WorkerLog
from manager.memory.charge import Charge
from manager.memory.peaks import Peaks, peak_key
from manager.planner import WorkerView
from manager.readiness import Probe
from manager.status import WorkerReport
from manager.worker_facts import Drained, Ended, Fact, Loading, Measured, Polled, Process, Ready
from manager.worker_run import Leave, Orders, Timeouts, Waker, WorkerRun, new_nonce

log = logging.getLogger(__name__)

Publish = Callable[[str, dict[str, Any]], None]
_MEMORY_POLL_S = 0.1  # while the memory reserved for it is not free


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
    pulled_at: Callable[[str], float] = lambda alias: NEVER  # when the pull last progressed
    outdated: Callable[[str], None] = lambda alias: None  # the Hub has newer files than it loaded
    publish: Publish = lambda kind, data: None


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
        self.lifetime = Lifetime(limits)
        self.recycling = ""  # why a fresh process will replace it
        self.evicted_for = ""  # the alias for which its last process was evicted
        self.last_error = ""  # why it failed last; "" once it is ready again
        self.last_ending = ""
        self.work = Work()  # of all its processes
        self._work_before = Work()  # of this process, at the last poll
        self._context = context
        self._load = LoadProgress(alias, context.fetching, context.pulled_at)
        self._peak_key = peak_key(model)
        self._given = 0  # see ``Charge``
        self._drain = Leave.DRAIN  # how it drains
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
    def launched_at(self) -> float:
        return self.process.launched_at if self.process else 0.0

    @property
    def charge(self) -> Charge:
        learned = self._context.peaks.get(self._peak_key)
        declared, process = self.model.memory_bytes, self.process
        if process is None:
            return Charge(declared, learned, self._given)
        return Charge(declared, learned, self._given, process.footprint, process.peak)

    @property
    def phase(self) -> str:
        """The phase of its load; "" when it is not loading."""
        return self._load.phase(self.process) if self.state is WorkerState.STARTING else ""

    @property
    def download(self) -> Download | None:
        """Progress of the download of its files, while there is one."""
        return self._load.download(self.process if self.state is WorkerState.STARTING else None)

    @property
    def fetched_at(self) -> float:
        """When bytes of its download last arrived; -inf: never."""
        return self._load.fetched_at(self.process)

    @property
    def worn_out(self) -> str:
        """Why its process must be replaced; "" when it need not be."""
        return self.lifetime.worn_out if self.state is WorkerState.READY else ""

    def view(self) -> WorkerView:
        life = self.life
        return WorkerView(
            alias=self.alias,
            state=life.state,
            charge=self.charge.bytes,
            declared=self.model.memory_bytes,
            leases=life.leases,
            last_used=life.last_used,
            busy_since=life.busy_since,
            ready_at=life.ready_at,
            retry_at=life.retry_at,
            load_failed=life.load_failed,
            pinned=self.model.pinned,
            idle_timeout_s=self.lifetime.idle_timeout_s,
            admits=self.lifetime.admits,
        )

    def report(self, queued: int) -> WorkerReport:
        """Its facts for ``/status`` and ``/metrics``; *queued*: requests that wait for it."""
        return WorkerReport(
            view=self.view(),
            model=self.model,
            process=replace(self.process) if self.process else None,
            learned=self.charge.learned,
            queued=queued,
            request_count=self.lifetime.requests,
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
        context = self._context
        self._fire(Event.START, reason)
        self._drain = Leave.DRAIN
        self.recycling = self.evicted_for = ""
        self.lifetime.begin()
        self._work_before = Work()
        self._given = given
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
        self.lifetime.lease(keep_alive_s, counts=counts)
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
        return Orders(leave, self.life.leases, self.lifetime.requests)

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

        while self._load.pull is not None and not leaving():
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
                    self.lifetime.measured(footprint)
                if self.lifetime.requests and process.peak:
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
                self.lifetime.stopped()
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
