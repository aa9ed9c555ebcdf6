"""How hard it has become to get memory, in three levels, how long a level is believed, when it acts.

Rules: ``read`` reads, ``judge`` and ``macos_level`` say what a reading means, ``PressureGauge`` holds a
level long enough that nothing flaps, ``Relief`` says when an idle worker must leave. None is "can't be
known" (no PSI in the kernel or container, another platform), which is evidence of nothing. Which worker
leaves is decided elsewhere.
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

# Percent of the last ten seconds. "some": at least one task waited for memory; "full": nobody could
# work, because all waited. Ten percent of "some" is where systemd tells a service to give memory back
# (MemoryPressureThresholdSec, 200 ms in 2 s) and between the 7 % and 20 % at which Android's lmkd
# begins with the least important process: idle workers are that here. systemd-oomd kills at 60 % for
# 30 s and lmkd at 70 % of "full"; we only hold loads back, and well before. A single load on an idle
# machine makes "full" equal to "some", so "full" must not be taken too seriously: hence 5 and 20.
WARNING_SOME = 10.0
WARNING_FULL = 5.0
CRITICAL_FULL = 20.0

_AVG10 = re.compile(r"^(some|full) avg10=(\d+(?:\.\d+)?)\b", re.MULTILINE)


class Pressure(IntEnum):
    NORMAL = 0
    WARNING = 1  # idle workers should go
    CRITICAL = 2  # nothing should be loaded


@dataclass(frozen=True, slots=True)
class Psi:
    """Linux pressure stall information: percent of the last ten seconds."""

    some_avg10: float
    full_avg10: float


def read() -> Pressure | None:
    """The system's level now; None when it can't be known."""
    return read_on(sys.platform)


def read_on(platform: str, *, psi_file: Path = PSI_FILE, sysctl: Sysctl = sysctl) -> Pressure | None:
    if platform == "darwin":
        return macos_level(sysctl(MACOS_LEVEL))
    if platform == "linux":
        try:
            psi = parse_psi(psi_file.read_text(encoding="ascii", errors="replace"))
        except OSError:  # also what reading gives where PSI is compiled in and switched off
            return None
        return None if psi is None else judge(psi)
    return None


def parse_psi(text: str) -> Psi | None:
    """The content of ``/proc/pressure/memory``; None when it isn't that."""
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
    """What ``kern.memorystatus_vm_pressure_level`` means. Untested on macOS."""
    levels = {1: Pressure.NORMAL, 2: Pressure.WARNING, 4: Pressure.CRITICAL}
    return None if value is None else levels.get(value)


@dataclass(frozen=True, slots=True)
class ReliefRule:
    """When idle workers leave. Seconds.

    ``warning_after_s``: how long the system must have said WARNING without a pause before it acts.
    ``between_s``: from one worker to the next at WARNING. ``held``: act on the level that the gauge
    holds, else only while the system itself says so.
    """

    warning_after_s: float = 0.0
    between_s: float = 0.0
    held: bool = True


# PSI is a mean of ten seconds: it has waited already, and falls as soon as memory is there.
LINUX_RULE = ReliefRule()
# macOS says WARNING once the compressor holds half of the memory that is not wired. With models and
# Docker in memory that is soon and often harmless, and the level trails what a worker gives back by
# seconds: a worker each second would empty the machine before the first one shows.
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

    *warned_since*: since when the system has said WARNING or more, None: it does not. *relieved_at*:
    when a worker last left for this reason, None: never.
    """
    if level is Pressure.CRITICAL:
        return True
    if level is Pressure.NORMAL:
        return False
    if rule.warning_after_s and (warned_since is None or now - warned_since < rule.warning_after_s):
        return False
    return relieved_at is None or now - relieved_at >= rule.between_s


class Relief:
    """Asked at each reading; remembers what ``relief_is_due`` needs."""

    def __init__(self, rule: ReliefRule) -> None:
        self._rule = rule
        self._warned_since: float | None = None
        self._relieved_at: float | None = None

    def __repr__(self) -> str:
        return f"<Relief warned since {self._warned_since} relieved at {self._relieved_at}>"

    def due(self, heard: Pressure | None, held: Pressure, now: float) -> bool:
        """*heard*: the reading, *held*: the level of the gauge after it."""
        if heard is Pressure.NORMAL:
            self._warned_since = None
        elif heard is not None and self._warned_since is None:
            self._warned_since = now
        level = held if self._rule.held else heard
        if level is None:
            return False
        # A clock that was set back must not hold relief up for ever.
        since, relieved = (
            None if at is None else min(at, now) for at in (self._warned_since, self._relieved_at)
        )
        self._warned_since, self._relieved_at = since, relieved
        return relief_is_due(self._rule, level, now, warned_since=since, relieved_at=relieved)

    def relieved(self, now: float) -> None:
        """A worker leaves."""
        self._relieved_at = now


class PressureGauge:
    """The level to act on: rises at once, falls one level after ``calm_s`` seconds of calm."""

    def __init__(self, calm_s: float = 15.0) -> None:
        self._calm_s = calm_s
        self._level = Pressure.NORMAL
        self._calm_since = 0.0  # since then nothing as high as the level was heard

    def __repr__(self) -> str:
        return f"<PressureGauge {self._level.name} since {self._calm_since:g}>"

    @property
    def level(self) -> Pressure:
        return self._level

    def heard(self, level: Pressure | None, now: float) -> Pressure:
        """Take in a reading; the level to act on. *now*: seconds of the caller's clock."""
        if level is not None and level >= self._level:
            self._level, self._calm_since = level, now
        elif now < self._calm_since:  # the clock was set back
            self._calm_since = now
        elif now - self._calm_since >= self._calm_s:
            self._level = Pressure(max(self._level - 1, Pressure.NORMAL))
            self._calm_since = now
        return self._level
