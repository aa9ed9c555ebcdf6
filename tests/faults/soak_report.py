"""The report of a soak: verdicts and Markdown from its numbers. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.faults.calls import Call, Ending, lost

MB = 1 << 20
WARM_UP = 0.25  # the share of a run during which caches and allocators fill
FLAT_MB_PER_HOUR = 20.0
FLAT_MB = 8.0  # growth from the warm-up to the end that is noise, even in a short run


@dataclass(frozen=True, slots=True)
class Reading:
    """PSS in bytes, *minutes* after the start."""

    minutes: float
    gateway: int
    manager: int


@dataclass(frozen=True, slots=True)
class Soaked:
    minutes: float
    seed: int
    calls: Sequence[Call]
    faults: Mapping[str, int]
    loads: Mapping[str, int]
    evictions: int
    learned_gb: Mapping[str, float]  # the peaks that the manager has learned
    readings: Sequence[Reading]
    peak: int  # bytes of all workers
    budget: int
    samples: int
    over_s: float  # the longest time during which the budget was exceeded
    problems: Sequence[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    passed: bool
    text: str


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the least-squares line through *points*; 0 for fewer than two."""
    if len(points) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def growth(readings: Sequence[Reading], tier: str) -> tuple[float, float]:
    """MB per hour by the slope after the warm-up, and MB from its end to the last readings."""
    settled = readings[int(len(readings) * WARM_UP) :]
    if len(settled) < 2:
        return 0.0, 0.0
    sizes = [getattr(reading, tier) / MB for reading in settled]
    per_minute = slope([(r.minutes, size) for r, size in zip(settled, sizes, strict=True)])
    few = max(1, len(sizes) // 10)
    return 60 * per_minute, statistics.median(sizes[-few:]) - statistics.median(sizes[:few])


def verdicts(soaked: Soaked) -> list[Verdict]:
    missing = lost(soaked.calls)
    found = [
        Verdict(not missing, f"{len(missing)} requests without a response or a clear error"),
        Verdict(
            soaked.over_s == 0,
            f"workers held at most {soaked.peak / MB:.0f} of {soaked.budget / MB:.0f} MB "
            f"in {soaked.samples} samples"
            + (f"; over it for {soaked.over_s:.1f} s" if soaked.over_s else ""),
        ),
    ]
    for tier in ("gateway", "manager"):
        per_hour, total = growth(soaked.readings, tier)
        flat = per_hour <= FLAT_MB_PER_HOUR or total <= FLAT_MB
        text = f"memory of the {tier} after the warm-up: {total:+.1f} MB, {per_hour:+.1f} MB an hour"
        found.append(Verdict(flat, text))
    left = "nothing was left behind" if not soaked.problems else "; ".join(soaked.problems)
    return [*found, Verdict(not soaked.problems, left)]


def render(soaked: Soaked) -> str:
    faults = ", ".join(f"{n} x {name}" for name, n in sorted(soaked.faults.items())) or "none"
    loads = ", ".join(
        f"{n} x {alias} (learned peak {soaked.learned_gb[alias] * 1024:.0f} MB)"
        for alias, n in soaked.loads.items()
    )
    return "\n".join(
        [
            f"{soaked.minutes:g} minutes, seed {soaked.seed}, {len(soaked.calls)} requests. "
            f"Faults: {faults}. Loads: {loads}; {soaked.evictions} workers were evicted for another.",
            "",
            *(f"* {'pass' if v.passed else '**FAIL**'}: {v.text}" for v in verdicts(soaked)),
            "",
            *_requests(soaked.calls),
            "",
            *_memory(soaked.readings),
        ]
    )


def _requests(calls: Sequence[Call]) -> list[str]:
    lines = [
        "| route | requests | served | clear error | client left | lost | p50 s | p95 s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for route in sorted({call.route for call in calls}):
        own = [call for call in calls if call.route == route]
        ends = Counter(call.ending for call in own)
        took = [call.seconds for call in own if call.ending is Ending.SERVED]
        bad = len(lost(own))
        lines.append(
            f"| {route} | {len(own)} | {ends[Ending.SERVED]} | {ends[Ending.ERROR]} | "
            f"{ends[Ending.LEFT]} | {bad} | {_quantile(took, 50):.2f} | {_quantile(took, 95):.2f} |"
        )
    codes = Counter(call.code for call in calls if call.code)
    errors = ", ".join(f"{n} {code}" for code, n in codes.most_common())
    return [*lines, "", f"Errors by code: {errors or 'none'}."]


def _quantile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _memory(readings: Sequence[Reading]) -> list[str]:
    """One row per minute."""
    lines = ["| minute | gateway MB | manager MB |", "|---|---|---|"]
    shown = -1
    for reading in readings:
        minute = int(reading.minutes)
        if minute > shown or reading is readings[-1]:
            shown = minute
            sizes = f"{reading.gateway / MB:.1f} | {reading.manager / MB:.1f}"
            lines.append(f"| {reading.minutes:.1f} | {sizes} |")
    return lines
