"""The results of a benchmark: the values of its rounds, and the ratios computed from them.

Rules: frozen and pure. A ratio is computed within a round, because a machine's speed varies between
rounds. Reported are the median, minimum and maximum of the rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median

from pydantic import TypeAdapter

ENOUGH = 5  # rounds that agree by chance only once in sixteen


class Better(StrEnum):
    LESS = "less"
    MORE = "more"


class Stance(StrEnum):
    """How we compare with a peer. Ahead and behind need ``ENOUGH`` rounds that all agree."""

    AHEAD = "ahead"
    UNCLEAR = "no clear difference"
    BEHIND = "behind"


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


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours compared with a peer's: one value of each per round, in *unit*.

    *case*: the load that both ran. *target*: the ratio to reach, or not to exceed.
    Raises ``ValueError`` unless both have the same number of rounds and the peer's values are positive.
    """

    case: str
    peer: str
    unit: str
    better: Better
    mine: tuple[float, ...]
    theirs: tuple[float, ...]
    target: float | None = None

    def __post_init__(self) -> None:
        if len(self.mine) != len(self.theirs) or not self.mine:
            raise ValueError(
                f"{self.case}: {len(self.mine)} rounds of ours, {len(self.theirs)} of theirs"
            )
        if min(self.theirs) <= 0:
            raise ValueError(f"{self.case}: nothing to compare with: {self.theirs}")

    @property
    def rounds(self) -> tuple[float, ...]:
        """Ours over theirs, round by round."""
        return tuple(mine / other for mine, other in zip(self.mine, self.theirs, strict=True))

    @property
    def spread(self) -> Spread:
        return Spread.of(self.rounds)

    @property
    def stance(self) -> Stance:
        spread = self.spread
        if len(self.mine) < ENOUGH or spread.low <= 1 <= spread.high:
            return Stance.UNCLEAR
        return Stance.AHEAD if (spread.high < 1) == (self.better is Better.LESS) else Stance.BEHIND

    @property
    def met(self) -> bool | None:
        """Does the median meet the target? ``None`` without a target."""
        return _met(self.spread, self.target, self.better)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure without a peer, one value per round, in *unit*; *better*: the good side of *target*."""

    what: str
    unit: str
    better: Better
    values: tuple[float, ...]
    target: float | None = None

    @property
    def spread(self) -> Spread:
        return Spread.of(self.values)

    @property
    def met(self) -> bool | None:
        return _met(self.spread, self.target, self.better)


def _met(spread: Spread, target: float | None, better: Better) -> bool | None:
    if target is None:
        return None
    return spread.middle <= target if better is Better.LESS else spread.middle >= target


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ratios that share a table and a panel of a plot: all have one unit and one direction."""

    title: str
    ratios: tuple[Ratio, ...]

    def __post_init__(self) -> None:
        if len({(ratio.unit, ratio.better) for ratio in self.ratios}) != 1:
            raise ValueError(f"{self.title}: the ratios of a comparison need one unit and direction")

    @property
    def unit(self) -> str:
        return self.ratios[0].unit

    @property
    def better(self) -> Better:
        return self.ratios[0].better


@dataclass(frozen=True, slots=True)
class Found:
    """All results of a benchmark. *versions*: of the peers, e.g. ``"LiteLLM 1.2.3"``."""

    versions: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, slots=True)
class Results:
    """One run of one benchmark, which took *took_s* seconds on *machine* (``bench.machine``).

    *busy*: the share of the machine's CPU that other programs used just before.
    """

    name: str
    machine: str
    busy: float
    rounds: int
    quick: bool
    took_s: float
    found: Found


_AS_JSON = TypeAdapter(Results)


def save(results: Results, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_AS_JSON.dump_json(results, indent=1))


def read(file: Path) -> Results:
    """Raises ``OSError`` without the file, ``ValueError`` if it contains something else."""
    return _AS_JSON.validate_json(file.read_bytes())


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of *values* that a share *share* of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
