"""Grammars, log-probabilities and Moondream2 in a batch: the same results as alone, on the demo
checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.workers.conftest import Talker, ends, talk
from tests.workers.vlm.batches import (
    CAPTION,
    CIRCLE,
    COLOR,
    KOREAN,
    STAR,
    Arrival,
    alone,
    clear_caches,
    completions,
    job_of,
    logprobs,
    play,
    user,
)
from workers.engine import ChatJob
from workers.vlm.completions import text_of

pytestmark = pytest.mark.mlx


def constrained(**fields: Any) -> ChatJob:
    from workers.vlm.grammar import Form, of_schema

    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}, "count": {"enum": [1, 2]}},
        "required": ["color", "count"],
        "additionalProperties": False,
    }
    job = talk([user(CIRCLE, CAPTION)], **{"max_tokens": 40, **fields})
    return replace(job, grammar=of_schema(Form(schema, "x")))


def test_a_completion_matches_its_schema_next_to_free_ones(qwen: Talker) -> None:
    jobs = [constrained(), talk([user(STAR, CAPTION)]), constrained(temperature=2.0)]
    expected = [alone(qwen, job) for job in jobs]
    for stagger in (0, 3):
        listeners = play(qwen, [Arrival(job, stagger * i) for i, job in enumerate(jobs)])
        assert [completions(one.events) for one in listeners] == [completions(e) for e in expected]
        for listener in (listeners[0], listeners[2]):
            assert set(json.loads(text_of(listener.events))) == {"color", "count"}
            assert listener.events[-1].finish_reason == "stop"


class TestLogprobs:
    def test_each_token_has_its_own_and_the_most_likely_ones(self, qwen: Talker) -> None:
        job = job_of([user(CIRCLE, CAPTION)], logprobs=True, top_logprobs=4)
        events = alone(qwen, job)
        entries = logprobs(events)
        assert b"".join(entry.data for entry in entries).decode() == text_of(events)
        for entry in entries:
            assert len(entry.top) == 4
            assert entry.top[0].token_id == entry.token_id  # greedy
            assert entry.top[0].logprob == pytest.approx(entry.logprob)
            values = [one.logprob for one in entry.top]
            assert values == sorted(values, reverse=True)
            assert entry.logprob <= 0

    def test_the_bytes_of_split_characters_add_up_to_the_text(self, qwen: Talker) -> None:
        job = job_of([user(CIRCLE, KOREAN)], logprobs=True, max_tokens=40)
        events = alone(qwen, job)
        assert b"".join(entry.data for entry in logprobs(events)).decode() == text_of(events)

    def test_they_are_the_models_own_whatever_the_sampling_parameters(self, qwen: Talker) -> None:
        plain = logprobs(alone(qwen, job_of([user(CIRCLE, CAPTION)], logprobs=True)))
        job = job_of([user(CIRCLE, CAPTION)], logprobs=True, temperature=0.01, frequency_penalty=0.1)
        changed = logprobs(alone(qwen, job))
        for one, other in zip(plain[:5], changed[:5], strict=True):
            assert other.logprob == pytest.approx(one.logprob, abs=1e-3)

    def test_tokens_of_a_stop_string_are_left_out(self, qwen: Talker) -> None:
        job = job_of([user(CIRCLE, CAPTION)], logprobs=True, stops=(" on",))
        events = alone(qwen, job)
        data = b"".join(entry.data for entry in logprobs(events)).decode()
        assert data == text_of(events) == "a red circle"


class TestMoondream:
    """Few completions: an image takes a second."""

    def test_prompts_of_unequal_length_decode_together_as_alone(self, moondream: Talker) -> None:
        jobs = [
            talk([user(STAR, COLOR)], max_tokens=9),
            talk([user("Hello")], max_tokens=6),
            talk([user(CIRCLE, CAPTION)], temperature=2.0, seed=3, max_tokens=6),
        ]
        expected = [alone(moondream, job) for job in jobs]
        for stagger in (0, 2):
            listeners = play(moondream, [Arrival(job, stagger * i) for i, job in enumerate(jobs)])
            assert [completions(one.events) for one in listeners] == [
                completions(events) for events in expected
            ]
        assert "yellow" in text_of(expected[0])

    def test_only_the_same_image_hits_the_prefix_cache(self, moondream: Talker) -> None:
        clear_caches(moondream)
        cached = []
        for image in (CIRCLE, STAR, CIRCLE):
            events = moondream.events(talk([user(image, CAPTION)], max_tokens=1))
            cached.append(ends(events)[0].cached_tokens)
        assert cached[:2] == [0, 0]
        assert cached[2] > 730
