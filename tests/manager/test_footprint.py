"""Footprints: of a real process on Linux; struct and call on macOS."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from manager.memory import footprint as module
from manager.memory.footprint import (
    RUSAGE_INFO_V2,
    ProcPidRusage,
    RusageInfoV2,
    footprint,
    macos_footprint,
    parse_smaps_rollup,
    reader_for,
)

MIB = 1 << 20
ROLLUP = b"""\
55d0c0000000-7ffd00000000 ---p 00000000 00:00 0                          [rollup]
Rss:               20000 kB
Pss:                1000 kB
Pss_Dirty:           700 kB
Swap:                 90 kB
SwapPss:              24 kB
Locked:                0 kB
"""
CHILD = """
import sys
print(flush=True)
sys.stdin.readline()
kept = b"x" * (64 << 20)
print(flush=True)
sys.stdin.readline()
del kept
"""

linux = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="Linux has smaps_rollup"
)


def test_pss_and_swapped_pss_are_added() -> None:
    assert parse_smaps_rollup(ROLLUP) == 1024 * 1024


def test_a_kernel_without_swap_pss_still_gives_a_footprint() -> None:
    assert parse_smaps_rollup(ROLLUP.replace(b"SwapPss", b"Other")) == 1000 * 1024


@pytest.mark.parametrize("text", [b"", b"Rss: 1 kB\n", b"Pss: many kB\n", b"\xff\x00", b"Pss:"])
def test_an_invalid_rollup_gives_no_footprint(text: bytes) -> None:
    assert parse_smaps_rollup(text) is None


@linux
@pytest.mark.process
def test_memory_that_a_process_takes_is_in_its_footprint() -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=-1, stdout=-1, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        child.stdout.readline()
        before = footprint(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        after = footprint(child.pid)
        child.stdin.close()
    assert before is not None
    assert after is not None
    assert 60 * MIB < after - before < 72 * MIB
    assert footprint(child.pid) is None


@linux
@pytest.mark.process
def test_a_process_that_was_not_reaped_yet_has_no_footprint() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    zombie = footprint(child.pid)
    child.wait()
    assert zombie is None


@pytest.mark.parametrize("pid", [-1, 0])
def test_a_pid_that_names_no_process_has_no_footprint(pid: int) -> None:
    assert footprint(pid) is None


def test_each_platform_has_its_reader_and_others_have_none() -> None:
    assert reader_for("linux") is module.linux_footprint
    assert reader_for("darwin") is module.macos_footprint
    assert reader_for("win32") is None


def test_the_struct_has_the_layout_of_sys_resource_h() -> None:
    assert ctypes.sizeof(RusageInfoV2) == 16 + 18 * 8
    assert RusageInfoV2.ri_phys_footprint.offset == 72
    assert RusageInfoV2.ri_diskio_byteswritten.offset == 152


def libproc_stand_in(
    result: int, value: int, asked: list[tuple[int, int]]
) -> Callable[[], ProcPidRusage]:
    """A libproc that writes *value* where the C struct has the footprint, by offset."""
    signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)

    def proc_pid_rusage(pid: int, flavor: int, buffer: int) -> int:
        asked.append((pid, flavor))
        ctypes.c_uint64.from_address(buffer + 72).value = value
        return result

    function = signature(proc_pid_rusage)
    return lambda: function


def test_the_footprint_on_macos_is_read_from_libproc() -> None:
    asked: list[tuple[int, int]] = []
    assert macos_footprint(42, libproc_stand_in(0, 9 << 30, asked)) == 9 << 30
    assert asked == [(42, RUSAGE_INFO_V2)]


def test_a_process_unknown_to_macos_has_no_footprint() -> None:
    assert macos_footprint(42, libproc_stand_in(-1, 9 << 30, [])) is None
    assert macos_footprint(42, lambda: None) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has libproc")
def test_without_libproc_there_is_no_footprint_and_no_error() -> None:
    assert macos_footprint(os.getpid()) is None
