"""All workers and the requests that wait for them: asks the planner, and does what it says.

Rules: ``_dispatch`` is the only place where requests are granted and workers are started or evicted. It
is synchronous and runs whenever something changed: a request came or left, a lease ended, a worker
became ready or was reaped, a deadline passed. So there are no locks, and no request waits for another
model's load. A load belongs to its alias: a client that leaves takes its ticket along, nothing else.
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
from manager import refusal
from manager.housekeeping import (
    idle_deadline,
    idle_too_long,
    least_recently_used,
    memory_is_back,
    overcommitted,
    soonest_idle,
)
from manager.launcher.process import Launcher
from manager.launcher.standby import Standbys
from manager.lease import Lease, Leasing, Ticket
from manager.lifecycle import HOLDS_MEMORY, RUNNING, Cause
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
from manager.readiness import Probe
from manager.worker import Habits, Publish, Surroundings, Worker
from manager.worker_run import Timeouts

log = logging.getLogger(__name__)

_SHORTEST_TIMER_S = 0.001  # timers may fire early by their resolution


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
        self.budget = budget
        self._clock = clock
        self._launcher = launcher
        self._read_memory = read_memory
        self._standbys = standbys
        self._max_wait_s = settings.manager.max_wait_s
        self._pressure = Pressure.NORMAL
        self._freed_at = float("-inf")  # when the memory of a worker was last given back
        self._queue_limit = settings.manager.queue_limit
        self._queue_timeout_s = settings.manager.queue_timeout_s
        self._queue: list[Ticket] = []
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._loads: set[asyncio.Task[None]] = set()  # that no request asked for
        around = Surroundings(
            launcher,
            probe,
            clock,
            timeouts or Timeouts.of(settings),
            peaks or Peaks(None),
            self._has_room,
            self._changed,
            fetching,
            pulled_at,
            outdated,
            publish,
        )
        log_bytes = int(settings.manager.log_max_mb * (1 << 20))
        self.workers = {
            alias: Worker(
                alias,
                model,
                WorkerLog(Path(settings.manager.log_dir) / f"{alias}.log", log_bytes),
                around,
                Habits.of(settings, alias),
            )
            for alias, model in settings.models.items()
        }

    def __repr__(self) -> str:
        states = ", ".join(f"{w.alias} {w.state} {w.life.leases}" for w in self.workers.values())
        return f"<Pool [{states}] queued: {[t.alias for t in self._queue]}>"

    # --- requests --------------------------------------------------------------------------------

    def lease(self, alias: str, keep_alive: float | None = None, *, counts: bool = True) -> Leasing:
        """``async with`` it: a lease on *alias*, loaded first when need be.

        Raises an ``ApiError`` when there is none.

        *keep_alive*: its idle timeout afterwards, in seconds, -1 for none; a later request that names
        none sets the configured one again. *counts*: it is a request, and not only a load.
        """
        return Leasing(lambda: self._granted(self.worker(alias), keep_alive, counts), self._release)

    def worker(self, alias: str) -> Worker:
        worker = self.workers.get(alias)
        if worker is None:
            raise refusal.unknown(alias, list(self.workers))
        return worker

    def queued(self, alias: str) -> int:
        return sum(ticket.alias == alias for ticket in self._queue)

    async def _granted(self, worker: Worker, keep_alive: float | None, counts: bool) -> Lease:
        if self._closing:
            raise refusal.shutting_down()
        alias = worker.alias
        answer: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        ticket = Ticket(alias, self._clock(), answer, keep_alive, counts)
        if not self._queue and worker.state is WorkerState.READY and not worker.worn_out:
            # Nobody is before it, so a look at its worker alone is enough.
            ticket.grant(worker, ticket.asked_at)
            self._replace_worn_out(worker)
            return ticket.answer.result()
        self._queue.append(ticket)
        self._dispatch()
        if ticket.answer.done():
            return ticket.answer.result()
        if self.queued(alias) > self._queue_limit:
            self._give_up(ticket)
            raise refusal.queue_full(alias, self._queue_limit, worker.download)
        if ticket.pressure:
            self._give_up(ticket)
            raise refusal.under_pressure(alias)
        try:
            while not ticket.answer.done() and (left := self._patience(ticket, worker)) > 0:
                await asyncio.wait({ticket.answer}, timeout=left)
        except asyncio.CancelledError:
            self._give_up(ticket)
            raise
        if ticket.answer.done():
            return ticket.answer.result()
        self._give_up(ticket)
        raise refusal.queue_timeout(alias, self._queue_timeout_s, worker.state, worker.download)

    def _patience(self, ticket: Ticket, worker: Worker) -> float:
        """Seconds that *ticket* still waits. While bytes of its model come, its time does not run."""
        return max(ticket.asked_at, worker.fetched_at) + self._queue_timeout_s - self._clock()

    def _give_up(self, ticket: Ticket) -> None:
        if not ticket.answer.done():
            self._queue.remove(ticket)
            ticket.answer.cancel()
            self._dispatch()  # it may have held others back
        elif ticket.answer.exception() is None:  # granted in the very moment in which the client left
            self._release(ticket.answer.result())

    def _release(self, lease: Lease) -> None:
        lease.release()
        worker, now = lease.worker, self._clock()
        deadline = idle_deadline(worker.view()) if worker.state is WorkerState.READY else now
        if self._queue or worker.worn_out or (deadline is not None and deadline <= now):
            self._dispatch()
        else:  # nobody waits for it: it only begins to idle
            self._arm_at(deadline, now)

    @property
    def busy(self) -> bool:
        """A request is open or waits, or a model is being loaded."""
        workers = self.workers.values()
        return bool(self._queue) or any(w.leases or w.state is WorkerState.STARTING for w in workers)

    # --- people ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Load what is to be preloaded."""
        for worker in self.workers.values():
            declared = worker.model.memory_bytes
            if declared > self.budget:
                why = refusal.too_large(worker.alias, declared, self.budget)
                log.warning("%s can't be loaded: %s", worker.alias, why)
            if worker.model.preload:
                self._load(worker.alias, "to be preloaded")
        self._dispatch()

    def _load(self, alias: str, why: str) -> None:
        """Load *alias* though no request asks for it."""

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
        """Stop *alias* once its open requests have ended; False: it was not loaded.

        Requests that wait for the load that is being stopped are told so; later ones start it anew.
        """
        worker = self.worker(alias)
        if worker.state not in HOLDS_MEMORY:
            return False
        incarnation = worker.life.incarnation
        if worker.state is WorkerState.STARTING:
            self._refuse_queued(lambda: refusal.stopped_while_loading(alias), alias)
        worker.stop("asked to", Cause.REQUEST)
        self._dispatch()
        await worker.ended(incarnation)
        return True

    async def stop_all(self) -> list[str]:
        """Stop every worker; returns the aliases of those that were loaded."""
        stopped = await asyncio.gather(*(self.stop(alias) for alias in self.workers))
        return [alias for alias, was_loaded in zip(self.workers, stopped, strict=True) if was_loaded]

    def set_pressure(self, level: Pressure) -> None:
        """How short of memory the system is, from now on."""
        self._pressure = level
        self._dispatch()

    def set_budget(self, budget: int) -> None:
        """All workers together may use *budget* bytes from now on."""
        self.budget = budget
        self._dispatch()

    def relieve(self) -> bool:
        """Stop the idle worker that was used longest ago, so that the system has memory again.

        False: none is idle.
        """
        victim = None if self._closing else least_recently_used(self._views())
        if victim is None:
            return False
        why = f"idle, and the system is short of memory ({self._pressure.name})"
        self.workers[victim].stop(why, Cause.PRESSURE)
        self._dispatch()
        return True

    def touch(self, alias: str) -> bool:
        """Start the idle time of *alias* anew; False: it is not loaded."""
        worker = self.worker(alias)
        if worker.state not in RUNNING:
            return False
        worker.life.touch(self._clock())
        return True

    async def close(self, *, hurry: bool = False) -> None:
        """Grant nothing more, and stop all workers side by side; *hurry*: without draining them."""
        self._closing = True
        self._refuse_queued(refusal.shutting_down)
        if self._timer is not None:
            self._timer.cancel()
        alive = [(w, w.life.incarnation) for w in self.workers.values() if w.state in HOLDS_MEMORY]
        for worker, _ in alive:
            worker.stop("the manager is shutting down", Cause.SHUTDOWN, hurry=hurry)
        await asyncio.gather(*(worker.ended(incarnation) for worker, incarnation in alive))
        await asyncio.gather(*self._loads)
        for worker in self.workers.values():
            worker.log.close()

    # --- dispatch --------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Grant, start, evict and refuse whatever can be now. Never awaits."""
        if self._closing:
            return
        now = self._clock()
        if self._queue:
            waiting = self._queue
            terms = Terms(self.budget, self._max_wait_s, loads=self._pressure < Pressure.CRITICAL)
            line = [Waiting(ticket.alias, ticket.asked_at) for ticket in waiting]
            plans = schedule(line, self._views(), terms, now)
            self._queue = [
                t for t, made in zip(waiting, plans, strict=True) if not self._carry_out(made, t, now)
            ]
        for worker in self.workers.values():
            self._replace_worn_out(worker)
        views = self._views()
        for alias in overcommitted(views, self.budget):
            why = "idle, and others need more memory than they were expected to"
            self.workers[alias].stop(why, Cause.OVERCOMMIT)
        for alias in idle_too_long(views, now):
            self.workers[alias].stop("idle", Cause.IDLE)
        self._arm_at(soonest_idle(views, now), now)
        self._tend_standbys()

    def _carry_out(self, made: Plan, ticket: Ticket, now: float) -> bool:
        """True when *ticket* has got its answer."""
        worker = self.workers[ticket.alias]
        match made:
            case Serve():
                ticket.grant(worker, now)
                return True
            case Refuse():
                error = refusal.refused(
                    made, worker.view(), budget=self.budget, last_error=worker.last_error, now=now
                )
                ticket.answer.set_exception(error)
                return True
            case Start(memory, evict, alone):
                if obstacle := self._launcher.obstacle(worker.model):
                    # Told before anybody has left for it.
                    ticket.answer.set_exception(refusal.cannot_load(ticket.alias, obstacle))
                    return True
                for victim in evict:
                    self.workers[victim].evicted_for = ticket.alias
                    self.workers[victim].stop(f"evicted for {ticket.alias}", Cause.ROOM)
                if alone:
                    log.warning("%s", refusal.alone(ticket.alias, worker.estimate, memory))
                worker.begin("requested", memory if alone else 0)
            case Wait(until=until, pressure=pressure):
                ticket.pressure = pressure
                self._arm_at(until, now)
        return False

    def _replace_worn_out(self, worker: Worker) -> None:
        if why := worker.worn_out:
            worker.recycle(why)

    def _views(self) -> dict[str, WorkerView]:
        return {alias: worker.view() for alias, worker in self.workers.items()}

    def _has_room(self, worker: Worker) -> bool:
        others = sum(w.memory for w in self.workers.values() if w.charged and w is not worker)
        if self._standbys is not None:  # one of them becomes this worker
            others += self._standbys.memory(adopted=1)
        if others + worker.memory > self.budget:
            return False
        freed_ago = self._clock() - self._freed_at
        return memory_is_back(worker.memory, self._read_memory().available, freed_ago)

    def _tend_standbys(self) -> None:
        """As many as fit beside the workers; none is started while a worker loads."""
        if self._standbys is None:
            return
        holding = [w for w in self.workers.values() if w.state in HOLDS_MEMORY]
        spare = self.budget - sum(w.memory for w in holding)
        unborn = sum(w.state is WorkerState.STARTING and not w.charged for w in holding)
        loading = any(w.state is WorkerState.STARTING for w in holding)
        fitting = max(0, spare // self._standbys.memory_each) + unborn
        calm = not loading and self._pressure is Pressure.NORMAL
        self._standbys.limit(fitting, may_start=calm)

    def _changed(self, worker: Worker) -> None:
        if not worker.charged and worker.state not in HOLDS_MEMORY:
            self._freed_at = self._clock()
            for other in self.workers.values():
                if other.state is WorkerState.STARTING:
                    other.memory_was_freed()
            if worker.recycling:
                worker.recycling = ""
                self._load(worker.alias, "recycled")
            elif worker.life.load_failed:
                # Those that left for a model that never came.
                for other in self.workers.values():
                    gone = other.evicted_for == worker.alias and other.state is WorkerState.STOPPED
                    if gone and other.model.preload:
                        self._load(other.alias, f"{worker.alias} could not be loaded")
            elif worker.crashed and (worker.model.preload or worker.model.pinned):
                self._load(worker.alias, "crashed")
        self._dispatch()

    def _arm_at(self, deadline: float | None, now: float) -> None:
        """See that _dispatch runs at *deadline*; one timer is enough, as it arms the next one."""
        if deadline is None:
            return
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = asyncio.get_running_loop().call_later(
            max(_SHORTEST_TIMER_S, deadline - now), self._on_timer
        )

    def _on_timer(self) -> None:
        self._timer = None
        self._dispatch()

    def _refuse_queued(self, make: Callable[[], ApiError], alias: str | None = None) -> None:
        """Answer the tickets of *alias*, or all, with an error of their own each."""
        for ticket in self._queue:
            if alias in (None, ticket.alias):
                ticket.answer.set_exception(make())
        self._queue = [t for t in self._queue if not t.answer.done()]
