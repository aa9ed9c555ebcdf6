"""The size of prompt chunks, from the measured speed of decode and prefill."""

from __future__ import annotations

import pytest

from workers.vlm.prefill_budget import MIN_CHUNK, STALL_TOKENS, PrefillBudget


def measured(decode_s: float, token_s: float, max_chunk: int = 512) -> PrefillBudget:
    budget = PrefillBudget(max_chunk)
    budget.decoded(decode_s)
    budget.prefilled(100, 100 * token_s)
    return budget


def test_alone_a_prompt_has_the_largest_chunks() -> None:
    assert PrefillBudget(512).chunk(alone=True) == 512
    assert measured(0.04, 1.0).chunk(alone=True) == 512


def test_next_to_other_sequences_a_chunk_takes_no_longer_than_a_few_of_their_tokens() -> None:
    for decode_s in (0.004, 0.04):
        for token_s in (0.00005, 0.0005, 0.002):
            size = measured(decode_s, token_s).chunk(alone=False)
            assert size == MIN_CHUNK or size * token_s <= STALL_TOKENS * decode_s
            assert size == 512 or 2 * size * token_s > STALL_TOKENS * decode_s


def test_a_chunk_has_a_minimum_and_a_maximum_size() -> None:
    assert measured(0.001, 1.0).chunk(alone=False) == MIN_CHUNK
    assert measured(1.0, 0.0001, max_chunk=96).chunk(alone=False) == 96
    assert PrefillBudget(8).chunk(alone=False) == 8


def test_other_sequences_wait_for_a_few_of_their_own_tokens() -> None:
    assert measured(0.02, 0.001).stall_s == pytest.approx(STALL_TOKENS * 0.02)
    assert 0 < PrefillBudget(512).stall_s <= 0.2


def test_chunks_are_small_before_anything_was_measured() -> None:
    assert PrefillBudget(2048).chunk(alone=False) < 2048


def test_measurements_are_averaged_and_those_of_short_chunks_ignored() -> None:
    budget = measured(0.01, 0.0001)
    usual = budget.chunk(alone=False)
    budget.prefilled(1, 10.0)
    assert budget.chunk(alone=False) == usual
    for _ in range(20):
        budget.prefilled(100, 1.0)
    assert budget.chunk(alone=False) == MIN_CHUNK
