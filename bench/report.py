"""From times to a table: pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

MIB = 1 << 20


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of *values* that at least *share* of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds: its median, and its smallest and largest value."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = list(values)
        return cls(median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        return f"{self.middle:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


Rounds = Sequence[Sequence[float]]  # of each round the milliseconds of each request


def added(path: Rounds, direct: Rounds) -> Spread:
    """Milliseconds that *path* adds to the median request, round by round."""
    return Spread.of(_added(path, direct))


def share(path: Rounds, other: Rounds, direct: Rounds) -> Spread:
    """What *path* adds as a share of what *other* adds, round by round."""
    pairs = zip(_added(path, direct), _added(other, direct), strict=True)
    return Spread.of(mine / theirs for mine, theirs in pairs)


def _added(path: Rounds, direct: Rounds) -> list[float]:
    return [median(ours) - median(bare) for ours, bare in zip(path, direct, strict=True)]


def times_table(cells: Mapping[str, Rounds]) -> list[str]:
    """A row for each path: p50, p95, p99 of all its requests, and what it adds to ``direct``."""
    lines = ["| path | p50 ms | p95 ms | p99 ms | adds, ms |", "|---|---|---|---|---|"]
    for path, rounds in cells.items():
        every = [ms for one in rounds for ms in one]
        shown = " | ".join(f"{percentile(every, share):.2f}" for share in (0.5, 0.95, 0.99))
        more = "" if path == "direct" else added(rounds, cells["direct"]).text()
        lines.append(f"| {path} | {shown} | {more} |")
    return lines


@dataclass(frozen=True, slots=True)
class Target:
    """``figure`` must not exceed ``limit``; judged by the median of the rounds."""

    what: str
    limit: float
    figure: Spread | None

    def row(self) -> str:
        if self.figure is None:
            return f"| {self.what} | {self.limit:g} | not measured | |"
        verdict = "met" if self.figure.middle <= self.limit else "MISSED"
        return f"| {self.what} | {self.limit:g} | {self.figure.text(3)} | {verdict} |"


@dataclass(frozen=True, slots=True)
class Goal:
    """``figure`` must reach ``least``; judged by the median of the rounds."""

    what: str
    least: float
    figure: Spread

    @property
    def met(self) -> bool:
        return self.figure.middle >= self.least

    def row(self) -> str:
        verdict = "met" if self.met else "MISSED"
        return f"| {self.what} | {self.least:g} | {self.figure.text()} | {verdict} |"


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """Bytes of a tier: before the bodies, after a tenth of them, the most seen, after the last."""

    tier: str
    start: int
    tenth: int
    peak: int
    end: int

    def row(self) -> str:
        figures = (self.start, self.tenth, self.peak, self.end)
        return f"| {self.tier} | " + " | ".join(f"{value / MIB:.0f}" for value in figures) + " |"
