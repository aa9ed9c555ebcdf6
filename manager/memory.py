"""Readings of the system's memory. Never policy: what a reading means is decided elsewhere."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Bytes. ``available`` is what can be had without swapping; the rest of ``total`` is ``used``."""

    total: int
    available: int

    @property
    def used(self) -> int:
        return self.total - self.available

    @property
    def used_percent(self) -> float:
        return 100.0 * self.used / self.total if self.total else 0.0


def read() -> MemoryReading:
    memory = psutil.virtual_memory()
    return MemoryReading(total=memory.total, available=memory.available)
