"""Sampling, compared with plain Python, and a row in a batch compared with the row alone."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testkit.seeds import seeds
from workers.engine import ChatJob, Sampling, Turn

pytestmark = pytest.mark.mlx

LOGITS = [2.0, 1.0, 0.5, 0.0, -1.0]


def state_of(prompt: list[int] | None = None, **fields: Any) -> Any:
    from workers.vlm.sampler import SamplerState

    own = {key: fields.pop(key) for key in ("bias", "matcher", "logprobs", "top") if key in fields}
    return SamplerState(Sampling(**fields), prompt or [], **own)


def array(values: Any) -> Any:
    import mlx.core as mx  # noqa: TID251 - what the engine passes

    return mx.array(values)


def sample(rows: list[Any], logits: list[list[float]], vocabulary: int = 99) -> list[int]:
    """The next token of each row."""
    from workers.vlm.sampler import RowSampler

    sampler = RowSampler(vocabulary)
    sampler.rows, sampler.logits = rows, array(logits)
    return [int(token) for token in sampler(sampler.logits)]


def samples(n: int, logits: list[float] = LOGITS, **fields: Any) -> list[int]:
    state = state_of(**fields)
    return [sample([state], [logits])[0] for _ in range(n)]


def counts_of(n: int = 1500, logits: list[float] = LOGITS, **fields: Any) -> Counter[int]:
    """How often each token is sampled at the first *n* positions, one per row of a batch."""
    rows = []
    for position in range(n):
        rows.append(state_of(**fields))
        rows[-1].position = position
    return Counter(sample(rows, [logits] * n))


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(value / temperature) for value in logits]
    return [weight / sum(weights) for weight in weights]


class TestSampling:
    def test_temperature_0_is_greedy(self) -> None:
        assert counts_of(5, temperature=0) == {0: 5}

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    def test_tokens_are_sampled_as_often_as_they_are_likely(self, temperature: float) -> None:
        counts = counts_of(temperature=temperature, seed=11)
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
    def test_filters_leave_the_likeliest(self, fields: dict[str, Any], allowed: set[int]) -> None:
        assert set(counts_of(300, seed=3, **fields)) == allowed

    def test_temperature_applies_before_the_filters(self) -> None:
        assert set(counts_of(300, seed=3, temperature=2.0, min_p=0.4)) == {0, 1, 2}

    def test_a_token_depends_on_seed_and_position_only(self) -> None:
        assert samples(40, seed=1) == samples(40, seed=1)
        # Seeds of one request are consecutive; their samples must not be shifted copies.
        assert samples(40, seed=1)[1:] != samples(40, seed=2)[:-1]
        assert samples(40, seed=1) != samples(40, seed=2)

    @given(st.integers(-(2**63), 2**64), st.integers(0, 10_000))
    def test_mixed_seeds_are_64_bits_and_differ(self, seed: int, position: int) -> None:
        from workers.vlm.sampler import mixed, random_key

        assert 0 <= mixed(seed, position) < 2**64
        assert mixed(seed, position) != mixed(seed, position + 1) != mixed(seed + 1, position)
        high, low = random_key(seed, position)
        assert (high << 32) + low == mixed(seed, position)


class TestRows:
    STYLES: tuple[dict[str, Any], ...] = (
        {"temperature": 0},
        {"temperature": 1.0},
        {"temperature": 2.0, "top_k": 7},
        {"temperature": 0.7, "top_p": 0.8},
        {"temperature": 1.5, "min_p": 0.1},
        {"temperature": 1.0, "top_p": 0.9, "top_k": 5, "min_p": 0.05},
        {"temperature": 1.0, "repetition_penalty": 1.4, "presence_penalty": 0.5},
        {"temperature": 0, "frequency_penalty": 1.5},
        {"temperature": 1.0, "bias": ((2, 3.0), (900, 1.0))},
    )

    def test_a_row_in_any_batch_samples_what_it_samples_alone(self, subtests: pytest.Subtests) -> None:
        for number in seeds(8, 40):
            with subtests.test(number=number):
                rng = random.Random(number)
                steps, size = 8, 40
                picked = [rng.randrange(len(self.STYLES)) for _ in range(rng.randint(2, 9))]
                styles = [{**self.STYLES[i], "seed": rng.randrange(5)} for i in picked]
                logits = [
                    [[rng.gauss(0, 2) for _ in range(size)] for _ in styles] for _ in range(steps)
                ]
                together = [state_of([1, 2], **style) for style in styles]
                got = [sample(together, step, 37) for step in logits]
                for row, style in enumerate(styles):
                    single = state_of([1, 2], **style)
                    assert [sample([single], [step[row]], 37)[0] for step in logits] == [
                        step[row] for step in got
                    ]

    def test_an_exception_is_stored_in_its_own_row(self) -> None:
        class Broken:
            finished = False

            def mask(self) -> Any:
                raise ZeroDivisionError

            def accept(self, token: int) -> None: ...

        rows = [state_of(temperature=0), state_of(temperature=0, matcher=Broken())]
        assert sample(rows, [LOGITS, LOGITS])[0] == 0
        assert rows[0].fault is None
        assert isinstance(rows[1].fault, ZeroDivisionError)

    def test_the_number_of_rows_and_logits_must_match(self) -> None:
        with pytest.raises(RuntimeError, match="2 sequences for 1 rows"):
            sample([state_of(), state_of()], [LOGITS])

    def test_the_completions_of_one_job_have_consecutive_seeds(self) -> None:
        from workers.vlm.sampler import SamplerState

        job = ChatJob((Turn("user", ("hi",)),), Sampling(seed=7, top_k=3), 5, n=2)
        assert [SamplerState.of(job, index, [1]).sampling for index in range(2)] == [
            Sampling(seed=7, top_k=3),
            Sampling(seed=8, top_k=3),
        ]


class TestAdjustments:
    def steps(self, tokens: list[int], prompt: list[int], **fields: Any) -> list[float]:
        """The adjusted logits after *tokens* were sampled one after another."""
        state = state_of(prompt, **fields)
        logits = state.adjusted(array(LOGITS))
        for token in tokens:
            state.last = array(token)
            logits = state.adjusted(array(LOGITS))
        values: list[float] = logits.tolist()
        return values

    def test_ids_beyond_the_vocabulary_are_never_sampled(self) -> None:
        assert sample([state_of(temperature=0)], [[0.0, 1.0, 0.0, 50.0, 50.0]], vocabulary=3) == [1]
        assert set(sample([state_of(seed=i) for i in range(50)], [[0.0, 0.0, 9.0]] * 50, 2)) == {
            0,
            1,
        }

    def test_presence_penalty_applies_once_and_frequency_penalty_each_time(self) -> None:
        once = self.steps([0, 0, 1], [3], presence_penalty=0.5)
        each = self.steps([0, 0, 1], [3], frequency_penalty=0.5)
        assert once == [1.5, 0.5, 0.5, 0.0, -1.0]
        assert each == [1.0, 0.5, 0.5, 0.0, -1.0]

    def test_repetition_penalty_counts_the_prompt_and_lowers_logits_of_both_signs(self) -> None:
        assert self.steps([4], [1], repetition_penalty=2.0) == [2.0, 0.5, 0.5, 0.0, -2.0]

    def test_without_penalties_nothing_changes(self) -> None:
        assert not state_of([2]).adjusts
        assert self.steps([0, 1], [2]) == LOGITS

    def test_presence_and_frequency_penalties_ignore_the_prompt(self) -> None:
        assert self.steps([], [0], presence_penalty=2.0, frequency_penalty=2.0) == LOGITS

    def test_bias_is_added_and_unknown_ids_are_ignored(self) -> None:
        biased = self.steps([1], [], bias=((0, -100.0), (3, 1.5), (77, 5.0), (-1, 5.0)))
        assert biased == [-98.0, 1.0, 0.5, 1.5, -1.0]

    def test_a_grammar_gets_each_token_once_and_in_order(self) -> None:
        class Even:
            finished = False

            def __init__(self) -> None:
                self.accepted: list[int] = []

            def mask(self) -> Any:
                import numpy as np

                return np.array([True, False] * 3)

            def accept(self, token: int) -> None:
                self.accepted.append(token)

        matcher = Even()
        state = state_of(temperature=3.0, seed=1, matcher=matcher)
        tokens = [sample([state], [LOGITS])[0] for _ in range(30)]
        assert set(tokens) == {0, 2, 4}
        assert matcher.accepted == tokens[:-1]


class TestLogprobs:
    def test_they_are_the_models_own_and_in_order(self) -> None:
        state = state_of(temperature=0, logprobs=True, top=2, bias=((3, 100.0),))
        plain = [math.log(p) for p in softmax(LOGITS)]
        other = [0.0, 0.0, 5.0, 0.0, 0.0]
        assert [sample([state], [logits])[0] for logits in (LOGITS, other)] == [3, 3]
        first, second = state.pop_logprobs(), state.pop_logprobs()
        assert first.logprob == pytest.approx(plain[3], abs=1e-5)
        assert [token for token, _ in first.top] == [0, 1]
        assert [value for _, value in first.top] == pytest.approx(plain[:2], abs=1e-5)
        assert second.top[0][0] == 2
        assert state.pop_logprobs() is None

    def test_without_being_requested_there_are_none(self) -> None:
        state = state_of()
        sample([state], [LOGITS])
        assert state.pop_logprobs() is None
