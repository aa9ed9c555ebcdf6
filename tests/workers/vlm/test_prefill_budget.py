from __future__ import annotations

import pytest

from workers.vlm.prefill_budget import LEAST, STALL_TOKENS, Pace


def measured(step_s: float, token_s: float, most: int = 512) -> Pace:
    pace = Pace(most)
    pace.decoded(step_s)
    pace.read(100, 100 * token_s)
    return pace


def test_alone_a_prompt_is_read_in_the_largest_pieces() -> None:
    assert Pace(512).tokens(others=False) == 512
    assert measured(0.04, 1.0).tokens(others=False) == 512


@pytest.mark.parametrize("step_s", [0.004, 0.04])
@pytest.mark.parametrize("token_s", [0.00005, 0.0005, 0.002])
def test_beside_others_a_piece_takes_no_longer_than_some_of_their_tokens(
    step_s: float, token_s: float
) -> None:
    size = measured(step_s, token_s).tokens(others=True)
    assert size == LEAST or size * token_s <= STALL_TOKENS * step_s
    assert size == 512 or 2 * size * token_s > STALL_TOKENS * step_s


def test_a_piece_is_never_smaller_than_is_sensible_nor_larger_than_allowed() -> None:
    assert measured(0.001, 1.0).tokens(others=True) == LEAST
    assert measured(1.0, 0.0001, most=96).tokens(others=True) == 96
    assert Pace(8).tokens(others=True) == 8


def test_others_wait_for_some_of_their_own_tokens_at_most() -> None:
    assert measured(0.02, 0.001).stall_s == pytest.approx(STALL_TOKENS * 0.02)
    assert 0 < Pace(512).stall_s <= 0.2


def test_before_anything_was_measured_a_piece_is_small() -> None:
    assert Pace(2048).tokens(others=True) < 2048


def test_a_measurement_is_one_of_several_and_a_short_piece_none() -> None:
    pace = measured(0.01, 0.0001)
    usual = pace.tokens(others=True)
    pace.read(1, 10.0)
    assert pace.tokens(others=True) == usual
    for _ in range(20):
        pace.read(100, 1.0)
    assert pace.tokens(others=True) == LEAST
