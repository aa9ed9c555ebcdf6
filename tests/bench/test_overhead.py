"""``bench.overhead``: the figures computed from the times of its requests."""

from __future__ import annotations

import pytest

from bench.overhead import CLIENTS, MIB, STREAMS, Measured, found
from bench.stack import BOTH, DIRECT, LITELLM, MANAGER

TOOK = {DIRECT: 1.0, MANAGER: 1.4, BOTH: 2.0, LITELLM: 11.0}


@pytest.fixture
def measured() -> Measured:
    kinds = [(False, n) for n in CLIENTS] + [(True, n) for n in STREAMS]
    took = {kind: {path: [[ms, ms, 3 * ms]] * 5 for path, ms in TOOK.items()} for kind in kinds}
    resting = {"manager": [60 * MIB] * 5, "gateway": [65 * MIB] * 5, LITELLM: [500 * MIB] * 5}
    return Measured(took, resting, {"gateway": [120 * MIB] * 5})


def test_both_tiers_are_compared_with_litellm_at_the_median_and_in_the_tail(measured: Measured) -> None:
    whole = found(measured, "LiteLLM 1").comparisons[0]
    assert {ratio.peer for ratio in whole.ratios} == {LITELLM}
    assert [r.mine[0] for r in whole.ratios if r.case.startswith("a chat, 1 client,")] == [2.0, 6.0]
    assert [r.theirs[0] for r in whole.ratios if r.case.startswith("a chat, 1 client,")] == [11.0, 33.0]


def test_the_added_time_is_the_time_above_the_direct_request(measured: Measured) -> None:
    added = found(measured, "LiteLLM 1").comparisons[1]
    assert {ratio.spread.middle for ratio in added.ratios} == {0.1}
    assert [r.target for r in added.ratios] == [0.3] * len(CLIENTS) + [None] * len(STREAMS)


def test_the_time_added_per_event_of_a_stream_has_a_target(measured: Measured) -> None:
    figures = {figure.what: figure for figure in found(measured, "LiteLLM 1").figures}
    event = figures["both tiers add to an event of a stream, 1 client"]
    assert event.values == (1 / 64,) * 5
    assert event.met


def test_the_memory_of_both_tiers_is_counted_together(measured: Measured) -> None:
    (memory,) = found(measured, "LiteLLM 1").comparisons[-1].ratios
    assert (memory.mine[0], memory.theirs[0]) == (125, 500)
