"""Learned peaks: only ever grow, survive a restart, and a damaged file is not fatal."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.settings.models import ImageSettings, VlmSettings
from manager.memory import peaks as module
from manager.memory.peaks import LARGEST, Peak, Peaks, parse, peak_key, render

GIB = 1 << 30


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "peaks.json"


def clock() -> float:
    return 1_700_000_000.5


def written(file: Path, content: bytes) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return file


def sealed(entries: Any) -> bytes:
    """A file with these entries and a valid checksum."""
    whole = {"version": module.VERSION, "checksum": module._checksum(entries), "peaks": entries}
    return json.dumps(whole).encode()


def test_the_first_measurement_is_the_peak() -> None:
    peaks = Peaks(None, wall_clock=clock)
    assert peaks.get("a") is None
    assert peaks.learn("a", 5)
    assert peaks.get("a") == Peak(5, clock())


def test_a_peak_only_grows() -> None:
    peaks = Peaks(None)
    peaks.learn("a", 1000)
    assert not peaks.learn("a", 900)
    assert not peaks.learn("a", 1000)
    assert peaks.learn("a", 1100)
    assert [peak.bytes for peak in [peaks.get("a")] if peak] == [1100]


def test_growth_below_one_percent_is_not_written_and_adds_up() -> None:
    peaks = Peaks(None)
    peaks.learn("a", 1000)
    assert not peaks.learn("a", 1005)
    assert not peaks.learn("a", 1009)
    assert peaks.learn("a", 1010)


def test_a_peak_with_a_large_image_stays_marked_after_a_text() -> None:
    peaks = Peaks(None, wall_clock=clock)
    peaks.learn("a", 1000)
    assert peaks.learn("a", 1000, large=True), "a change, although the peak is the same"
    assert peaks.get("a") == Peak(1000, clock(), large=True)
    assert not peaks.learn("a", 1000, large=True)
    assert peaks.learn("a", 2000)
    assert peaks.get("a") == Peak(2000, clock(), large=True)


def test_peaks_of_an_earlier_version_are_not_marked_as_large() -> None:
    entries = {"a": {"bytes": 5, "learned_at": 1.0}}
    assert parse(sealed(entries)) == {"a": Peak(5, 1.0, large=False)}


@pytest.mark.parametrize("size", [0, -1, LARGEST + 1])
def test_an_invalid_measurement_is_not_learned(size: int) -> None:
    peaks = Peaks(None)
    assert not peaks.learn("a", size)
    assert peaks.get("a") is None


def test_peaks_outlive_the_manager(file: Path) -> None:
    peaks = Peaks(file, wall_clock=clock)
    peaks.learn("a", 5 * GIB)
    peaks.save()
    assert Peaks(file).get("a") == Peak(5 * GIB, clock())
    assert [entry.name for entry in file.parent.iterdir()] == ["peaks.json"]


def test_unchanged_peaks_are_not_written(file: Path) -> None:
    peaks = Peaks(file)
    peaks.save()
    assert not file.exists()
    peaks.learn("a", 5)
    peaks.save()
    file.unlink()
    peaks.learn("a", 4)
    peaks.save()
    assert not file.exists()


def test_a_first_start_has_no_file_and_no_warning(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Peaks(file).get("a") is None
    assert not caplog.records


GOOD = render({"a": Peak(5 * GIB, 1.5)})
DAMAGE = {
    "empty": b"",
    "not UTF-8": GOOD.replace(b'"a"', b'"\xff"'),
    "truncated": GOOD[: len(GOOD) // 2],
    "another number": GOOD.replace(b"5368709120", b"5368709121"),
    "infinite": GOOD.replace(b"1.5", b"1e999"),
    "digits without end": GOOD.replace(b"5368709120", b"9" * 5000),
    "no checksum": b'{"version": 1, "peaks": {}}',
    "another version": GOOD.replace(b'"version": 1', b'"version": 2'),
    "deep": b"[" * 100_000,
    "large": b" " * (2 << 20) + GOOD,
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_moved_aside_with_one_warning(
    file: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    peaks = Peaks(written(file, content))
    assert peaks.get("a") is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert (file.parent / "peaks.json.damaged").read_bytes() == content
    assert not file.exists()
    peaks.learn("a", 7)
    peaks.save()
    assert [peak.bytes for peak in [Peaks(file).get("a")] if peak] == [7]
    assert len(caplog.records) == 1


def folder(file: Path) -> None:
    file.mkdir()
    (file / "something").touch()


def pipe(file: Path) -> None:
    os.mkfifo(file)


def unreadable(file: Path) -> None:
    """Opening a socket file fails, for root too."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(file))


def loop(file: Path) -> None:
    file.symlink_to(file.name)


@pytest.mark.parametrize("put", [folder, pipe, unreadable, loop])
def test_a_path_that_is_not_a_file_is_moved_aside(
    put: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    with tempfile.TemporaryDirectory() as short:  # a socket's path is bounded
        file = Path(short) / "peaks.json"
        put(file)
        kind = stat.S_IFMT(file.lstat().st_mode)
        peaks = Peaks(file)
        assert len(caplog.records) == 1
        assert stat.S_IFMT(file.with_name("peaks.json.damaged").lstat().st_mode) == kind
        peaks.learn("a", 7)
        peaks.save()
        assert Peaks(file).get("a") is not None


def test_no_file_is_left_open(file: Path) -> None:
    def regular_or_folder() -> int:
        kinds = (stat.S_IFREG, stat.S_IFDIR)
        opened = 0
        for fd in range(256):
            try:
                opened += stat.S_IFMT(os.fstat(fd).st_mode) in kinds
            except OSError:
                continue
        return opened

    before = regular_or_folder()
    for _ in range(3):
        Peaks(written(file, GOOD))
        Peaks(written(file, b"damaged"))
        file.mkdir()
        Peaks(file)
        assert not file.exists()
        (file.parent / "peaks.json.damaged").rmdir()
    assert regular_or_folder() == before


def test_a_damaged_file_that_cannot_be_moved_aside_is_not_fatal(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(file, b"damaged")
    folder(file.parent / "peaks.json.damaged")
    peaks = Peaks(file)
    peaks.learn("a", 7)
    peaks.save()
    assert Peaks(file).get("a") is not None
    assert len(caplog.records) == 1


ENTRIES: list[Any] = [
    [],
    {},
    {"bytes": 5},
    {"bytes": 5, "learned_at": 1.0, "more": 1},
    {"bytes": 0, "learned_at": 1.0},
    {"bytes": True, "learned_at": 1.0},
    {"bytes": 5.0, "learned_at": 1.0},
    {"bytes": 10**30, "learned_at": 1.0},
    {"bytes": 5, "learned_at": -1.0},
    {"bytes": 5, "learned_at": 10**400},
    {"bytes": 5, "learned_at": float("nan")},
    {"bytes": float("inf"), "learned_at": 1.0},
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_of_an_unknown_shape_is_dropped_alone(entry: Any) -> None:
    known = {"bytes": 5, "learned_at": 1}
    assert parse(sealed({"strange": entry, "known": known})) == {"known": Peak(5, 1.0)}


@pytest.mark.parametrize("place", ["a file where the folder should be", "/proc"])
def test_an_unwritable_disk_is_one_warning(
    place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parent = Path("/proc") if place == "/proc" else tmp_path / "file"
    if place != "/proc":
        parent.touch()
    peaks = Peaks(parent / "peaks.json")
    caplog.clear()
    for size in (1000, 2000, 3000):
        assert peaks.learn("a", size)
        peaks.save()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert peaks.get("a") is not None


def test_a_failed_save_is_repeated_when_the_disk_works_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "state" / "peaks.json"
    peaks = Peaks(file)
    peaks.learn("a", 5)
    file.parent.touch()
    peaks.save()
    file.parent.unlink()
    peaks.save()
    assert Peaks(file).get("a") is not None
    assert len(caplog.records) == 1


def test_a_crash_while_writing_leaves_the_old_file(file: Path) -> None:
    peaks = Peaks(file)
    peaks.learn("a", 5)
    peaks.save()
    written(file.with_name("peaks.json.tmp"), b"half of a fi")
    assert Peaks(file).get("a") is not None
    peaks.learn("a", 50)
    peaks.save()
    assert [peak.bytes for peak in [Peaks(file).get("a")] if peak] == [50]


@given(content=st.binary(max_size=300))
def test_no_bytes_in_the_file_raise(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "peaks.json"
        file.write_bytes(content)
        assert Peaks(file).get("a") is None


@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_one_changed_byte_never_changes_a_peak(at: int, byte: int) -> None:
    changed = GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    try:
        found = parse(changed)
    except module.Damaged:
        return
    assert found == {"a": Peak(5 * GIB, 1.5)}


PEAK = st.builds(Peak, st.integers(1, LARGEST), st.floats(0, 1e12), st.booleans())


@given(st.dictionaries(st.text(), PEAK))
def test_saved_peaks_are_read_back(peaks: dict[str, Peak]) -> None:
    assert parse(render(peaks)) == peaks


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON, JSON)
def test_any_other_json_raises_damaged(entries: Any, checksum: Any) -> None:
    for whole in (entries, {"version": 1, "checksum": checksum, "peaks": entries}):
        with pytest.raises(module.Damaged):
            parse(json.dumps(whole).encode())


def test_a_path_that_is_not_utf8_can_be_a_key() -> None:
    peaks = {os.fsdecode(b"/models/\xff|-|-"): Peak(5, 1.0)}
    assert parse(render(peaks)) == peaks


def test_path_quantization_and_family_make_the_key() -> None:
    image = ImageSettings(kind="image", path="m", port=8003, memory_gb=1.0, family="flux1-schnell")

    def key(**changes: Any) -> str:
        return peak_key(image.model_copy(update=changes))

    keys = [
        key(),
        key(path="n"),
        key(quantize=4),
        key(quantize=8),
        key(family="flux1-dev"),
        key(residency="lean"),
        peak_key(VlmSettings(kind="vlm", path="m", port=8003, memory_gb=1.0)),
    ]
    assert len(set(keys)) == len(keys)
    assert key(port=9000, memory_gb=2.0, names=["x"]) == key()
