"""Forms, log-probabilities and Moondream2 in a batch: as alone, on the demo checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.workers.conftest import Talker, talk
from tests.workers.vlm.batches import (
    CAPTION,
    CIRCLE,
    KOREAN,
    STAR,
    Arrival,
    alone,
    answers,
    forget,
    job_of,
    logprobs,
    play,
    user,
)
from workers.engine import Answered, ChatJob
from workers.serving.answers import text_of

pytestmark = pytest.mark.mlx


class TestGrammar:
    def constrained(self, **fields: Any) -> ChatJob:
        from workers.vlm.grammar import Form, of_schema

        schema = {
            "type": "object",
            "properties": {"color": {"enum": ["red", "blue"]}, "count": {"enum": [1, 2]}},
            "required": ["color", "count"],
            "additionalProperties": False,
        }
        job = talk([user(CIRCLE, CAPTION)], **{"max_tokens": 40, **fields})
        return replace(job, grammar=of_schema(Form(schema, "x")))

    def test_an_answer_keeps_to_its_schema_beside_free_ones(self, qwen: Talker) -> None:
        jobs = [self.constrained(), talk([user(STAR, CAPTION)]), self.constrained(temperature=2.0)]
        expected = [alone(qwen, job) for job in jobs]
        for stagger in (0, 3):
            arrivals = [Arrival(job, stagger * i) for i, job in enumerate(jobs)]
            listeners = play(qwen, arrivals)
            assert [answers(one.events) for one in listeners] == [answers(e) for e in expected]
            for listener in (listeners[0], listeners[2]):
                assert set(json.loads(text_of(listener.events))) == {"color", "count"}
                assert listener.events[-1].finish_reason == "stop"

    def test_new_requests_begin_while_a_constrained_answer_is_drawn(self, qwen: Talker) -> None:
        forget(qwen)
        first, second = play(
            qwen, [Arrival(self.constrained()), Arrival(talk([user("Hello")], max_tokens=2), 3)]
        )
        assert first.ended
        assert second.ended

    def test_answers_of_one_request_keep_to_it_each_by_itself(self, qwen: Talker) -> None:
        job = self.constrained(n=3, temperature=2.0, seed=1)
        (listener,) = play(qwen, [Arrival(job)])
        for index in range(3):
            assert json.loads(text_of(listener.events, index))


class TestLogprobs:
    def test_each_token_has_its_own_and_the_likeliest(self, qwen: Talker) -> None:
        job = job_of([user(CIRCLE, CAPTION)], logprobs=True, top_logprobs=4)
        events = alone(qwen, job)
        told = logprobs(events)
        assert b"".join(entry.data for entry in told).decode() == text_of(events)
        for entry in told:
            assert len(entry.top) == 4
            assert entry.top[0].token_id == entry.token_id  # greedy
            assert entry.top[0].logprob == pytest.approx(entry.logprob)
            values = [one.logprob for one in entry.top]
            assert values == sorted(values, reverse=True)
            assert entry.logprob <= 0

    def test_bytes_of_half_characters_make_the_text_together(self, qwen: Talker) -> None:
        job = job_of([user(CIRCLE, KOREAN)], logprobs=True, max_tokens=40)
        events = alone(qwen, job)
        assert b"".join(entry.data for entry in logprobs(events)).decode() == text_of(events)

    def test_they_are_the_models_own_whatever_is_done_to_the_draw(self, qwen: Talker) -> None:
        plain = logprobs(alone(qwen, job_of([user(CIRCLE, CAPTION)], logprobs=True)))
        job = job_of([user(CIRCLE, CAPTION)], logprobs=True, temperature=0.01, frequency_penalty=0.1)
        changed = logprobs(alone(qwen, job))
        for one, other in zip(plain[:5], changed[:5], strict=True):
            assert other.logprob == pytest.approx(one.logprob, abs=1e-3)

    def test_tokens_of_a_stop_string_are_not_told(self, qwen: Talker) -> None:
        job = job_of([user(CIRCLE, CAPTION)], logprobs=True, stops=(" on",))
        events = alone(qwen, job)
        told = b"".join(entry.data for entry in logprobs(events)).decode()
        assert told == text_of(events) == "a red circle"


class TestMoondream:
    """Few answers: a picture takes a second."""

    def test_prompts_of_unequal_length_decode_together_and_each_gets_its_own(
        self, moondream: Talker
    ) -> None:
        jobs = [
            talk([user(STAR, "What color is the background?")], max_tokens=9),
            talk([user("Hello")], max_tokens=6),
            talk([user(CIRCLE, CAPTION)], temperature=2.0, seed=3, max_tokens=6),
        ]
        expected = [alone(moondream, job) for job in jobs]
        for stagger in (0, 2):
            listeners = play(moondream, [Arrival(job, stagger * i) for i, job in enumerate(jobs)])
            assert [answers(one.events) for one in listeners] == [answers(e) for e in expected]
        assert "yellow" in text_of(expected[0])

    def test_another_image_hits_nothing_and_the_same_is_known(self, moondream: Talker) -> None:
        forget(moondream)
        cached = []
        for image in (CIRCLE, STAR, CIRCLE):
            events = moondream.events(talk([user(image, CAPTION)], max_tokens=1))
            cached.append(next(e.cached_tokens for e in events if isinstance(e, Answered)))
        assert cached[:2] == [0, 0]
        assert cached[2] > 730
