"""Runs once a second: memory pressure, budget, standby workers, sleep prevention, saving peaks.

Rules: it reads and publishes, and decides nothing. ``manager.memory.pressure`` judges the readings, the
pool chooses which workers are unloaded. A failed tick is logged, and the next one runs as usual.
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


class Ticker:
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
        self._published: tuple[int, ...] = ()  # tenths of a GiB

    @property
    def pressure(self) -> Pressure:
        return self._gauge.level

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            try:
                await self.tick()
            except Exception:
                log.exception("internal error in the manager's tick")
            await asyncio.sleep(TICK_S)

    async def tick(self) -> None:
        if self._standbys is not None:
            await self._standbys.measure()
        self.check_pressure()
        self.check_budget()
        self._publish_memory()
        busy = self._pool.busy or self._pulling()
        await asyncio.to_thread(self._act, busy)

    def _act(self, busy: bool) -> None:
        """The part that waits for the disk or a process; runs in a thread."""
        if self._awake is not None:
            self._awake.update(busy, self._clock())
        self._peaks.save()
        if self._budget is not None:
            self._budget.save()

    def check_pressure(self) -> None:
        """Read the memory pressure, publish a change, and unload an idle worker if necessary."""
        before, now = self._gauge.level, self._clock()
        reading = self._read_pressure()
        level = self._gauge.update(reading, now)
        if level is not before:
            log.warning("memory pressure: %s -> %s", before.name.lower(), level.name.lower())
            self._events.publish("pressure", {"level": level.name.lower()})
        self._pool.set_pressure(level)
        if self._relief.due(reading, level, now) and self._pool.relieve():
            self._relief.relieved(now)

    def check_budget(self) -> None:
        """Lower or raise the budget to the GPU limit that Metal reported to a worker."""
        processes = [w.process for w in self._pool.workers.values() if w.process]
        limit = max((process.device.limit for process in processes), default=0)
        if self._budget is not None and self._budget.update(limit):
            log.warning(
                "budget for all workers: %.1f GB (%s)", self._budget.bytes / GIB, self._budget.why
            )
            self._pool.set_budget(self._budget.bytes)

    def _publish_memory(self) -> None:
        """Publish an event when the budget, the charge or a footprint changes by 0.1 GiB."""
        workers = self._pool.workers.values()
        charged = sum(w.charge.bytes for w in workers if w.process)
        footprints = {w.alias: w.charge.footprint for w in workers}
        available = self._read_memory().available
        tenths = tuple(round(10 * b / GIB) for b in (self._pool.budget, charged, *footprints.values()))
        if tenths != self._published:
            self._published = tenths
            self._events.publish(
                "memory",
                {
                    "budget_gb": round(self._pool.budget / GIB, 3),
                    "charged_gb": round(charged / GIB, 3),
                    "available_gb": round(available / GIB, 3),
                    "workers": {alias: round(b / GIB, 3) for alias, b in footprints.items()},
                },
            )
