"""The charge: the memory counted against the budget for one worker, and why. Pure; sizes in bytes.

Rules: a worker is charged from the decision to start it until its process has been reaped. It is
charged the larger of what it is expected to need and what it was measured to use.

The charge does not depend on how far the load is. A worker that still downloads its files is charged
in full: it loads them as soon as they are complete, without another decision of the planner, and the
models that were evicted for it have made room for exactly that. To download without a charge, pull the
model first (``POST /pull/{alias}``).
"""

from __future__ import annotations

from dataclasses import dataclass

from manager.memory.peaks import Peak


@dataclass(frozen=True, slots=True)
class Charge:
    """``given``: less than the estimate, because there is no more; the worker runs alone. 0: not so."""

    declared: int  # memory_gb in the settings
    learned: Peak | None = None  # the highest peak of any process of the same model
    given: int = 0
    footprint: int = 0  # of the current process, at its last measurement
    peak: int = 0  # of the current process

    @property
    def estimate(self) -> int:
        """The bytes that the worker is expected to need.

        A learned peak replaces ``memory_gb`` once it includes a large image. Until then it can only
        raise the estimate: a short text needs far less memory than the next image will.
        """
        if self.learned is None:
            return self.declared
        if self.learned.large:
            return self.learned.bytes
        return max(self.declared, self.learned.bytes)

    @property
    def bytes(self) -> int:
        return max(self.given or self.estimate, self.footprint, self.peak)
