"""Worker logs: kept and rotated; a full disk is not fatal."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from manager.logs import (
    FOLLOWER_LINES,
    KEPT_FILES,
    KEPT_LINES,
    LINE_LIMIT,
    RETRY_S,
    Follower,
    WorkerLog,
)
from tests.loops import in_loop


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "a.log"


def test_output_is_in_the_file_at_once(path: Path) -> None:
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


def test_memory_is_bounded_for_any_output(path: Path) -> None:
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
    path.unlink()  # the disk has space again
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


def test_a_deleted_log_file_does_not_affect_the_worker(path: Path) -> None:
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
                continue  # of the listing itself
        return open_files

    before = regular_files()
    log = WorkerLog(path, 100)
    for _ in range(20):
        log.write(b"x" * 60)
    assert regular_files() == before + 1
    log.close()
    log.close()
    assert regular_files() == before


async def rest(follower: Follower) -> list[str]:
    return [line async for batch in follower for line in batch]


@in_loop
async def test_a_follower_gets_the_last_lines_at_once_and_then_each_new_one(path: Path) -> None:
    log = WorkerLog(path, 1000)
    log.write(b"one\ntwo\nthree\nfo")
    async with log.follow(2) as follower:
        assert await anext(follower) == ["two", "three"]
        log.write(b"ur\n\nfive\n")
        assert await anext(follower) == ["four", "five"]
        log.close()
        assert await rest(follower) == []


@pytest.mark.parametrize("lines", [0, -1])
@in_loop
async def test_a_follower_can_request_only_new_lines(path: Path, lines: int) -> None:
    log = WorkerLog(path, 1000)
    log.write(b"old\n")
    async with log.follow(lines) as follower:
        assert await anext(follower) == []
        log.write(b"new\n")
        assert await anext(follower) == ["new"]
    log.close()


@in_loop
async def test_lines_that_threads_write_reach_every_follower_whole_and_in_order(path: Path) -> None:
    log = WorkerLog(path, 1 << 20)

    def pump() -> None:
        for number in range(500):
            log.write(b"line %d\nline" % (2 * number))
            log.write(b" %d\n" % (2 * number + 1))

    async with log.follow() as one, log.follow() as two:
        reading = [asyncio.ensure_future(rest(follower)) for follower in (one, two)]
        thread = threading.Thread(target=pump)
        thread.start()
        await asyncio.to_thread(thread.join)
        log.close()
        expected = [f"line {number}" for number in range(1000)]
        assert await asyncio.gather(*reading) == [expected, expected]


@in_loop
async def test_a_slow_follower_gets_the_number_of_skipped_lines(path: Path) -> None:
    log = WorkerLog(path, 1 << 20)
    async with log.follow() as follower:
        await anext(follower)
        for number in range(FOLLOWER_LINES + 7):
            log.write(b"%d\n" % number)
        first, *lines = await anext(follower)
    log.close()
    assert first == "[manager: 7 lines were skipped here]"
    assert lines == [str(number) for number in range(7, FOLLOWER_LINES + 7)]


@in_loop
async def test_following_continues_when_the_worker_restarts(path: Path) -> None:
    log = WorkerLog(path, 1000)
    async with log.follow() as follower:
        log.write(b"first\nlast words")
        log.begin()
        log.write(b"second\n")
        log.close()
        assert await rest(follower) == ["first", "last words", "second"]


@in_loop
async def test_a_closed_log_gives_its_last_lines_and_ends(path: Path) -> None:
    log = WorkerLog(path, 1000)
    log.write(b"one\nhalf")
    log.close()
    async with log.follow() as follower:
        assert await rest(follower) == ["one", "half"]
    assert log.last_lines() == ["one", "half"]


@in_loop
async def test_a_cancelled_wait_for_lines_loses_none(path: Path) -> None:
    log = WorkerLog(path, 1000)
    async with log.follow() as follower:
        await anext(follower)
        for number in range(20):
            waiting = asyncio.ensure_future(anext(follower))
            await asyncio.sleep(0)
            log.write(b"%d\n" % number)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await anext(follower) == [str(number)]
    log.close()


@in_loop
async def test_only_the_first_batch_may_be_empty(path: Path) -> None:
    log = WorkerLog(path, 10_000)
    async with log.follow() as follower:
        log.write(b"before the first\n")
        batches = [await anext(follower)]
        for number in range(50):
            log.write(b"%d\n" % number)
            batches.append(await anext(follower))
            log.write(b"\n")
    log.close()
    assert all(batches)


def test_a_follower_with_a_closed_loop_does_not_affect_the_worker(path: Path) -> None:
    log = WorkerLog(path, 1000)

    async def left_behind() -> Any:
        following = log.follow()
        await anext(await following.__aenter__())
        return following  # otherwise it is closed with its loop

    runner = asyncio.Runner()
    following = runner.run(left_behind())
    runner.get_loop().close()
    log.write(b"on\n")
    assert log.last_lines() == ["on"]
    assert path.read_bytes() == b"on\n"
    log.close()
    del following
