"""Memory pressure in three levels: how it is read, how long a level holds, when to act on it.

Rules: ``read`` reads, ``judge`` and ``macos_level`` interpret a reading, ``PressureGauge`` holds a
level so that it does not flap, ``Relief`` decides when an idle worker must leave. None means unknown
(no PSI in the kernel or container, another platform). The pool chooses the worker.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from manager.memory.system import Sysctl, sysctl

PSI_FILE = Path("/proc/pressure/memory")
MACOS_LEVEL = "kern.memorystatus_vm_pressure_level"

# Percent of the last ten seconds. "some": at least one task waited for memory; "full": all tasks
# waited. Ten percent of "some" is where systemd asks a service to return memory
# (MemoryPressureThresholdSec, 200 ms in 2 s) and between the 7 % and 20 % at which Android's lmkd
# starts to kill the least important processes; idle workers are the counterpart here. systemd-oomd
# kills at 60 % for 30 s, and lmkd at 70 % of "full"; we only stop loading models, and much earlier. A
# single load on an idle machine makes "full" equal to "some", hence the limits 5 and 20 for "full".
WARNING_SOME = 10.0
WARNING_FULL = 5.0
CRITICAL_FULL = 20.0

_AVG10 = re.compile(r"^(some|full) avg10=(\d+(?:\.\d+)?)\b", re.MULTILINE)


class Pressure(IntEnum):
    NORMAL = 0
    WARNING = 1  # unload idle workers
    CRITICAL = 2  # also load nothing


@dataclass(frozen=True, slots=True)
class Psi:
    """Linux pressure stall information: percent of the last ten seconds."""

    some_avg10: float
    full_avg10: float


def read() -> Pressure | None:
    """The system's memory pressure; None when it is unknown."""
    return read_on(sys.platform)


def read_on(platform: str, *, psi_file: Path = PSI_FILE, sysctl: Sysctl = sysctl) -> Pressure | None:
    if platform == "darwin":
        return macos_level(sysctl(MACOS_LEVEL))
    if platform == "linux":
        try:
            psi = parse_psi(psi_file.read_text(encoding="ascii", errors="replace"))
        except OSError:  # also raised if PSI is compiled in but disabled
            return None
        return None if psi is None else judge(psi)
    return None


def parse_psi(text: str) -> Psi | None:
    """Parse ``/proc/pressure/memory``; None when *text* is something else."""
    found = dict(_AVG10.findall(text))
    if "some" not in found or "full" not in found:
        return None
    return Psi(some_avg10=float(found["some"]), full_avg10=float(found["full"]))


def judge(psi: Psi) -> Pressure:
    if psi.full_avg10 >= CRITICAL_FULL:
        return Pressure.CRITICAL
    if psi.some_avg10 >= WARNING_SOME or psi.full_avg10 >= WARNING_FULL:
        return Pressure.WARNING
    return Pressure.NORMAL


def macos_level(value: int | None) -> Pressure | None:
    """Interpret ``kern.memorystatus_vm_pressure_level``. Not tested on macOS."""
    levels = {1: Pressure.NORMAL, 2: Pressure.WARNING, 4: Pressure.CRITICAL}
    return None if value is None else levels.get(value)


@dataclass(frozen=True, slots=True)
class ReliefRule:
    """When to unload idle workers. Times in seconds.

    ``warning_after_s``: how long the readings must have been WARNING or more without a break.
    ``between_s``: the pause between two workers at WARNING. ``held``: act on the level that the gauge
    holds, otherwise on the reading itself.
    """

    warning_after_s: float = 0.0
    between_s: float = 0.0
    held: bool = True


# PSI is a mean over ten seconds: it is already delayed, and falls as soon as memory is available.
LINUX_RULE = ReliefRule()
# macOS reports WARNING once the compressor holds half of the memory that is not wired. With models and
# Docker in memory that happens early and is often harmless, and the level follows an unload only after
# seconds: unloading one worker per second would unload all of them before the level falls.
MACOS_RULE = ReliefRule(warning_after_s=30.0, between_s=30.0, held=False)


def rule_of(platform: str = sys.platform) -> ReliefRule:
    return MACOS_RULE if platform == "darwin" else LINUX_RULE


def relief_is_due(
    rule: ReliefRule,
    level: Pressure,
    now: float,
    *,
    warned_since: float | None,
    relieved_at: float | None,
) -> bool:
    """Whether one idle worker must leave now because of *level*.

    *warned_since*: since when the readings have been WARNING or more, None: they are not.
    *relieved_at*: when a worker last left for this reason, None: never.
    """
    if level is Pressure.CRITICAL:
        return True
    if level is Pressure.NORMAL:
        return False
    if rule.warning_after_s and (warned_since is None or now - warned_since < rule.warning_after_s):
        return False
    return relieved_at is None or now - relieved_at >= rule.between_s


class Relief:
    """The state for ``relief_is_due``; call ``due`` for each reading."""

    def __init__(self, rule: ReliefRule) -> None:
        self._rule = rule
        self._warned_since: float | None = None
        self._relieved_at: float | None = None

    def __repr__(self) -> str:
        return f"<Relief warned since {self._warned_since} relieved at {self._relieved_at}>"

    def due(self, reading: Pressure | None, held: Pressure, now: float) -> bool:
        """*held*: the level of the gauge after *reading*."""
        if reading is Pressure.NORMAL:
            self._warned_since = None
        elif reading is not None and self._warned_since is None:
            self._warned_since = now
        level = held if self._rule.held else reading
        if level is None:
            return False
        # A clock that was set back must not delay relief forever.
        since, relieved = (
            None if at is None else min(at, now) for at in (self._warned_since, self._relieved_at)
        )
        self._warned_since, self._relieved_at = since, relieved
        return relief_is_due(self._rule, level, now, warned_since=since, relieved_at=relieved)

    def relieved(self, now: float) -> None:
        """A worker leaves."""
        self._relieved_at = now


class PressureGauge:
    """The level to act on: rises at once, falls by one level after ``calm_s`` seconds of calm."""

    def __init__(self, calm_s: float = 15.0) -> None:
        self._calm_s = calm_s
        self._level = Pressure.NORMAL
        self._calm_since = 0.0  # no reading since then was as high as the level

    def __repr__(self) -> str:
        return f"<PressureGauge {self._level.name} since {self._calm_since:g}>"

    @property
    def level(self) -> Pressure:
        return self._level

    def update(self, level: Pressure | None, now: float) -> Pressure:
        """Record a reading; returns the level to act on. *now*: seconds of the caller's clock."""
        if level is not None and level >= self._level:
            self._level, self._calm_since = level, now
        elif now < self._calm_since:  # the clock was set back
            self._calm_since = now
        elif now - self._calm_since >= self._calm_s:
            self._level = Pressure(max(self._level - 1, Pressure.NORMAL))
            self._calm_since = now
        return self._level
