"""What is left of the memory budget: for a launch, and for standby workers. In bytes.

Rules: it decides nothing and stops nothing; the pool asks. The budget counts charges. Memory that
other programs use only delays a launch, see ``memory_is_free``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from contracts.control import WorkerState
from manager.launcher.standby import Standbys
from manager.lifecycle import HOLDS_MEMORY
from manager.memory.system import MemoryReading
from manager.worker import Worker

SETTLE_S = 10.0  # how long memory may take to be available after a process has ended


class Headroom:
    def __init__(
        self,
        budget: int,
        workers: Mapping[str, Worker],
        *,
        standbys: Standbys | None,
        read_memory: Callable[[], MemoryReading],
        clock: Callable[[], float],
    ) -> None:
        self.budget = budget
        self._workers = workers
        self._standbys = standbys
        self._read_memory = read_memory
        self._clock = clock
        self._freed_at = float("-inf")  # when a process last ended

    def __repr__(self) -> str:
        return f"<Headroom {self._left()} of {self.budget}>"

    def process_ended(self) -> None:
        self._freed_at = self._clock()

    def allows_launch(self, worker: Worker) -> bool:
        """Whether the memory of *worker* is free now."""
        needed = worker.charge.bytes
        others = sum(w.charge.bytes for w in self._workers.values() if w.process and w is not worker)
        if self._standbys is not None:  # one of them will become this worker
            others += self._standbys.memory(adopted=1)
        if others + needed > self.budget:
            return False
        freed_ago = self._clock() - self._freed_at
        return memory_is_free(needed, self._read_memory().available, freed_ago)

    def limit_standbys(self, *, calm: bool) -> None:
        """Keep as many standby workers as fit; start none while a worker loads, or without *calm*."""
        if self._standbys is None:
            return
        loading = [w for w in self._workers.values() if w.state is WorkerState.STARTING]
        unlaunched = sum(w.process is None for w in loading)  # each of them adopts one
        fitting = max(0, self._left()) // self._standbys.memory_each + unlaunched
        self._standbys.limit(fitting, may_start=calm and not loading)

    def _left(self) -> int:
        holding = (w for w in self._workers.values() if w.state in HOLDS_MEMORY)
        return self.budget - sum(w.charge.bytes for w in holding)


def memory_is_free(needed: int, available: int, freed_ago_s: float) -> bool:
    """Whether the system has *needed* bytes available, so that a load may begin.

    The memory of an ended process is not always available at once (on macOS, wired GPU pages lag), so a
    load waits for it, up to ``SETTLE_S``. After that, other programs use it, which the budget ignores.
    """
    return available >= needed or freed_ago_s >= SETTLE_S
