"""One alias: its life, what is known of its memory, and its process when it has one.

Rules: state changes only through ``Lifecycle``, each with one log line and one event. What the pool
decides (``begin``, ``stop``) takes effect at once and synchronously; what a process does becomes a fact
here (``manager.worker_run`` tells it) and is told to the pool.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from contracts.control import Caches, Download, Drawing, Phase, Work, WorkerState
from contracts.settings import Settings
from contracts.settings.models import ImageSettings, VlmSettings
from manager.launcher.process import Address, Handle, Launcher, LaunchSpec
from manager.lifecycle import WHEN_REAPED, Cause, Event, Lifecycle
from manager.logs import WorkerLog
from manager.memory.peaks import Peak, Peaks, peak_key
from manager.planner import WorkerView
from manager.readiness import Probe
from manager.watchdog import Growth
from manager.worker_run import Incarnation, Timeouts, new_nonce

log = logging.getLogger(__name__)

Publish = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker needs from outside, all of it replaceable in tests.

    ``has_room`` says whether the memory of a worker is free now; ``changed`` is told every fact.
    """

    launcher: Launcher
    probe: Probe
    clock: Callable[[], float]
    timeouts: Timeouts
    peaks: Peaks
    has_room: Callable[[Worker], bool]
    changed: Callable[[Worker], None]
    fetching: Callable[[str], Download | None] = lambda alias: None  # how far a pull of it is
    pulled_at: Callable[[str], float] = lambda alias: float("-inf")  # when it last moved
    outdated: Callable[[str], None] = lambda alias: None  # the Hub has newer files than it loaded
    publish: Publish = lambda kind, data: None


@dataclass(frozen=True, slots=True)
class Habits:
    """The settings that say when a worker leaves by itself. Seconds; -1: never."""

    idle_timeout_s: float
    max_requests: int = 0  # 0: any number
    growth: float = 0.0  # a share; 0: any growth
    growth_after: int = 1  # requests

    @classmethod
    def of(cls, settings: Settings, alias: str) -> Habits:
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
        worker_log: WorkerLog,
        around: Surroundings,
        habits: Habits,
    ) -> None:
        self.alias = alias
        self.model = model
        self.log = worker_log
        self.life = Lifecycle()
        self.process: Incarnation | None = None
        self.request_count = 0  # of this incarnation
        self.recycling = ""  # why it is to be replaced by a fresh process
        self.patient = False  # its drain waits for its requests, however long they take
        self.hurried = False  # its drain waits for nobody
        self.evicted_for = ""  # the alias that its last process had to leave for
        self.last_error = ""  # why it failed last; "" once it is ready again
        self.last_ending = ""
        self._around = around
        self._peak_key = peak_key(model)
        self._habits = habits
        self._keep_alive_s: float | None = None  # asked for by the request that was granted last
        self.work = Work()  # of all its processes
        self._work_before = Work()  # what this process had told when it was asked last
        self._given = 0  # bytes, less than the estimate, when it runs alone
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        pid = self.handle.pid if self.handle else None
        return f"<Worker {self.alias} {self.life.state} leases={self.life.leases} pid={pid}>"

    # --- what is known of it ---------------------------------------------------------------------

    @property
    def state(self) -> WorkerState:
        return self.life.state

    @property
    def leases(self) -> int:
        return self.life.leases

    @property
    def handle(self) -> Handle | None:
        return self.process.handle if self.process else None

    @property
    def address(self) -> Address:
        assert self.handle is not None
        return self.handle.address

    @property
    def crashed(self) -> bool:
        """It ended by itself after it had been ready."""
        return self.state is WorkerState.FAILED and not self.life.load_failed

    @property
    def charged(self) -> bool:
        """A process of it may hold memory."""
        return self.process is not None and self.process.charged

    @property
    def launched_at(self) -> float:
        return self.process.launched_at if self.process else 0.0

    @property
    def learned(self) -> Peak | None:
        """The most that an earlier (or this) process of the same model was seen to need."""
        return self._around.peaks.get(self._peak_key)

    @property
    def estimate(self) -> int:
        """Bytes that it is expected to need.

        A learned peak takes the place of ``memory_gb`` once it includes a large picture. Until then it
        can only raise the estimate: a short text needs far less than the next picture will.
        """
        declared, learned = self.model.memory_bytes, self.learned
        if learned is None:
            return declared
        return learned.bytes if learned.large else max(declared, learned.bytes)

    @property
    def footprint(self) -> int:
        """Bytes, when last measured; 0 when there is nothing to measure."""
        return self.process.footprint if self.process else 0

    @property
    def peak(self) -> int:
        """Bytes; the most that this process was seen to need."""
        return self.process.peak if self.process else 0

    @property
    def memory(self) -> int:
        """Bytes that it is charged while it holds memory, or would be."""
        return max(self._given or self.estimate, self.footprint, self.peak)

    @property
    def phase(self) -> str:
        """What it is doing on its way to ready; "" otherwise."""
        if self.state is not WorkerState.STARTING:
            return ""
        pull = self._around.fetching(self.alias)
        if pull is not None:
            whole = 0 < pull.total_bytes <= pull.done_bytes
            return Phase.VERIFYING if whole else Phase.DOWNLOADING
        if not self.charged:
            return "waiting for memory"
        readiness = self.process.readiness if self.process else None
        return str(readiness) if readiness else "starting"

    @property
    def download(self) -> Download | None:
        """How far the download of its files is, while there is one."""
        pull = self._around.fetching(self.alias)
        if pull is not None:
            return pull
        starting = self.state is WorkerState.STARTING and self.process is not None
        return self.process.download if starting and self.process else None

    @property
    def fetched_at(self) -> float:
        """When bytes of its download last came; -inf: there is, and was, none for this process."""
        readiness = self.process.readiness if self.process else None
        own = readiness.fetched_at if readiness else float("-inf")
        return max(own, self._around.pulled_at(self.alias))

    @property
    def revision(self) -> str:
        """The commit of the Hub that it loaded; "": a folder, or it is not loaded."""
        readiness = self.process.readiness if self.process else None
        health = readiness.health if readiness else None
        return health.revision if health else ""

    @property
    def drawing(self) -> Drawing | None:
        """What it draws, when last asked; None: nothing."""
        return self.process.drawing if self.process else None

    @property
    def caches(self) -> Caches:
        return self.process.caches if self.process else Caches()

    @property
    def idle_timeout_s(self) -> float:
        """Seconds that it stays after its last request; -1: it has no end."""
        return self._habits.idle_timeout_s if self._keep_alive_s is None else self._keep_alive_s

    def view(self) -> WorkerView:
        life, habits = self.life, self._habits
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
            admits=habits.max_requests - self.request_count if habits.max_requests else None,
        )

    # --- what the pool decides -------------------------------------------------------------------

    def begin(self, reason: str, given: int = 0) -> None:
        """Start it, at once or as soon as its memory is free.

        *given*: bytes that it must do with, as there are no more; 0: what it is expected to need.
        """
        around, habits = self._around, self._habits
        self._fire(Event.START, reason)
        self.patient = self.hurried = False
        self.recycling = self.evicted_for = ""
        self.request_count = 0
        self._work_before = Work()
        self._given = given
        self.process = Incarnation(
            self,
            LaunchSpec(self.alias, self.model.model_dump_json(), self.model.port, new_nonce()),
            around.launcher,
            around.probe,
            around.clock,
            around.timeouts,
            Growth(habits.growth, habits.growth_after),
        )
        self._task = asyncio.create_task(self._run(self.process), name=f"worker-{self.alias}")

    def stop(self, reason: str, cause: Cause, *, hurry: bool = False, patient: bool = False) -> None:
        """Stop it, after its open requests have ended; *hurry*: without waiting for them.

        *patient*: they may take as long as they need (else as long as a drain may last), and it is
        started anew afterwards. Does nothing more when it is on its way out already, or not there.
        """
        self.hurried = self.hurried or hurry
        self.patient = patient and (self.patient or not self.leaving)
        self.recycling = reason if patient else ""
        if self.state is WorkerState.READY and self.life.leases:
            self._fire(Event.DRAIN, reason, cause)
        elif self.state in (WorkerState.READY, WorkerState.STARTING):
            self._fire(Event.STOP, reason, cause)
        self._wake()

    def recycle(self, reason: str) -> None:
        """Replace its process by a fresh one, when its requests have ended."""
        self.stop(f"recycled: {reason}", Cause.RECYCLE, patient=True)

    def lease(self, keep_alive_s: float | None = None, *, counts: bool = True) -> int:
        """A request for it begins; give the returned number to release()."""
        self.request_count += counts
        if counts or keep_alive_s is not None:
            self._keep_alive_s = keep_alive_s
        return self.life.lease(self._around.clock())

    def keep_alive(self, seconds: float | None) -> None:
        """Its idle timeout from now on; None: the configured one."""
        self._keep_alive_s = seconds

    def release(self, incarnation: int) -> None:
        self.life.release(incarnation, self._around.clock())
        self._wake()

    def memory_was_freed(self) -> None:
        self._wake()

    async def ended(self, incarnation: int) -> None:
        """Returns when process number *incarnation* has been reaped."""
        task = self._task if self.life.incarnation == incarnation else None
        if task is not None and not task.done():
            await asyncio.wait({task})

    @property
    def worn_out(self) -> str:
        """Why its process should be replaced; "" when it should not."""
        if self.state is not WorkerState.READY or self.process is None:
            return ""
        growth, limit = self.process.growth, self._habits.max_requests
        if limit and self.request_count >= limit:
            return f"it has served {self.request_count} requests"
        if growth.outgrown:
            return f"its footprint grew from {growth.baseline:,} to {growth.footprint:,} bytes"
        return ""

    # --- what its process tells (incarnation.Owner) ----------------------------------------------

    @property
    def leaving(self) -> bool:
        return self.state in (WorkerState.DRAINING, WorkerState.STOPPING)

    @property
    def draining(self) -> bool:
        return self.state is WorkerState.DRAINING

    def fetching(self) -> bool:
        return self._around.fetching(self.alias) is not None

    def has_room(self) -> bool:
        return self._around.has_room(self)

    def became_ready(self, reason: str) -> None:
        self.last_error = ""
        self._fire(Event.BECAME_READY, reason)
        readiness = self.process.readiness if self.process else None
        if readiness and readiness.health and readiness.health.newer_revision:
            self._around.outdated(self.alias)
        self._around.changed(self)

    def drained(self, reason: str) -> None:
        self._fire(Event.STOP, reason)

    def lost_its_room(self) -> None:
        why = "the memory that it was promised is used by others"
        self._fire(Event.STOP, why, Cause.OVERCOMMIT)

    def progressed(self) -> None:
        download = self.download
        data = {"alias": self.alias, "phase": self.phase}
        self._around.publish(
            "progress", {**data, "download": download.model_dump() if download else None}
        )

    def measured(self) -> None:
        if self.request_count and self.peak:
            large = self.process is not None and self.process.large
            self._around.peaks.learn(self._peak_key, self.peak, large=large)
        self._around.changed(self)

    def drew(self) -> None:
        drawing = self.drawing or Drawing()
        self._around.publish("drawing", {"alias": self.alias, **drawing.model_dump()})

    def worked(self, work: Work) -> None:
        self.work = self.work.plus(work, self._work_before)
        self._work_before = work

    # --- what becomes of it ----------------------------------------------------------------------

    async def _run(self, process: Incarnation) -> None:
        try:
            reason = await process.live()
        except Exception:
            log.exception("%s: a fault of the manager ends this worker", self.alias)
            reason = "internal error of the manager; its log has the details"
            await process.abandon()
        self.process = None
        self._given = 0
        event = WHEN_REAPED[self.state]
        if event is Event.EXITED:
            if not self.recycling:  # what a client asked for outlives a replacement
                self._keep_alive_s = None
            self.last_ending = "it was stopped"
        else:
            self.last_ending = self.last_error = reason
        self._fire(event, reason)
        self._around.changed(self)

    def _wake(self) -> None:
        if self.process is not None:
            self.process.wake.set()

    def _fire(self, event: Event, reason: str, cause: Cause | None = None) -> None:
        """*cause*: why it is told to leave; None: it is not, or was before."""
        old = self.state
        new = self.life.fire(event, self._around.clock())
        level = logging.WARNING if new is WorkerState.FAILED else logging.INFO
        log.log(level, "%s: %s -> %s: %s", self.alias, old, new, reason)
        told = {"alias": self.alias, "from": old, "to": new, "reason": reason, "cause": cause or ""}
        self._around.publish("transition", told)
