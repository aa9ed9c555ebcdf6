"""Processes seen from outside: who a manager's workers are, what they hold, and a 20 Hz sampler.

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
# httpx's pool notices that the other side has closed an idle connection when it is used again.
_POOLED = (psutil.CONN_ESTABLISHED, psutil.CONN_CLOSE_WAIT)


def children(pid: int) -> set[int]:
    """The living children of process *pid*, whichever of its threads has started them."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found.update(int(child) for child in (task / "children").read_text().split())
    return {child for child in found if alive(child)}


def descendants(pid: int) -> set[int]:
    """Children of *pid*, and theirs."""
    found: set[int] = set()
    new = children(pid)
    while new:
        found |= new
        new = {grand for child in new for grand in children(child)} - found
    return found


def alive(pid: int) -> bool:
    """Whether *pid* runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pss(pid: int) -> int:
    """Bytes that *pid* holds, its share of what it shares; 0 when it has gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass  # it ended meanwhile
    return 0


def handles(pid: int, ports: Collection[int], log_dir: str) -> int:
    """Open file handles of *pid* that can't be explained by idle connections inside the stack, whose
    *ports* are given, or by the one open log file of each alias."""
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
    """Every open file of *pid* and every connection, for people."""
    files = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            files.append(str(link.readlink()))
    connections = psutil.Process(pid).net_connections("tcp")
    return sorted(files) + [f"{c.laddr} {c.raddr} {c.status}" for c in connections]


@dataclass(frozen=True, slots=True)
class Sample:
    at: float  # by time.monotonic; when its reading began
    used: int  # bytes of all workers


class Sampler(threading.Thread):
    """Reads 20 times a second what all workers hold together.

    Processes are read one after the other, and this thread may be held up between two of them: what one
    held that has ended meanwhile may be another's already. Such a sample is taken anew.
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
        """What is held now; None: somebody has ended meanwhile."""
        began = time.monotonic()
        # Those of a manager that has died are nobody's children, and count on.
        self._known = {pid for pid in self._known | self._workers() if alive(pid)}
        used = sum(self._read(pid) for pid in self._known)
        return Sample(began, used) if all(alive(pid) for pid in self._known) else None

    def finish(self) -> None:
        self._end.set()
        if self.is_alive():
            self.join()

    @property
    def known(self) -> set[int]:
        """The workers that are or were there and have not ended."""
        return {pid for pid in self._known | self._workers() if alive(pid)}

    @property
    def peak(self) -> int:
        return max((sample.used for sample in self.samples), default=0)

    def longest_over(self, budget: int, *, since: float = 0.0) -> float:
        """The longest time in seconds for which *budget* bytes were exceeded without a pause."""
        longest, began = 0.0, None
        for sample in [s for s in self.samples if s.at >= since]:
            if sample.used <= budget:
                began = None
                continue
            began = sample.at if began is None else began
            longest = max(longest, sample.at - began, SAMPLE_S)
        return longest
