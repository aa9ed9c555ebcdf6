"""The footprint of one process, in bytes.

Rules: readings only, no policy. A footprint that cannot be read (the process has ended or belongs to
another user, or the platform is unknown) is None and never an error. On Linux it is PSS plus
swapped-out pages, the memory that is free again when the process ends; PSS divides a shared page among
its processes. On macOS it is the footprint that Activity Monitor shows, including GPU buffers in
unified memory.

Linux walks the page tables of the process for this: 30 ms per GiB of small pages, during which the
process cannot map memory. Call it in a thread, and less than once a second for a large process.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Mapping

Reader = Callable[[int], int | None]

KIB = 1 << 10
RUSAGE_INFO_V2 = 2


def footprint(pid: int) -> int | None:
    """The footprint of process *pid* in bytes; None when it cannot be read."""
    reader = reader_for(sys.platform)
    return None if reader is None else reader(pid)


def reader_for(platform: str) -> Reader | None:
    """The function that reads footprints on *platform*, a ``sys.platform``."""
    return _READERS.get(platform)


# --- Linux ---------------------------------------------------------------------------------------


def linux_footprint(pid: int) -> int | None:
    try:
        # For an ended process or a zombie, opening works and reading fails.
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return parse_smaps_rollup(file.read())
    except OSError:
        return None


def parse_smaps_rollup(text: bytes) -> int | None:
    """``Pss`` plus ``SwapPss`` in bytes; None without ``Pss``. Older kernels have no ``SwapPss``."""
    kib: dict[bytes, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(b":")
        number = value.removesuffix(b" kB").strip()
        if name in (b"Pss", b"SwapPss") and number.isdigit():
            kib[name] = int(number)
    return (kib[b"Pss"] + kib.get(b"SwapPss", 0)) * KIB if b"Pss" in kib else None


# --- macOS ---------------------------------------------------------------------------------------


class RusageInfoV2(ctypes.Structure):
    """``struct rusage_info_v2`` of ``<sys/resource.h>``."""

    _fields_ = (
        ("ri_uuid", ctypes.c_uint8 * 16),
        ("ri_user_time", ctypes.c_uint64),
        ("ri_system_time", ctypes.c_uint64),
        ("ri_pkg_idle_wkups", ctypes.c_uint64),
        ("ri_interrupt_wkups", ctypes.c_uint64),
        ("ri_pageins", ctypes.c_uint64),
        ("ri_wired_size", ctypes.c_uint64),
        ("ri_resident_size", ctypes.c_uint64),
        ("ri_phys_footprint", ctypes.c_uint64),
        ("ri_proc_start_abstime", ctypes.c_uint64),
        ("ri_proc_exit_abstime", ctypes.c_uint64),
        ("ri_child_user_time", ctypes.c_uint64),
        ("ri_child_system_time", ctypes.c_uint64),
        ("ri_child_pkg_idle_wkups", ctypes.c_uint64),
        ("ri_child_interrupt_wkups", ctypes.c_uint64),
        ("ri_child_pageins", ctypes.c_uint64),
        ("ri_child_elapsed_abstime", ctypes.c_uint64),
        ("ri_diskio_bytesread", ctypes.c_uint64),
        ("ri_diskio_byteswritten", ctypes.c_uint64),
    )


ProcPidRusage = Callable[[int, int, "ctypes._CArgObject"], int]


@functools.cache
def _proc_pid_rusage() -> ProcPidRusage | None:
    try:
        function = ctypes.CDLL("/usr/lib/libproc.dylib").proc_pid_rusage
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    function.restype = ctypes.c_int
    return function


def macos_footprint(
    pid: int, library: Callable[[], ProcPidRusage | None] = _proc_pid_rusage
) -> int | None:
    """``ri_phys_footprint``. Untested on macOS and Metal; the layout and the call are tested."""
    proc_pid_rusage = library()
    usage = RusageInfoV2()
    if proc_pid_rusage is None or proc_pid_rusage(pid, RUSAGE_INFO_V2, ctypes.byref(usage)) != 0:
        return None
    return int(usage.ri_phys_footprint)


_READERS: Mapping[str, Reader] = {"linux": linux_footprint, "darwin": macos_footprint}
