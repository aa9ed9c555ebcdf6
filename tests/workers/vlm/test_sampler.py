"""How tokens are chosen, against the same in plain Python; a row beside others as alone."""

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


def chooser(prompt: list[int] | None = None, **fields: Any) -> Any:
    from workers.vlm.sampler import Chooser

    own = {key: fields.pop(key) for key in ("bias", "matcher", "logprobs", "top") if key in fields}
    return Chooser(Sampling(**fields), prompt or [], **own)


def array(values: Any) -> Any:
    import mlx.core as mx  # noqa: TID251 - what the engine hands over

    return mx.array(values)


def choose(rows: list[Any], logits: list[list[float]], vocabulary: int = 99) -> list[int]:
    """The next token of each row."""
    from workers.vlm.sampler import RowSampler

    sampler = RowSampler(vocabulary)
    sampler.rows, sampler.logits = rows, array(logits)
    return [int(token) for token in sampler(sampler.logits)]


def draws(n: int, logits: list[float] = LOGITS, **fields: Any) -> list[int]:
    made = chooser(**fields)
    return [choose([made], [logits])[0] for _ in range(n)]


def drawn(n: int = 1500, logits: list[float] = LOGITS, **fields: Any) -> Counter[int]:
    """How often each token is drawn at the first *n* positions: rows of one batch, a position each."""
    rows = []
    for position in range(n):
        rows.append(chooser(**fields))
        rows[-1].position = position
    return Counter(choose(rows, [logits] * n))


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
        assert draws(40, seed=1) == draws(40, seed=1)
        # Seeds of one request follow one another; their draws must not be shifted copies.
        assert draws(40, seed=1)[1:] != draws(40, seed=2)[:-1]
        assert draws(40, seed=1) != draws(40, seed=2)

    @given(st.integers(-(2**63), 2**64), st.integers(0, 10_000))
    def test_mixed_seeds_are_64_bits_and_differ(self, seed: int, position: int) -> None:
        from workers.vlm.sampler import key_of, mixed

        assert 0 <= mixed(seed, position) < 2**64
        assert mixed(seed, position) != mixed(seed, position + 1) != mixed(seed + 1, position)
        high, low = key_of(seed, position)
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

    def test_a_row_draws_beside_any_others_what_it_draws_alone(self, subtests: pytest.Subtests) -> None:
        for number in seeds(8, 40):
            with subtests.test(number=number):
                draw = random.Random(number)
                steps, size = 8, 40
                picked = [draw.randrange(len(self.STYLES)) for _ in range(draw.randint(2, 9))]
                styles = [{**self.STYLES[i], "seed": draw.randrange(5)} for i in picked]
                logits = [
                    [[draw.gauss(0, 2) for _ in range(size)] for _ in styles] for _ in range(steps)
                ]
                together = [chooser([1, 2], **style) for style in styles]
                got = [choose(together, step, 37) for step in logits]
                for row, style in enumerate(styles):
                    single = chooser([1, 2], **style)
                    assert [choose([single], [step[row]], 37)[0] for step in logits] == [
                        step[row] for step in got
                    ]

    def test_a_fault_of_one_row_is_kept_in_that_row(self) -> None:
        class Broken:
            finished = False

            def mask(self) -> Any:
                raise ZeroDivisionError

            def accept(self, token: int) -> None: ...

        rows = [chooser(temperature=0), chooser(temperature=0, matcher=Broken())]
        assert choose(rows, [LOGITS, LOGITS])[0] == 0
        assert rows[0].fault is None
        assert isinstance(rows[1].fault, ZeroDivisionError)

    def test_rows_and_logits_must_be_as_many(self) -> None:
        with pytest.raises(RuntimeError, match="2 requests for 1 rows"):
            choose([chooser(), chooser()], [LOGITS])

    def test_answers_of_one_job_have_seeds_one_after_another(self) -> None:
        from workers.vlm.sampler import chooser_for

        job = ChatJob((Turn("user", ("hi",)),), Sampling(seed=7, top_k=3), 5, n=2)
        assert [chooser_for(job, index, [1]).sampling for index in range(2)] == [
            Sampling(seed=7, top_k=3),
            Sampling(seed=8, top_k=3),
        ]


class TestAdjustments:
    def steps(self, tokens: list[int], prompt: list[int], **fields: Any) -> list[float]:
        """The logits after *tokens* were chosen one after another."""
        made = chooser(prompt, **fields)
        logits = made.adjusted(array(LOGITS))
        for token in tokens:
            made.last = array(token)
            logits = made.adjusted(array(LOGITS))
        values: list[float] = logits.tolist()
        return values

    def test_ids_that_the_tokenizer_does_not_know_are_never_chosen(self) -> None:
        assert choose([chooser(temperature=0)], [[0.0, 1.0, 0.0, 50.0, 50.0]], vocabulary=3) == [1]
        assert set(choose([chooser(seed=i) for i in range(50)], [[0.0, 0.0, 9.0]] * 50, 2)) == {0, 1}

    def test_presence_counts_once_and_frequency_each_time(self) -> None:
        once = self.steps([0, 0, 1], [3], presence_penalty=0.5)
        each = self.steps([0, 0, 1], [3], frequency_penalty=0.5)
        assert once == [1.5, 0.5, 0.5, 0.0, -1.0]
        assert each == [1.0, 0.5, 0.5, 0.0, -1.0]

    def test_a_repetition_penalty_counts_the_prompt_and_makes_both_signs_less_likely(self) -> None:
        assert self.steps([4], [1], repetition_penalty=2.0) == [2.0, 0.5, 0.5, 0.0, -2.0]

    def test_without_penalties_nothing_changes(self) -> None:
        assert not chooser([2]).adjusts
        assert self.steps([0, 1], [2]) == LOGITS

    def test_the_first_token_of_an_answer_is_not_penalised_for_the_prompt(self) -> None:
        assert self.steps([], [0], presence_penalty=2.0, frequency_penalty=2.0) == LOGITS

    def test_bias_is_added_and_unknown_ids_are_passed_over(self) -> None:
        biased = self.steps([1], [], bias=((0, -100.0), (3, 1.5), (77, 5.0), (-1, 5.0)))
        assert biased == [-98.0, 1.0, 0.5, 1.5, -1.0]

    def test_a_grammar_is_told_each_token_once_and_in_order(self) -> None:
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
        made = chooser(temperature=3.0, seed=1, matcher=matcher)
        tokens = [choose([made], [LOGITS])[0] for _ in range(30)]
        assert set(tokens) == {0, 2, 4}
        assert matcher.accepted == tokens[:-1]


class TestLogprobs:
    def test_they_are_the_models_own_and_come_in_order(self) -> None:
        made = chooser(temperature=0, logprobs=True, top=2, bias=((3, 100.0),))
        plain = [math.log(p) for p in softmax(LOGITS)]
        other = [0.0, 0.0, 5.0, 0.0, 0.0]
        assert [choose([made], [logits])[0] for logits in (LOGITS, other)] == [3, 3]
        first, second = made.told(), made.told()
        assert first.logprob == pytest.approx(plain[3], abs=1e-5)
        assert [token for token, _ in first.top] == [0, 1]
        assert [value for _, value in first.top] == pytest.approx(plain[:2], abs=1e-5)
        assert second.top[0][0] == 2
        assert made.told() is None

    def test_who_asks_for_none_has_none(self) -> None:
        made = chooser()
        choose([made], [LOGITS])
        assert made.told() is None
