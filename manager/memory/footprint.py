"""What one process costs the machine, in bytes.

Rules: a reading, never policy; what can't be read (the process is gone or somebody else's, another
platform) is None and never an error. On Linux it is PSS, where a page that several processes share
counts by its share, plus what was swapped out: the cost that comes back when the process ends. On
macOS it is the footprint that Activity Monitor shows, GPU buffers in unified memory included.

Linux walks the page tables of the process for this: 30 ms per GiB of small pages, during which the
process can't map memory. Ask from a thread, and a large process not every second.
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
    """Bytes that process *pid* costs; None when that can't be read."""
    reader = reader_for(sys.platform)
    return None if reader is None else reader(pid)


def reader_for(platform: str) -> Reader | None:
    """What reads footprints on *platform*, a ``sys.platform``."""
    return _READERS.get(platform)


# --- Linux ---------------------------------------------------------------------------------------


def linux_footprint(pid: int) -> int | None:
    try:
        # A process that is gone, or a zombie, still has the file until it is read.
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
