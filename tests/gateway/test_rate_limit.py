"""Rate limits: no client exceeds its bucket, a timely retry succeeds, memory is bounded."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rate_limit import OpenRequests, TokenBuckets, duration, whole_seconds


def buckets(per_minute: float = 60, burst: int = 3, clients: int = 100) -> TokenBuckets:
    return TokenBuckets(per_minute, burst, clients=clients)


def test_a_burst_passes_and_then_the_configured_rate() -> None:
    of = buckets()
    assert [of.take("a", 0).allowed for _ in range(5)] == [True, True, True, False, False]
    assert [of.take("a", t).allowed for t in (0.5, 1, 1.5, 2)] == [False, True, False, True]


def test_the_reported_state_of_a_bucket_is_correct() -> None:
    of = buckets()
    grant = of.take("a", 0)
    assert (grant.remaining, grant.reset_s, grant.retry_after_s) == (2, 1, 0)
    of.take("a", 0)
    assert of.take("a", 0).retry_after_s == 1  # it is empty now
    grant = of.take("a", 0.25)
    assert (grant.allowed, grant.remaining, grant.retry_after_s, grant.reset_s) == (
        False,
        0,
        0.75,
        2.75,
    )


def test_a_clock_that_steps_back_changes_no_bucket() -> None:
    of = buckets(burst=2)
    assert of.take("a", 10).remaining == 1
    assert of.take("a", 5).remaining == 0


def test_new_clients_evict_the_least_recent_ones() -> None:
    of = buckets(burst=1, clients=10)
    for number in range(1000):
        of.take(str(number), 0)
    assert len(of) == 10
    assert not of.take("999", 0).allowed
    assert of.take("0", 0).allowed


RATES = {"per_minute": st.integers(2, 10_000), "burst": st.integers(1, 50)}
GAPS = st.lists(st.floats(0, 100), min_size=1, max_size=60)


@given(gaps=GAPS, **RATES)
def test_a_retry_after_the_reported_time_is_admitted(
    per_minute: int, burst: int, gaps: list[float]
) -> None:
    of, now = buckets(per_minute, burst), 0.0
    for gap in gaps:
        now += gap / 10
        grant = of.take("a", now)
        if not grant.allowed:
            wait = whole_seconds(grant.retry_after_s)
            assert 1 <= wait <= 59
            now += wait
            assert of.take("a", now).allowed


@given(gaps=GAPS, **RATES)
def test_no_interval_admits_more_than_the_burst_and_its_refill(
    per_minute: int, burst: int, gaps: list[float]
) -> None:
    of, now = buckets(per_minute, burst), 0.0
    passed: list[float] = []
    for gap in gaps:
        now += gap / 100
        if of.take("a", now).allowed:
            passed.append(now)
    for first, start in enumerate(passed):
        for count, end in enumerate(passed[first:], 1):
            assert count <= burst + (end - start) * per_minute / 60 + 1e-6


def test_open_requests_are_limited_and_idle_clients_are_forgotten() -> None:
    of = OpenRequests(2)
    assert [of.enter("a") for _ in range(3)] == [True, True, False]
    assert of.enter("b")
    of.leave("a")
    assert of.enter("a")
    for _ in range(2):
        of.leave("a")
    of.leave("b")
    assert len(of) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.1201, "121ms"), (1, "1s"), (7.66, "7.66s"), (60, "1m0s"), (361.5, "6m1.5s")],
)
def test_durations_have_openais_format(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e6))
def test_every_duration_can_be_parsed_back(seconds: float) -> None:
    match = re.fullmatch(r"(?:(\d+)ms|(?:(\d+)m)?(\d+(?:\.\d+)?)s)", duration(seconds))
    assert match is not None
    ms, minutes, rest = (float(part or 0) for part in match.groups())
    assert ms / 1000 + 60 * minutes + rest == pytest.approx(seconds, abs=0.01)
