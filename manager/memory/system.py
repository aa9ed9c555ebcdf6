"""Readings of the system's memory. No policy: other modules interpret them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass

import psutil

MIB = 1 << 20
WIRED_LIMIT = "iogpu.wired_limit_mb"

Sysctl = Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Bytes. ``available`` without swapping; the rest of ``total`` is ``used``."""

    total: int
    available: int

    @property
    def used(self) -> int:
        return self.total - self.available

    @property
    def used_percent(self) -> float:
        return 100.0 * self.used / self.total if self.total else 0.0


def read() -> MemoryReading:
    memory = psutil.virtual_memory()
    return MemoryReading(total=memory.total, available=memory.available)


def sysctl(name: str, platform: str = sys.platform) -> int | None:
    """The integer value of sysctl *name* on macOS; None elsewhere. Not tested on macOS."""
    if platform != "darwin":
        return None
    value = ctypes.c_int64(0)  # a 32-bit value fills the lower half: all Macs are little-endian
    size = ctypes.c_size_t(ctypes.sizeof(value))
    function = ctypes.CDLL(None).sysctlbyname
    function.argtypes = (
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_size_t),
        ctypes.c_void_p,
        ctypes.c_size_t,
    )
    function.restype = ctypes.c_int
    if function(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0) != 0:
        return None
    return int(value.value)
