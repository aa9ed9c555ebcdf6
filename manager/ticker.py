"""Looks after the whole once a second: memory pressure, budget, standbys, sleep, what was learned.

Rules: it reads and tells, and decides nothing: levels are judged by ``manager.memory.pressure``, who
leaves is
chosen by the pool. It holds no state but what readings add up to. A reading that fails is a warning,
not the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from contracts.settings.base import GIB
from manager.awake import Awake
from manager.ceiling import Budget
from manager.events import EventBus
from manager.launcher.standby import Standbys
from manager.memory.peaks import Peaks
from manager.memory.pressure import Pressure, PressureGauge, Relief, ReliefRule, rule_of
from manager.memory.system import MemoryReading
from manager.pool import Pool

log = logging.getLogger(__name__)

TICK_S = 1.0


class Keeper:
    def __init__(
        self,
        pool: Pool,
        *,
        peaks: Peaks,
        events: EventBus,
        clock: Callable[[], float],
        read_pressure: Callable[[], Pressure | None],
        read_memory: Callable[[], MemoryReading],
        standbys: Standbys | None = None,
        relief_rule: ReliefRule | None = None,
        budget: Budget | None = None,
        awake: Awake | None = None,
        pulling: Callable[[], bool] = lambda: False,
    ) -> None:
        self._pool = pool
        self._peaks = peaks
        self._events = events
        self._clock = clock
        self._read_pressure = read_pressure
        self._read_memory = read_memory
        self._standbys = standbys
        self._budget = budget
        self._awake = awake
        self._pulling = pulling
        self._gauge = PressureGauge()
        self._relief = Relief(relief_rule or rule_of())
        self._said: tuple[int, ...] = ()

    @property
    def pressure(self) -> Pressure:
        return self._gauge.level

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.tick()
            except Exception:
                log.exception("a fault while looking after the workers")
            await asyncio.sleep(TICK_S)

    async def tick(self) -> None:
        if self._standbys is not None:
            await self._standbys.measure()
        self.look_at_pressure()
        self.look_at_budget()
        self._tell_memory()
        busy = self._pool.busy or self._pulling()
        await asyncio.to_thread(self._act, busy)

    def _act(self, busy: bool) -> None:
        """What waits for the disk or a process; runs in a thread."""
        if self._awake is not None:
            self._awake.look(busy, self._clock())
        self._peaks.save()
        if self._budget is not None:
            self._budget.save()

    def look_at_pressure(self) -> None:
        """Tell everybody how short of memory the system is; an idle worker leaves when one must."""
        before, now = self._gauge.level, self._clock()
        heard = self._read_pressure()
        level = self._gauge.heard(heard, now)
        if level is not before:
            log.warning("memory pressure: %s -> %s", before.name.lower(), level.name.lower())
            self._events.publish("pressure", {"level": level.name.lower()})
        self._pool.set_pressure(level)
        if self._relief.due(heard, level, now) and self._pool.relieve():
            self._relief.relieved(now)

    def look_at_budget(self) -> None:
        """Metal knows best what the GPU may hold; any worker with a GPU tells."""
        workers = self._pool.workers.values()
        told = max((w.process.device.limit for w in workers if w.process), default=0)
        if self._budget is not None and self._budget.heard(told):
            log.warning(
                "budget for all workers: %.1f GB (%s)", self._budget.bytes / GIB, self._budget.why
            )
            self._pool.set_budget(self._budget.bytes)

    def _tell_memory(self) -> None:
        """One event whenever a worker has grown or shrunk by a tenth of a GiB."""
        workers = self._pool.workers.values()
        charged = sum(w.memory for w in workers if w.charged)
        footprints = {w.alias: w.footprint for w in workers}
        available = self._read_memory().available
        said = tuple(round(10 * b / GIB) for b in (self._pool.budget, charged, *footprints.values()))
        if said != self._said:
            self._said = said
            self._events.publish(
                "memory",
                {
                    "budget_gb": round(self._pool.budget / GIB, 3),
                    "charged_gb": round(charged / GIB, 3),
                    "available_gb": round(available / GIB, 3),
                    "workers": {alias: round(b / GIB, 3) for alias, b in footprints.items()},
                },
            )
