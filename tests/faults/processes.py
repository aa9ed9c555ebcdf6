"""Processes observed from outside: a manager's workers, their memory and handles, a 20 Hz sampler.

Linux: ``/proc``. Memory is PSS (``smaps_rollup``), so that pages shared by two workers count once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_S = 0.05
# httpx's pool notices only on reuse that the other side has closed an idle connection.
_POOLED = (psutil.CONN_ESTABLISHED, psutil.CONN_CLOSE_WAIT)


def children(pid: int) -> set[int]:
    """The live children of process *pid*, started by any of its threads."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found.update(int(child) for child in (task / "children").read_text().split())
    return {child for child in found if alive(child)}


def descendants(pid: int) -> set[int]:
    """All live descendants of *pid*."""
    found: set[int] = set()
    new = children(pid)
    while new:
        found |= new
        new = {grand for child in new for grand in children(child)} - found
    return found


def alive(pid: int) -> bool:
    """Does *pid* run? A zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pss(pid: int) -> int:
    """The PSS of *pid* in bytes; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass  # it has ended
    return 0


def handles(pid: int, ports: Collection[int], log_dir: str) -> int:
    """The number of open file handles of *pid*, except for idle connections to *ports* inside the stack
    and the one open log file of each alias."""
    process = psutil.Process(pid)
    connections = [c for c in process.net_connections("tcp") if c.raddr]
    pooled = sum(
        (c.raddr.port in ports and c.status in _POOLED)
        or (c.laddr.port in ports and c.status == psutil.CONN_ESTABLISHED)
        for c in connections
    )
    logs = {file.path for file in process.open_files() if file.path.startswith(log_dir)}
    return process.num_fds() - pooled - len(logs)


def handles_in_words(pid: int) -> list[str]:
    """Every open file and connection of *pid*, for error messages."""
    files = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            files.append(str(link.readlink()))
    connections = psutil.Process(pid).net_connections("tcp")
    return sorted(files) + [f"{c.laddr} {c.raddr} {c.status}" for c in connections]


@dataclass(frozen=True, slots=True)
class Sample:
    at: float  # start of the reading, by time.monotonic
    used: int  # bytes of all workers


class Sampler(threading.Thread):
    """Reads 20 times a second the memory of all workers together.

    Processes are read one after the other, and this thread may be delayed between two of them: another
    process may already have the memory of one that has ended. Such a sample is discarded and repeated.
    """

    def __init__(self, workers: Callable[[], set[int]], *, read: Callable[[int], int] = pss) -> None:
        super().__init__(name="sampler", daemon=True)
        self._workers = workers
        self._read = read
        self._known: set[int] = set()
        self._end = threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        while not self._end.wait(SAMPLE_S):
            while (sample := self.sample()) is None:
                pass
            self.samples.append(sample)

    def sample(self) -> Sample | None:
        """Read the memory now; None if a process ended meanwhile."""
        began = time.monotonic()
        # The workers of a manager that died are no longer its children, but still count.
        self._known = {pid for pid in self._known | self._workers() if alive(pid)}
        used = sum(self._read(pid) for pid in self._known)
        return Sample(began, used) if all(alive(pid) for pid in self._known) else None

    def finish(self) -> None:
        self._end.set()
        if self.is_alive():
            self.join()

    @property
    def known(self) -> set[int]:
        """The current and former workers that have not ended."""
        return {pid for pid in self._known | self._workers() if alive(pid)}

    @property
    def peak(self) -> int:
        return max((sample.used for sample in self.samples), default=0)

    def longest_over(self, budget: int, *, since: float = 0.0) -> float:
        """The longest time in seconds during which *budget* bytes were exceeded continuously."""
        longest, began = 0.0, None
        for sample in [s for s in self.samples if s.at >= since]:
            if sample.used <= budget:
                began = None
                continue
            began = sample.at if began is None else began
            longest = max(longest, sample.at - began, SAMPLE_S)
        return longest
