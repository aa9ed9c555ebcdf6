"""How a token is chosen, against the same in plain Python."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine import Sampling

pytestmark = pytest.mark.mlx

LOGITS = [2.0, 1.0, 0.5, 0.0, -1.0]


def chooser(prompt: list[int] | None = None, vocabulary: int = 99, **fields: Any) -> Any:
    from workers.sampling import Chooser

    return Chooser(Sampling(**fields), prompt or [], vocabulary)


def array(values: Any) -> Any:
    import mlx.core as mx  # noqa: TID251 - what the engine hands over

    return mx.array(values)


def drawn(n: int = 1500, logits: list[float] = LOGITS, **fields: Any) -> Counter[int]:
    """How often each token is drawn at the first *n* positions."""
    made = chooser(**fields)
    logprobs = array([logits])
    return Counter(int(made(logprobs).item()) for _ in range(n))


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(value / temperature) for value in logits]
    return [weight / sum(weights) for weight in weights]


class TestDraws:
    def test_temperature_0_is_greedy(self) -> None:
        assert drawn(5, temperature=0) == {0: 5}

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    def test_tokens_come_as_often_as_they_are_likely(self, temperature: float) -> None:
        counts = drawn(temperature=temperature, seed=11)
        for token, expected in enumerate(softmax(LOGITS, temperature)):
            assert abs(counts[token] / 1500 - expected) < 0.05

    @pytest.mark.parametrize(
        ("fields", "allowed"),
        [
            ({"top_k": 2}, {0, 1}),
            ({"top_p": 0.5}, {0}),
            ({"top_p": 0.75}, {0, 1}),
            ({"min_p": 0.2}, {0, 1, 2}),
            ({"min_p": 0.2, "top_k": 2}, {0, 1}),
            ({"top_p": 1e-9}, {0}),
        ],
        ids=str,
    )
    def test_a_filter_leaves_the_most_likely(self, fields: dict[str, Any], allowed: set[int]) -> None:
        assert set(drawn(300, seed=3, **fields)) == allowed

    def test_the_temperature_comes_before_the_filters(self) -> None:
        assert set(drawn(300, seed=3, temperature=2.0, min_p=0.4)) == {0, 1, 2}

    def test_a_draw_depends_on_seed_and_position_alone(self) -> None:
        logprobs = array([LOGITS])

        def draws(seed: int) -> list[int]:
            made = chooser(seed=seed)
            return [int(made(logprobs).item()) for _ in range(40)]

        assert draws(1) == draws(1)
        # Seeds of one request follow one another; their draws must not be shifted copies.
        assert draws(1)[1:] != draws(2)[:-1]
        assert draws(1) != draws(2)

    @given(st.integers(-(2**63), 2**64), st.integers(0, 10_000))
    def test_mixed_seeds_are_64_bits_and_differ(self, seed: int, position: int) -> None:
        from workers.sampling import mixed

        assert 0 <= mixed(seed, position) < 2**64
        assert mixed(seed, position) != mixed(seed, position + 1) != mixed(seed + 1, position)


class TestAdjustments:
    def steps(self, tokens: list[int], prompt: list[int], **fields: Any) -> list[float]:
        """The logits after *tokens* were chosen one after another."""
        made = chooser(prompt, **fields)
        logits = made.adjust(array([9]), array([LOGITS]))
        for end in range(1, len(tokens) + 1):
            logits = made.adjust(array([9, *tokens[:end]]), array([LOGITS]))
        values: list[float] = logits[0].tolist()
        return values

    def test_ids_that_the_tokenizer_does_not_know_are_never_chosen(self) -> None:
        made = chooser(vocabulary=3)
        logits = made.adjust(array([9]), array([[0.0, 0.0, 0.0, 50.0, 50.0]]))
        assert logits[0].tolist()[3:] == [-math.inf, -math.inf]

    def test_presence_counts_once_and_frequency_each_time(self) -> None:
        once = self.steps([0, 0, 1], [3], presence_penalty=0.5)
        each = self.steps([0, 0, 1], [3], frequency_penalty=0.5)
        assert once == [1.5, 0.5, 0.5, 0.0, -1.0]
        assert each == [1.0, 0.5, 0.5, 0.0, -1.0]

    def test_a_repetition_penalty_counts_the_prompt_and_makes_both_signs_less_likely(self) -> None:
        assert self.steps([4], [1], repetition_penalty=2.0) == [2.0, 0.5, 0.5, 0.0, -2.0]

    def test_without_penalties_nothing_changes(self) -> None:
        assert self.steps([0, 1], [2]) == LOGITS

    def test_the_first_token_of_an_answer_is_not_penalised_for_the_prompt(self) -> None:
        assert self.steps([], [0], presence_penalty=2.0, frequency_penalty=2.0) == LOGITS
