"""Worker logs: kept, rotated, and no danger to anybody when the disk is full."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from manager.logs import KEPT_FILES, KEPT_LINES, LINE_LIMIT, RETRY_S, WorkerLog


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "a.log"


def test_what_is_written_is_in_the_file_at_once(path: Path) -> None:
    log = WorkerLog(path, 1000)
    log.write(b"one\ntw")
    log.write(b"o\n\xff\x00")
    assert path.read_bytes() == b"one\ntwo\n\xff\x00"
    log.close()


def test_an_earlier_log_is_continued(path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        log = WorkerLog(path, 1000)
        log.write(text)
        log.close()
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_full_log_is_rotated_and_three_old_ones_are_kept(path: Path) -> None:
    log = WorkerLog(path, 100)
    for number in range(10):
        log.write(b"%d" % number * 60)
    log.close()
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == ["a.log", "a.log.1", "a.log.2", "a.log.3"]
    assert KEPT_FILES == 3
    kept = [(path.parent / name).read_bytes()[:1] for name in names]
    assert kept == [b"9", b"8", b"7", b"6"]
    assert all(file.stat().st_size <= 100 for file in path.parent.iterdir())


def test_one_write_larger_than_a_whole_file_is_kept_whole(path: Path) -> None:
    log = WorkerLog(path, 10)
    log.write(b"x" * 100)
    log.close()
    assert path.read_bytes() == b"x" * 100


def test_the_last_lines_are_kept_in_memory_without_blanks_and_control_characters(path: Path) -> None:
    log = WorkerLog(path, 10_000)
    log.write(b"\x1b[31mred\x1b[0m\n\n  10%\r 20%\r\n\xed\x95\x9c\xea\xb8\x80\nunfinished")
    assert log.last_lines() == ["red", "10%", "20%", "한글", "unfinished"]
    assert log.last_lines(1) == ["unfinished"]
    log.close()


def test_memory_is_bounded_whatever_is_written(path: Path) -> None:
    log = WorkerLog(path, 1 << 30)
    for number in range(200):
        log.write(b"%d " % number + b"x" * 5000)
        log.write(b"\n")
    lines = log.last_lines()
    assert len(lines) == KEPT_LINES
    assert all(len(line) <= LINE_LIMIT for line in lines)
    assert lines[-1].startswith("199 ")
    log.close()


def test_a_new_process_starts_with_no_last_lines_and_keeps_the_file(path: Path) -> None:
    log = WorkerLog(path, 1000)
    log.write(b"old\nhalf")
    log.begin()
    assert log.last_lines() == []
    log.write(b"new\n")
    assert log.last_lines() == ["new"]
    assert b"old" in path.read_bytes()
    log.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_costs_the_output_and_nothing_else(path: Path) -> None:
    clock = Clock()
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    log = WorkerLog(path, 1000, clock=clock)
    log.write(b"lost\n")
    log.write(b"lost too\n")
    assert log.last_lines() == ["lost", "lost too"]
    path.unlink()  # there is room again
    log.write(b"too early\n")
    assert not path.exists()
    clock.now += RETRY_S
    log.write(b"kept\n")
    assert path.read_bytes() == b"\n[manager: 24 bytes of output were lost here]\nkept\n"
    log.close()


def test_a_folder_that_cannot_be_made_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log = WorkerLog(tmp_path / "file" / "a.log", 1000)
    log.write(b"hello\n")
    assert log.last_lines() == ["hello"]
    log.close()


def test_a_log_that_is_deleted_meanwhile_stops_nobody(path: Path) -> None:
    log = WorkerLog(path, 100)
    log.write(b"x" * 60)
    path.unlink()
    path.parent.rmdir()
    log.write(b"y" * 60)  # rotates
    assert path.read_bytes() == b"y" * 60
    log.close()


def test_no_file_is_left_open(path: Path) -> None:
    def regular_files() -> int:
        open_files = 0
        for fd in os.listdir("/dev/fd"):
            try:
                open_files += stat.S_ISREG(os.fstat(int(fd)).st_mode)
            except OSError:
                continue  # the listing's own
        return open_files

    before = regular_files()
    log = WorkerLog(path, 100)
    for _ in range(20):
        log.write(b"x" * 60)
    assert regular_files() == before + 1
    log.close()
    log.close()
    assert regular_files() == before
