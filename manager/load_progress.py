"""How far the load of a worker is, whether it downloads its files itself or waits for a pull."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from contracts.control import Download, Phase
from manager.worker_facts import Process

NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """Reads the pull of its alias, if there is one; a pull takes precedence over the process."""

    alias: str
    pulling: Callable[[str], Download | None]
    pulled_at: Callable[[str], float]

    @property
    def pull(self) -> Download | None:
        return self.pulling(self.alias)

    def phase(self, process: Process | None) -> str:
        pull = self.pull
        if pull is not None:
            whole = 0 < pull.total_bytes <= pull.done_bytes
            return Phase.VERIFYING if whole else Phase.DOWNLOADING
        return process.phase if process else "waiting for memory"

    def download(self, process: Process | None) -> Download | None:
        """Progress of the download; None: there is none."""
        return self.pull or (process.download if process else None)

    def fetched_at(self, process: Process | None) -> float:
        """When bytes last arrived; -inf: this process has downloaded nothing."""
        return max(process.fetched_at if process else NEVER, self.pulled_at(self.alias))
