"""Looks after the whole once a second: memory pressure, standby workers, what was learned.

Rules: it reads and tells, and decides nothing: levels are judged by ``manager.memory.pressure``, who
leaves is
chosen by the pool. It holds no state but the gauge. A reading that fails is a warning, not the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from contracts.settings.base import GIB
from manager.events import EventBus
from manager.launcher.standby import Standbys
from manager.memory.peaks import Peaks
from manager.memory.pressure import Pressure, PressureGauge
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
    ) -> None:
        self._pool = pool
        self._peaks = peaks
        self._events = events
        self._clock = clock
        self._read_pressure = read_pressure
        self._read_memory = read_memory
        self._standbys = standbys
        self._gauge = PressureGauge()
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
        before = self._gauge.level
        level = self._gauge.heard(self._read_pressure(), self._clock())
        if level is not before:
            log.warning("memory pressure: %s -> %s", before.name.lower(), level.name.lower())
            self._events.publish("pressure", {"level": level.name.lower()})
        if self._standbys is not None:
            await self._standbys.measure()
        self._pool.set_pressure(level)
        self._tell_memory()
        await asyncio.to_thread(self._peaks.save)

    def _tell_memory(self) -> None:
        """One event whenever a worker has grown or shrunk by a tenth of a GiB."""
        workers = self._pool.workers.values()
        charged = sum(w.memory for w in workers if w.charged)
        footprints = {w.alias: w.footprint for w in workers}
        available = self._read_memory().available
        said = tuple(round(10 * b / GIB) for b in (charged, *footprints.values()))
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
