"""The memory budget and its ceiling: the memory that the GPU of a Mac may use.

macOS limits the memory that Metal may keep in use. Beyond the limit a command buffer fails with
"Insufficient Memory" and the worker aborts, so the budget must never exceed it. The ceiling is the
lowest of the known limits: ``iogpu.wired_limit_mb`` if it is set, else the share of memory that this
version of macOS allows; and the limit that Metal reported to a worker
(``max_recommended_working_set_size``).

Rules: ``mac_of``, ``ceiling_of`` and ``budget_of`` are pure. ``Budget`` stores the limit reported by
Metal in a file next to the peaks. The file is optional: read and write errors are not fatal. A stored
limit applies only to the macOS version, memory size and sysctl under which it was stored. Sizes are
bytes.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contracts.settings import MemorySettings, WorkerSettings, wired_limit_problem
from contracts.settings.base import GIB
from contracts.settings.file import SettingsError
from manager.atomic_file import replace_file
from manager.memory.system import MIB, WIRED_LIMIT, Sysctl, sysctl

log = logging.getLogger(__name__)

LIMIT_FILE = "gpu.json"  # in the manager's state folder
_FILE_LIMIT = 1 << 12
# recommendedMaxWorkingSetSize as logged on many Macs: 10.67 of 16 and 16 of 24 GiB up to macOS 15,
# 11.84 and 17.76 from macOS 26 on. Macs with more memory allow more.
_SHARE_FROM_26 = 0.74
_SHARE_BEFORE = 2 / 3
_SHARE_BEFORE_LARGE = 3 / 4
_LARGE = 36 * GIB


@dataclass(frozen=True, slots=True)
class Mac:
    memory: int
    version: tuple[int, ...] = ()  # of macOS; (): unknown
    wired_limit: int = 0  # iogpu.wired_limit_mb in bytes; 0: macOS decides

    @property
    def system(self) -> str:
        return f"macOS {'.'.join(map(str, self.version))}" if self.version else "macOS"

    @property
    def conditions(self) -> str:
        """The conditions for a stored limit: if any of them changes, the limit no longer applies."""
        return f"{self.system}, {self.memory} bytes, {WIRED_LIMIT} {self.wired_limit // MIB}"


@dataclass(frozen=True, slots=True)
class Bound:
    bytes: int
    why: str


def mac_of(
    memory: int,
    *,
    name: str = sys.platform,
    version: Callable[[], str] = lambda: platform.mac_ver()[0],
    sysctl: Sysctl = sysctl,
) -> Mac | None:
    """This machine, with *memory* bytes; None if it is not a Mac."""
    if name != "darwin":
        return None
    parts = version().split(".")
    numbers = tuple(int(part) for part in parts) if all(p.isdigit() for p in parts) else ()
    return Mac(memory, numbers, max(0, sysctl(WIRED_LIMIT) or 0) * MIB)


def ceiling_of(mac: Mac | None, reported: int = 0) -> Bound | None:
    """The memory that the GPU may use; *reported*: Metal's own limit in bytes, 0: unknown yet."""
    if mac is None:
        return None
    if mac.wired_limit:
        bound = Bound(min(mac.wired_limit, mac.memory), f"GPU limit: {WIRED_LIMIT}")
    else:
        share = _share(mac)
        bound = Bound(
            int(share * mac.memory),
            f"GPU limit: {100 * share:.0f} % of {mac.memory / GIB:.0f} GB on {mac.system}",
        )
    if 0 < reported < bound.bytes:
        return Bound(reported, "GPU limit: reported by Metal")
    return bound


def _share(mac: Mac) -> float:
    if mac.version and mac.version[0] >= 26:
        return _SHARE_FROM_26
    return _SHARE_BEFORE_LARGE if mac.memory >= _LARGE else _SHARE_BEFORE


def budget_of(settings: MemorySettings, memory: int, ceiling: Bound | None) -> Bound:
    """The memory that all workers may use of *memory* bytes, and the rule that decides it."""
    budget = settings.budget_bytes(memory, None if ceiling is None else ceiling.bytes)
    if ceiling is not None and budget < settings.budget_bytes(memory):
        return Bound(budget, ceiling.why)
    whole = (
        "75 % of the machine's memory"
        if settings.max_unified_memory_gb is None
        else "memory.max_unified_memory_gb"
    )
    return Bound(budget, f"{whole} less memory.safety_margin_gb")


def check_wired_limit(settings: WorkerSettings, ceiling: Bound | None) -> None:
    """Raise ``SettingsError`` if the wired limit is too large for a worker; workers check it again."""
    if ceiling is None or not settings.wired_bytes:
        return
    if problem := wired_limit_problem(settings.wired_bytes, ceiling.bytes):
        raise SettingsError(problem)


class Budget:
    """The current budget. ``update`` may change it; ``save`` may run in a thread."""

    def __init__(
        self, settings: MemorySettings, memory: int, mac: Mac | None = None, file: Path | None = None
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._mac = mac
        self._file = file
        self._reported = self._saved = 0 if mac is None or file is None else _read(file, mac)
        self._bound = self._decided()

    def __repr__(self) -> str:
        return f"<Budget {self.bytes}: {self.why}>"

    @property
    def bytes(self) -> int:
        return self._bound.bytes

    @property
    def why(self) -> str:
        return self._bound.why

    def update(self, reported: int) -> bool:
        """Record the GPU limit that Metal reported, in bytes; True when that changes the budget."""
        if self._mac is None or reported <= 0 or reported == self._reported:
            return False
        self._reported = reported
        before, self._bound = self._bound, self._decided()
        return before.bytes != self._bound.bytes

    def save(self) -> None:
        reported, mac = self._reported, self._mac
        if self._file is None or mac is None or reported == self._saved:
            return
        self._saved = reported
        content = {"gpu_may_hold_bytes": reported, "under": mac.conditions}
        try:
            replace_file(self._file, json.dumps(content).encode() + b"\n")
        except OSError as exc:
            log.warning("%s: the GPU limit cannot be stored: %s", self._file, exc)

    def _decided(self) -> Bound:
        return budget_of(self._settings, self._memory, ceiling_of(self._mac, self._reported))


def stored_limit(state_dir: Path, mac: Mac | None) -> int:
    """The limit that Metal reported to a worker of this machine, in bytes; 0: unknown."""
    return 0 if mac is None else _read(state_dir / LIMIT_FILE, mac)


def _read(file: Path, mac: Mac) -> int:
    try:
        with open(file, "rb") as opened:
            found = json.loads(opened.read(_FILE_LIMIT))
        reported, under = found["gpu_may_hold_bytes"], found["under"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0
    valid = type(reported) is int and 0 < reported <= mac.memory and under == mac.conditions
    return reported if valid else 0
