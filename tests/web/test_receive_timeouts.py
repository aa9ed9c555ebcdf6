"""How long a client may take: pure rules over ticks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from web.receive_timeouts import Limits, ReceiveTimer, Stage

LIMITS = Limits(head_s=20, silence_s=30, body_s=30, body_rate=1024)


def timer(stage: Stage) -> ReceiveTimer:
    new = ReceiveTimer(LIMITS)
    new.enter(stage)
    return new


def ticks_until_late(of: ReceiveTimer, bytes_each: int = 0, most: int = 1000) -> int | None:
    for number in range(1, most + 1):
        if bytes_each:
            of.received(bytes_each)
        if of.tick(1):
            return number
    return None


def test_a_new_connection_must_send_something() -> None:
    assert ticks_until_late(ReceiveTimer(LIMITS)) == 20


def test_a_dripping_head_times_out() -> None:
    assert ticks_until_late(timer(Stage.HEAD), bytes_each=1) == 20
    assert ticks_until_late(timer(Stage.HEAD), bytes_each=3000) == 20


def test_the_time_between_requests_does_not_count() -> None:
    assert ticks_until_late(timer(Stage.DONE)) is None
    assert ticks_until_late(timer(Stage.DONE), bytes_each=1) is None


def test_a_stalled_body_times_out() -> None:
    of = timer(Stage.BODY)
    of.received(1 << 20)  # fast so far: that is no credit for silence
    assert ticks_until_late(of) == 30


def test_a_dripping_body_times_out_and_a_slow_upload_does_not() -> None:
    assert ticks_until_late(timer(Stage.BODY), bytes_each=1) == 31
    assert ticks_until_late(timer(Stage.BODY), bytes_each=512) == 60
    assert ticks_until_late(timer(Stage.BODY), bytes_each=10_000) is None


def test_the_rest_of_an_answered_body_has_a_fixed_time() -> None:
    assert ticks_until_late(timer(Stage.LEFTOVER), bytes_each=1 << 20) == 30


@given(
    st.lists(st.integers(0, 100_000), max_size=200),
    st.sampled_from([Stage.HEAD, Stage.BODY, Stage.LEFTOVER]),
)
def test_nothing_times_out_before_the_shortest_limit(sizes: list[int], stage: Stage) -> None:
    of = timer(stage)
    for number, size in enumerate(sizes, 1):
        if size:
            of.received(size)
        if of.tick(1):
            assert number >= LIMITS.head_s
            return
    if stage is not Stage.BODY:
        assert len(sizes) < 30


def test_one_byte_chunks_do_not_count_as_excessive_framing() -> None:
    of = timer(Stage.BODY)
    for _ in range(10_000):
        of.received(20)
        of.received_body(1)
    assert of.framing_bytes <= 0
    of.received(100)
    assert 0 < of.framing_bytes + 10_000 * 1 <= 10_100
