"""The watchdog kills hanging workers and no others; lasting growth is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.control import DeviceMemory, Phase, WorkerHealth
from manager.watchdog import Growth, Watchdog, peak_estimate, true_footprint

GIB = 1 << 30
STALL_S = 180.0


def health(jobs: int = 0, progress: int = 0) -> WorkerHealth:
    return WorkerHealth(alias="a", phase=Phase.READY, pid=1, jobs=jobs, progress=progress)


class Polls:
    """A watchdog that is polled every second; ``complaints`` has the time of each."""

    def __init__(self, stall_timeout_s: float = STALL_S, poll_s: float = 1.0) -> None:
        self.now = 1000.0
        self.poll_s = poll_s
        self.watchdog = Watchdog(stall_timeout_s, self.now, poll_s=poll_s)

    def until_complaint(
        self, answer: WorkerHealth | None, seconds: float, *, busy: bool = True
    ) -> tuple[float, str]:
        """The first complaint while the answer is *answer*, and after how many seconds."""
        start, end = self.now, self.now + seconds
        while self.now < end:
            self.now += self.poll_s
            if complaint := self.watchdog.check(answer, self.now, busy=busy):
                return self.now - start, complaint
        return seconds, ""


def test_a_job_without_a_token_or_step_for_the_whole_time_is_a_stall() -> None:
    polls = Polls()
    polls.until_complaint(health(jobs=2, progress=7), 1)
    assert polls.until_complaint(health(jobs=2, progress=7), 1000) == (
        180,
        "no token or step for 180 s while 2 requests were open",
    )


def test_one_request_is_reported_in_the_singular() -> None:
    complaint = Polls().until_complaint(health(jobs=1), 1000)[1]
    assert complaint == "no token or step for 180 s while 1 request was open"


def test_a_slow_job_with_progress_is_never_killed() -> None:
    polls = Polls()
    for progress in range(20):
        assert polls.until_complaint(health(jobs=1, progress=progress), 179) == (179, "")


def test_an_idle_worker_needs_no_progress() -> None:
    polls = Polls()
    assert polls.until_complaint(health(jobs=0), 2000) == (2000, "")
    after, complaint = polls.until_complaint(health(jobs=1), 1000)
    assert (after, bool(complaint)) == (180, True)


@pytest.mark.parametrize("busy", [True, False])
def test_a_worker_that_does_not_respond_for_the_stall_timeout_is_killed(busy: bool) -> None:
    after, complaint = Polls().until_complaint(None, 1000, busy=busy)
    assert after == 180
    assert complaint.startswith("/health has not responded for 180 s")
    assert ("open requests" in complaint) is busy


def test_a_response_ends_the_silence() -> None:
    polls = Polls()
    for _ in range(10):
        assert polls.until_complaint(None, 179) == (179, "")
        assert polls.until_complaint(health(), 1) == (1, "")


def test_a_stall_is_noticed_between_missing_responses() -> None:
    polls = Polls()
    polls.until_complaint(health(jobs=1, progress=3), 1)
    polls.until_complaint(None, 170)
    after, complaint = polls.until_complaint(health(jobs=1, progress=3), 100)
    assert after == 10
    assert complaint.startswith("no token or step for 180 s")


@pytest.mark.parametrize("answer", [None, health(jobs=1)])
def test_after_sleep_all_stall_timeouts_start_again(answer: WorkerHealth | None) -> None:
    polls = Polls()
    assert polls.until_complaint(answer, 179) == (179, "")
    polls.now += 8 * 3600
    after, complaint = polls.until_complaint(answer, 1000)
    assert after >= STALL_S
    assert complaint


@pytest.mark.parametrize("answer", [None, health(jobs=1)])
def test_a_clock_set_back_kills_no_worker(answer: WorkerHealth | None) -> None:
    polls = Polls()
    polls.until_complaint(answer, 100)
    polls.now -= 5000
    after, complaint = polls.until_complaint(answer, 1000)
    assert after >= STALL_S
    assert complaint


@pytest.mark.parametrize(("poll_s", "probe_s"), [(1.0, 2.0), (0.05, 2.0), (1.0, 3.9), (10.0, 2.0)])
def test_a_poll_without_a_response_does_not_count_as_sleep(poll_s: float, probe_s: float) -> None:
    watchdog, now = Watchdog(60.0, 0.0, poll_s=poll_s), 0.0
    while now < 60.0:
        now += poll_s + probe_s
        complaint = watchdog.check(None, now, busy=True)
    assert complaint


HEALTH = st.one_of(st.none(), st.builds(health, st.integers(0, 2), st.integers(0, 3)))


@given(st.lists(st.tuples(HEALTH, st.floats(-100, 400, allow_nan=False), st.booleans()), max_size=80))
def test_no_worker_is_killed_before_the_whole_stall_timeout_was_watched(
    polls: list[tuple[WorkerHealth | None, float, bool]],
) -> None:
    """The time watched: the sum of the gaps without sleep since the worker last made progress."""
    watchdog, now = Watchdog(20.0, 0.0, poll_s=1.0), 0.0
    watched, progress = 0.0, None
    for answer, step, busy in polls:
        now += step
        watched = watched + step if 0 <= step <= 5 else 0.0
        if answer is not None and (answer.jobs == 0 or answer.progress != progress):
            watched, progress = 0.0, answer.progress
        if watchdog.check(answer, now, busy=busy):
            assert watched >= 20.0 - 1e-6


def test_the_baseline_is_the_largest_footprint_of_the_first_requests() -> None:
    growth = Growth(0.5, after=20)
    for requests, size in [(0, 100), (10, 140), (20, 120), (21, 200)]:
        growth.measured(size, requests)
    assert (growth.baseline, growth.footprint) == (140, 200)
    growth.measured(150, 22)
    assert (growth.baseline, growth.footprint) == (140, 150)


def test_a_worker_that_stays_above_its_share_has_outgrown_it() -> None:
    growth = Growth(0.5, after=20)
    growth.measured(100, 20)
    growth.measured(151, 21)
    assert not growth.outgrown
    growth.measured(151, 21)
    assert growth.outgrown


def test_a_short_peak_does_not_replace_a_worker() -> None:
    growth = Growth(0.5, after=20)
    growth.measured(100, 20)
    for poll in range(20):
        growth.measured(500 if poll % 2 else 150, 30)
        assert not growth.outgrown


def test_growth_0_never_replaces_a_worker() -> None:
    growth = Growth(0.0, after=1)
    for poll in range(1, 9):
        growth.measured(100**poll, poll)
    assert not growth.outgrown


def test_no_worker_is_outgrown_before_its_baseline_is_fixed() -> None:
    growth = Growth(0.5, after=20)
    for requests in range(21):
        growth.measured(2**requests, requests)
        assert not growth.outgrown


def test_a_worker_that_is_first_measured_late_is_judged_by_that_measurement() -> None:
    growth = Growth(0.5, after=20)
    for _ in range(3):
        growth.measured(100, 500)
    assert (growth.baseline, growth.outgrown) == (100, False)


def test_memory_of_a_separate_device_is_added_and_unified_memory_is_not_counted_twice() -> None:
    device = DeviceMemory(active=3 * GIB, cache=GIB, peak=5 * GIB)
    assert true_footprint(6 * GIB, device) == 6 * GIB
    assert true_footprint(6 * GIB, device.model_copy(update={"unified": False})) == 10 * GIB


def test_a_peak_between_two_polls_is_remembered() -> None:
    device = DeviceMemory(active=3 * GIB, cache=GIB, peak=5 * GIB)
    assert peak_estimate(6 * GIB, device) == 7 * GIB


@given(*[st.integers(0, 1 << 40)] * 4)
def test_a_peak_is_never_below_the_footprint(size: int, active: int, cache: int, peak: int) -> None:
    assert peak_estimate(size, DeviceMemory(active=active, cache=cache, peak=peak)) >= size
