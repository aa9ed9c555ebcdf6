"""Memory pressure: what readings mean, and a gauge that never flaps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.memory import pressure
from manager.memory.pressure import (
    MACOS_LEVEL,
    MACOS_RULE,
    Pressure,
    PressureGauge,
    Psi,
    Relief,
    judge,
    macos_level,
    parse_psi,
    read_on,
    rule_of,
)

NORMAL, WARNING, CRITICAL = Pressure
PSI = """\
some avg10={some} avg60=1.25 avg300=0.31 total=1234
full avg10={full} avg60=0.00 avg300=0.00 total=99
"""


def test_the_averages_of_ten_seconds_are_read() -> None:
    assert parse_psi(PSI.format(some="12.50", full="0.75")) == Psi(12.5, 0.75)


@pytest.mark.parametrize(
    "text", ["", "some avg10=1.00 avg60=0 avg300=0 total=0\n", "some avg10=x\nfull avg10=y\n", "\x00"]
)
def test_invalid_psi_is_unknown(text: str) -> None:
    assert parse_psi(text) is None


@given(st.text())
def test_no_text_in_the_file_raises(text: str) -> None:
    found = parse_psi(text)
    assert found is None or judge(found) in Pressure


@pytest.mark.parametrize(
    ("some", "full", "level"),
    [
        (0.0, 0.0, NORMAL),
        (9.99, 4.99, NORMAL),
        (10.0, 0.0, WARNING),
        (5.0, 5.0, WARNING),
        (80.0, 19.99, WARNING),
        (20.0, 20.0, CRITICAL),
        (100.0, 100.0, CRITICAL),
    ],
)
def test_stall_times_are_mapped_to_levels(some: float, full: float, level: Pressure) -> None:
    assert judge(Psi(some, full)) is level


def test_linux_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "memory"
    file.write_text(PSI.format(some="30.00", full="25.00"))
    assert read_on("linux", psi_file=file) is CRITICAL


def test_without_psi_the_level_is_unknown(tmp_path: Path) -> None:
    assert read_on("linux", psi_file=tmp_path / "none") is None
    assert read_on("linux", psi_file=tmp_path) is None
    assert read_on("win32") is None


@pytest.mark.skipif(not Path("/proc/pressure/memory").exists(), reason="a Linux with PSI")
def test_this_machine_has_a_level() -> None:
    assert pressure.read() in list(Pressure)


@pytest.mark.parametrize(
    ("value", "level"), [(1, NORMAL), (2, WARNING), (4, CRITICAL), (0, None), (3, None), (None, None)]
)
def test_macos_reports_its_level_as_a_number(value: int | None, level: Pressure | None) -> None:
    assert macos_level(value) is level
    assert read_on("darwin", sysctl={MACOS_LEVEL: value}.get) is level


def test_a_fall_is_one_level_after_the_calm_time() -> None:
    gauge = PressureGauge(15.0)
    gauge.update(CRITICAL, 0.0)
    levels = {now: gauge.update(NORMAL, now) for now in (1.0, 14.9, 15.0, 29.9, 30.0, 60.0)}
    assert levels == {
        1.0: CRITICAL,
        14.9: CRITICAL,
        15.0: WARNING,
        29.9: WARNING,
        30.0: NORMAL,
        60.0: NORMAL,
    }


def test_a_level_falls_when_readings_stop() -> None:
    gauge = PressureGauge(15.0)
    gauge.update(WARNING, 0.0)
    assert gauge.update(None, 15.0) is NORMAL


def test_a_clock_set_back_holds_a_level_no_longer_than_calm_s() -> None:
    gauge = PressureGauge(15.0)
    gauge.update(WARNING, 5000.0)
    assert gauge.update(NORMAL, 10.0) is WARNING
    assert gauge.update(NORMAL, 24.9) is WARNING
    assert gauge.update(NORMAL, 25.0) is NORMAL


READINGS = st.lists(
    st.tuples(st.sampled_from([None, *Pressure]), st.floats(0, 40, allow_nan=False)), max_size=60
)


@given(READINGS)
def test_the_gauge_never_flaps(readings: list[tuple[Pressure | None, float]]) -> None:
    gauge, now = PressureGauge(15.0), 100.0
    falls: list[float] = []
    history: list[tuple[float, Pressure | None]] = []
    for reading, step in readings:
        now += step
        before = gauge.level
        after = gauge.update(reading, now)
        history.append((now, reading))
        assert reading is None or after >= reading
        assert after >= before - 1
        if after > before:
            assert after is reading
        if after < before:
            falls.append(now)
            recent = [level for at, level in history if now - at < 15.0 and level is not None]
            assert all(level < before for level in recent)
    assert all(later - earlier >= 15.0 for earlier, later in pairwise(falls))


@given(st.lists(st.floats(-1e6, 1e6), max_size=30))
def test_a_clock_that_jumps_keeps_the_gauge_within_one_level_a_reading(clock: list[float]) -> None:
    gauge = PressureGauge()
    gauge.update(CRITICAL, 0.0)
    levels = [gauge.level, *(gauge.update(NORMAL, now) for now in clock)]
    assert all(0 <= before - after <= 1 for before, after in pairwise(levels))


def test_linux_acts_on_each_tick_of_a_level_and_macos_waits() -> None:
    """How many of many idle workers leave in five minutes of WARNING, checked once a second."""
    counts = {}
    for platform in ("linux", "darwin"):
        gauge, relief, left = PressureGauge(), Relief(rule_of(platform)), 0
        for now in range(300):
            if relief.due(WARNING, gauge.update(WARNING, now), now):
                relief.relieved(now)
                left += 1
        counts[platform] = left
    assert counts == {"linux": 300, "darwin": 9}


def test_a_tick_without_an_idle_worker_does_not_delay_the_next_one() -> None:
    relief = Relief(MACOS_RULE)
    due = [relief.due(WARNING, WARNING, now) for now in (0.0, 30.0, 31.0)]
    assert due == [False, True, True]


@given(READINGS)
def test_on_macos_a_warning_never_takes_two_workers_within_30_s_nor_one_before(
    readings: list[tuple[Pressure | None, float]],
) -> None:
    gauge, relief, now = PressureGauge(), Relief(MACOS_RULE), 100.0
    warned_at, warnings = None, []
    for reading, step in readings:
        now += step
        if reading is NORMAL:
            warned_at = None
        elif reading is not None and warned_at is None:
            warned_at = now
        due = relief.due(reading, gauge.update(reading, now), now)
        assert not due or reading in (WARNING, CRITICAL)
        assert due or reading is not CRITICAL
        if due:
            relief.relieved(now)
            if reading is WARNING:
                assert warned_at is not None
                assert now - warned_at >= 30
                warnings.append(now)
    assert all(later - earlier >= 30 for earlier, later in pairwise(warnings))


def test_a_clock_set_back_delays_relief_by_at_most_30_s() -> None:
    relief = Relief(MACOS_RULE)
    for now in (0.0, 5000.0):
        relief.due(WARNING, WARNING, now)
    relief.relieved(5000.0)
    assert not relief.due(WARNING, WARNING, 10.0)
    assert relief.due(WARNING, WARNING, 40.0)
