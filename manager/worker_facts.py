"""Facts about one process of a worker, and the record they add up to.

Rules: ``manager.worker_run`` yields facts in the order in which they happen, ``manager.worker``
consumes them. Facts are frozen and decide nothing. Memory is in bytes; times are by the manager's
clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.control import Caches, DeviceMemory, Download, ImageProgress, WorkerHealth
from manager.launcher.process import Handle


@dataclass(frozen=True, slots=True)
class Launched:
    """A process exists. A second one follows if the first was a dead standby process."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Loading:
    """A poll during the load. ``moved``: phase or detail changed since the last poll."""

    phase: str
    health: WorkerHealth | None  # the last valid response of this process
    fetched_at: float  # when bytes of its download last arrived; -inf: never
    moved: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded; ``health`` is the response that said so."""

    health: WorkerHealth | None
    load_s: float  # since the first launch


@dataclass(frozen=True, slots=True)
class Polled:
    """A valid response to a poll after the load."""

    health: WorkerHealth


@dataclass(frozen=True, slots=True)
class Measured:
    footprint: int
    peak: int  # the most that the process has used so far, as far as this measurement shows


@dataclass(frozen=True, slots=True)
class Drained:
    """The drain is over; ``cut_off`` requests are still open and will be cut off."""

    cut_off: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The process has been reaped, or could not be launched. Always the last fact."""

    reason: str


Fact = Launched | Loading | Ready | Polled | Measured | Drained | Ended


@dataclass(slots=True)
class Process:
    """The current knowledge about one process, updated by ``record``."""

    launched_at: float = 0.0
    handle: Handle | None = None
    health: WorkerHealth | None = None
    phase: str = "starting"
    fetched_at: float = float("-inf")
    footprint: int = 0
    peak: int = 0

    def record(self, fact: Fact) -> None:
        match fact:
            case Launched(handle):
                self.handle = handle
            case Loading(phase, health, fetched_at):
                self.phase, self.health, self.fetched_at = phase, health, fetched_at
            case Ready(health) | Polled(health):
                self.health = health
            case Measured(footprint, peak):
                self.footprint, self.peak = footprint, max(self.peak, peak)

    @property
    def pid(self) -> int:
        return self.handle.pid if self.handle else 0

    @property
    def download(self) -> Download | None:
        return self.health.download if self.health else None

    @property
    def revision(self) -> str:
        """The Hub commit that is loaded; "": a folder, or not known yet."""
        return self.health.revision if self.health else ""

    @property
    def drawing(self) -> ImageProgress | None:
        """Progress of the image being generated; None: there is none."""
        return self.health.drawing if self.health else None

    @property
    def caches(self) -> Caches:
        return self.health.caches if self.health else Caches()

    @property
    def device(self) -> DeviceMemory:
        return self.health.device if self.health else DeviceMemory()

    @property
    def served_large_image(self) -> bool:
        """``peak`` includes an image of substantial size."""
        return self.health is not None and self.health.work.large_pictures > 0
