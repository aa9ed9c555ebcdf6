"""All workers and the queue of requests: asks the planner, and carries out its plans.

Rules: ``_dispatch`` is the only place where requests are granted and workers are started or evicted. It
is synchronous and runs after every change: a request arrived or left, a lease ended, a worker became
ready or was reaped, a deadline passed. So there are no locks, and no request waits for another model's
load. A load belongs to its alias: when a client leaves, only its ticket is removed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from contracts.control import Download, WorkerState
from contracts.errors import ApiError
from contracts.settings import Settings
from manager import refusal, reloading
from manager.headroom import Headroom
from manager.idle_unload import (
    idle_deadline,
    idle_too_long,
    least_recently_used,
    next_idle_deadline,
    overcommitted,
)
from manager.launcher.process import Launcher
from manager.launcher.standby import Standbys
from manager.lease import Lease, Leasing, Ticket
from manager.lifecycle import HOLDS_MEMORY, RUNNING, Cause
from manager.lifetime import LifetimeLimits
from manager.logs import WorkerLog
from manager.memory import system
from manager.memory.peaks import Peaks
from manager.memory.pressure import Pressure
from manager.memory.system import MemoryReading
from manager.planner import (
    Plan,
    Refuse,
    Serve,
    Start,
    Terms,
    Wait,
    Waiting,
    WorkerView,
    schedule,
)
from manager.queue import Queue
from manager.readiness import Probe
from manager.replan_timer import ReplanTimer
from manager.worker import Publish, Worker, WorkerContext
from manager.worker_run import Timeouts

log = logging.getLogger(__name__)


class Pool:
    """The workers of *settings* under a memory budget of *budget* bytes."""

    def __init__(
        self,
        settings: Settings,
        launcher: Launcher,
        probe: Probe,
        *,
        budget: int,
        clock: Callable[[], float] = time.monotonic,
        timeouts: Timeouts | None = None,
        peaks: Peaks | None = None,
        read_memory: Callable[[], MemoryReading] = system.read,
        standbys: Standbys | None = None,
        fetching: Callable[[str], Download | None] = lambda alias: None,
        pulled_at: Callable[[str], float] = lambda alias: float("-inf"),
        outdated: Callable[[str], None] = lambda alias: None,
        publish: Publish = lambda kind, data: None,
    ) -> None:
        self._clock = clock
        self._launcher = launcher
        self._max_wait_s = settings.manager.max_wait_s
        self._pressure = Pressure.NORMAL
        manager = settings.manager
        self._queue = Queue(manager.queue_limit, manager.queue_timeout_s, clock)
        self._closing = False
        self._replan_timer = ReplanTimer(clock, self._dispatch)
        self._loads: set[asyncio.Task[None]] = set()  # without a request
        context = WorkerContext(
            launcher=launcher,
            probe=probe,
            clock=clock,
            timeouts=timeouts or Timeouts.of(settings),
            peaks=peaks or Peaks(None),
            has_room=lambda worker: self._headroom.allows_launch(worker),
            changed=self._changed,
            fetching=fetching,
            pulled_at=pulled_at,
            outdated=outdated,
            publish=publish,
        )
        log_bytes = int(settings.manager.log_max_mb * (1 << 20))
        self.workers = {
            alias: Worker(
                alias,
                model,
                worker_log=WorkerLog(Path(settings.manager.log_dir) / f"{alias}.log", log_bytes),
                context=context,
                limits=LifetimeLimits.of(settings, alias),
            )
            for alias, model in settings.models.items()
        }
        self._headroom = Headroom(
            budget, self.workers, standbys=standbys, read_memory=read_memory, clock=clock
        )

    def __repr__(self) -> str:
        states = ", ".join(f"{w.alias} {w.state} {w.life.leases}" for w in self.workers.values())
        return f"<Pool [{states}] queued: {[t.alias for t in self._queue]}>"

    # --- requests --------------------------------------------------------------------------------

    def lease(self, alias: str, keep_alive: float | None = None, *, counts: bool = True) -> Leasing:
        """A context manager: a lease on *alias*, which is loaded first if necessary.

        Raises an ``ApiError`` when it cannot be granted. *keep_alive*: the idle timeout from now on, in
        seconds, -1 for none; a later request without one restores the configured timeout. *counts*: it
        is a request and not only a load.
        """
        return Leasing(self._granted(alias, keep_alive, counts), self._release)

    def worker(self, alias: str) -> Worker:
        worker = self.workers.get(alias)
        if worker is None:
            raise refusal.unknown(alias, list(self.workers))
        return worker

    def queued(self, alias: str) -> int:
        return self._queue.waiting_for(alias)

    async def _granted(self, alias: str, keep_alive: float | None, counts: bool) -> Lease:
        worker = self.worker(alias)
        if self._closing:
            raise refusal.shutting_down()
        result: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        ticket = Ticket(alias, self._clock(), result, keep_alive, counts)
        if not self._queue and worker.state is WorkerState.READY and not worker.worn_out:
            # No request is before it, so only its worker matters.
            ticket.grant(worker, ticket.asked_at)
            if why := worker.worn_out:
                worker.recycle(why)
            return ticket.result.result()
        self._queue.append(ticket)
        self._dispatch()
        if ticket.result.done():
            return ticket.result.result()
        if self._queue.is_full(alias):
            self._give_up(ticket)
            raise refusal.queue_full(alias, self._queue.limit, worker.download)
        if ticket.pressure:
            self._give_up(ticket)
            raise refusal.under_pressure(alias)
        try:
            in_time = await self._queue.wait(ticket, lambda: worker.fetched_at)
        except asyncio.CancelledError:
            self._give_up(ticket)
            raise
        if in_time:
            return ticket.result.result()
        self._give_up(ticket)
        raise refusal.queue_timeout(alias, self._queue.timeout_s, worker.state, worker.download)

    def _give_up(self, ticket: Ticket) -> None:
        if not ticket.result.done():
            self._queue.remove(ticket)
            ticket.result.cancel()
            self._dispatch()  # it may have blocked later requests
        elif ticket.result.exception() is None:  # granted just as the client left
            self._release(ticket.result.result())

    def _release(self, lease: Lease) -> None:
        lease.release()
        worker, now = lease.worker, self._clock()
        deadline = idle_deadline(worker.view()) if worker.state is WorkerState.READY else now
        if self._queue or worker.worn_out or (deadline is not None and deadline <= now):
            self._dispatch()
        else:  # no request waits for it: it becomes idle
            self._replan_timer.arm(deadline)

    @property
    def budget(self) -> int:
        """Bytes for all workers."""
        return self._headroom.budget

    @property
    def busy(self) -> bool:
        """A request is open or waiting, or a model is loading."""
        workers = self.workers.values()
        return len(self._queue) > 0 or any(w.leases or w.state is WorkerState.STARTING for w in workers)

    # --- operators -------------------------------------------------------------------------------

    def start(self) -> None:
        """Load the models with ``preload``."""
        for worker in self.workers.values():
            declared = worker.model.memory_bytes
            if declared > self.budget:
                why = refusal.too_large(worker.alias, declared, self.budget)
                log.warning("%s cannot be loaded: %s", worker.alias, why)
        for alias, why in reloading.at_start(self.workers.values()):
            self._load(alias, why)
        self._dispatch()

    def _load(self, alias: str, why: str) -> None:
        """Load *alias* without a request."""

        async def load() -> None:
            try:
                async with self.lease(alias, counts=False):
                    pass
            except ApiError as exc:
                log.warning("%s is not loaded (%s): %s", alias, why, exc.message)

        task = asyncio.create_task(load(), name=f"load-{alias}")
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    async def stop(self, alias: str) -> bool:
        """Stop *alias* after its open requests; False: it was not loaded.

        Requests that wait for its load get an error; later requests load it again.
        """
        worker = self.worker(alias)
        if worker.state not in HOLDS_MEMORY:
            return False
        incarnation = worker.life.incarnation
        if worker.state is WorkerState.STARTING:
            self._queue.refuse(lambda: refusal.stopped_while_loading(alias), alias)
        worker.stop("requested", Cause.REQUEST)
        self._dispatch()
        await worker.ended(incarnation)
        return True

    async def stop_all(self) -> list[str]:
        """Stop every worker; returns the aliases of those that were loaded."""
        stopped = await asyncio.gather(*(self.stop(alias) for alias in self.workers))
        return [alias for alias, was_loaded in zip(self.workers, stopped, strict=True) if was_loaded]

    def set_pressure(self, level: Pressure) -> None:
        """Set the memory pressure that applies from now on."""
        self._pressure = level
        self._dispatch()

    def set_budget(self, budget: int) -> None:
        """Set the budget in bytes that applies from now on."""
        self._headroom.budget = budget
        self._dispatch()

    def relieve(self) -> bool:
        """Stop the least recently used idle worker because of memory pressure; False: none is idle."""
        victim = None if self._closing else least_recently_used(self._views())
        if victim is None:
            return False
        why = f"idle, and the system is short of memory ({self._pressure.name})"
        self.workers[victim].stop(why, Cause.PRESSURE)
        self._dispatch()
        return True

    def touch(self, alias: str) -> bool:
        """Restart the idle time of *alias*; False: it is not loaded."""
        worker = self.worker(alias)
        if worker.state not in RUNNING:
            return False
        worker.touch()
        return True

    async def close(self, *, hurry: bool = False) -> None:
        """Grant no more leases, and stop all workers concurrently; *hurry*: without draining them."""
        self._closing = True
        self._queue.refuse(refusal.shutting_down)
        self._replan_timer.cancel()
        alive = [(w, w.life.incarnation) for w in self.workers.values() if w.state in HOLDS_MEMORY]
        for worker, _ in alive:
            worker.stop("the manager is shutting down", Cause.SHUTDOWN, hurry=hurry)
        await asyncio.gather(*(worker.ended(incarnation) for worker, incarnation in alive))
        await asyncio.gather(*self._loads)
        for worker in self.workers.values():
            worker.log.close()

    # --- dispatch --------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Grant, start, evict and refuse everything that is possible now. Never awaits."""
        if self._closing:
            return
        now = self._clock()
        if self._queue:
            waiting = list(self._queue)
            terms = Terms(self.budget, self._max_wait_s, loads=self._pressure < Pressure.CRITICAL)
            line = [Waiting(ticket.alias, ticket.asked_at) for ticket in waiting]
            plans = schedule(line, self._views(), terms, now)
            for ticket, made in zip(waiting, plans, strict=True):
                self._carry_out(made, ticket, now)
            self._queue.drop_done()
        for worker in self.workers.values():
            if why := worker.worn_out:
                worker.recycle(why)
        views = self._views()
        for alias in overcommitted(views, self.budget):
            why = "idle, and other workers outgrew their estimates"
            self.workers[alias].stop(why, Cause.OVERCOMMIT)
        for alias in idle_too_long(views, now):
            self.workers[alias].stop("idle", Cause.IDLE)
        self._replan_timer.arm(next_idle_deadline(views, now))
        self._headroom.limit_standbys(calm=self._pressure is Pressure.NORMAL)

    def _carry_out(self, made: Plan, ticket: Ticket, now: float) -> None:
        worker = self.workers[ticket.alias]
        match made:
            case Serve():
                ticket.grant(worker, now)
            case Refuse():
                error = refusal.refused(
                    made, worker.view(), budget=self.budget, last_error=worker.last_error, now=now
                )
                ticket.result.set_exception(error)
            case Start(memory, evict, alone):
                if obstacle := self._launcher.obstacle(worker.model):
                    # Refuse before anything is evicted for it.
                    ticket.result.set_exception(refusal.cannot_load(ticket.alias, obstacle))
                    return
                for victim in evict:
                    self.workers[victim].evicted_for = ticket.alias
                    self.workers[victim].stop(f"evicted for {ticket.alias}", Cause.ROOM)
                if alone:
                    log.warning("%s", refusal.alone(ticket.alias, worker.charge.estimate, memory))
                worker.begin("requested", memory if alone else 0)
            case Wait(until=until, pressure=pressure):
                ticket.pressure = pressure
                self._replan_timer.arm(until)

    def _views(self) -> dict[str, WorkerView]:
        return {alias: worker.view() for alias, worker in self.workers.items()}

    def _changed(self, worker: Worker) -> None:
        if worker.process is None and worker.state not in HOLDS_MEMORY:
            self._headroom.process_ended()
            for other in self.workers.values():
                if other.state is WorkerState.STARTING:
                    other.memory_was_freed()
            for alias, why in reloading.after_end(worker, self.workers.values()):
                self._load(alias, why)
            worker.recycling = ""
        self._dispatch()
